// The server itself: its configuration, what is wrong with its machine, its starts, copies and
// log, who is signed in.

import { actions, ask, button, bytes, duration, element, facts, fieldOf, may, pager, section, table, tag, time, toast } from './ui.js';
import { call, get, Live, path, query } from './api.js';

const LINES = 500; // of the log that are shown

export async function server(root, { signal }) {
  const status = await get('/status', signal);
  const { settings } = await get('/configuration', signal);
  const checks = element('div', { id: 'checks' }, element('p', { className: 'quiet', role: 'status' }, 'Looking at the machine …'));
  const sessions = element('div', { id: 'sessions' });
  const own = element('label', { className: 'check' }, element('input', { type: 'checkbox', checked: true }), 'Only what differs from the default');
  const configuration = element('div', { id: 'configuration' });

  function showSettings() {
    const some = own.firstElementChild.checked;
    configuration.replaceChildren(table('Configuration in force', [
      { head: 'Key', cell: (one) => element('code', {}, one.key) },
      { head: 'Value', kind: 'wide', cell: (one) => element('code', {}, one.value) },
      { head: 'Meaning', kind: 'wide', cell: (one) => one.doc.replaceAll('`', '') },
    ], settings.filter((one) => one.set || !some), 'All is as it is by default.'));
  }
  own.firstElementChild.addEventListener('change', showSettings);

  async function look() {
    const found = await get('/status/check', signal);
    checks.replaceChildren(table('Check list', [
      { head: 'What', cell: (one) => one.what },
      { head: 'State', cell: (one) => tag(one.state, one.state) },
      { head: 'Found', kind: 'wide', cell: (one) => one.found },
      { head: 'To do', kind: 'wide', cell: (one) => one.do ?? '' },
    ], found.checks, 'There is nothing to look at.'));
  }

  async function showSessions() {
    const list = await get('/admin/sessions', signal);
    sessions.replaceChildren(table('Signed in', [
      { head: 'Since', cell: (one) => time(one.created_at) },
      { head: 'Role', cell: (one) => [tag(one.role), one.current ? tag('this one', 'ok') : ''] },
      { head: 'With', cell: (one) => one.with },
      { head: 'Last used', cell: (one) => time(one.used_at) },
      { head: 'Address', cell: (one) => one.address },
      { head: 'Browser', kind: 'wide', cell: (one) => one.agent },
      { head: 'Actions', cell: (one) => (one.current ? '' : button('End', async () => {
        await call('DELETE', `/admin/sessions${path(one.id)}`);
        await showSessions();
      }, { kind: 'bad', name: one.id })) },
    ], list.sessions, 'Nobody is.'));
  }

  async function makeLink() {
    const answer = await ask({
      title: 'A link to sign in', confirm: 'Make it',
      fields: [
        { name: 'role', label: 'Role', options: [['look', 'Look only'], ['moderate', 'Moderate: rooms and people'], ['all', 'All']], value: 'look' },
        { name: 'ttl', label: 'Can be used for', options: [['600', '10 minutes'], ['3600', 'An hour']], value: '600' },
      ],
    });
    if (!answer) return;
    const made = await call('POST', '/admin/links', { role: answer.role, ttl: Number(answer.ttl) });
    await ask({ title: 'The link', confirm: 'Done', fields: [{ name: 'link', label: 'It signs in once', type: 'textarea', value: new URL(made.path, location.href).href }] });
  }

  const starts = element('div', { id: 'starts' });
  const startPages = pager(async (cursor) => {
    const page = await get(`/starts${query({ limit: 10, cursor })}`, signal);
    const states = { running: ['runs', 'ok'], stopped: ['stopped in order', ''], broken_off: ['broken off', 'warning'] };
    starts.replaceChildren(table('Starts', [
      { head: 'Started', cell: (one) => time(one.at) },
      { head: 'Version', cell: (one) => one.version },
      { head: 'Served after', kind: 'num', cell: (one) => `${one.ready_seconds.toFixed(2)} s` },
      { head: 'State', cell: (one) => tag(...states[one.state]) },
      { head: 'Stopped', cell: (one) => (one.stopped_at ? [time(one.stopped_at), `, which took ${one.stop_seconds.toFixed(2)} s`] : '') },
    ], page.starts, 'No start was written down yet.'));
    return page.next_cursor;
  });

  const backups = element('div', { id: 'backups' });
  async function showBackups() {
    const list = await get('/backups', signal);
    backups.replaceChildren(table('Copies of the database', [
      { head: 'Made', cell: (one) => time(one.at) },
      { head: 'Size', kind: 'num', cell: (one) => bytes(one.bytes) },
      { head: 'File on the server', kind: 'wide', cell: (one) => element('code', {}, one.file) },
    ], list.backups, 'None was made from here.'));
  }
  async function backUp() {
    const made = await call('POST', '/backups');
    toast(`The copy is made: ${bytes(made.bytes)}.`);
    await showBackups();
  }

  const generations = element('div', { id: 'generations' });
  async function showGenerations() {
    const list = await get('/replica/generations', signal);
    generations.replaceChildren(table('What the replica has', [
      { head: 'Generation', cell: (one) => String(one.generation) },
      { head: 'Can be restored as of', cell: (one) => (one.from ? [time(one.from), ' to ', time(one.to)] : 'nothing') },
      { head: 'Snapshots', kind: 'num', cell: (one) => String(one.snapshots.length) },
      { head: 'Newest snapshot', cell: (one) => time(one.snapshots.at(-1)) },
      { head: 'Files', kind: 'num', cell: (one) => String(one.files) },
      { head: 'Size', kind: 'num', cell: (one) => bytes(one.bytes) },
    ], list.generations, 'It has nothing yet.'));
  }

  const log = tail();
  showSettings();
  root.append(
    element('header', {}, element('h1', {}, 'Server')),
    element('div', { className: 'card' }, facts([
      ['Version', status.version], ['Started', time(status.started_at)], ['Up for', duration(status.uptime_seconds)],
      ['Database', status.database ? `${status.database.commits} commits, ${status.database.commit_mean_ms.toFixed(1)} ms in the mean, 99 of 100 within ${status.database.commit_p99_ms} ms` : ''],
      ['Replica', status.replication ? `lease ${status.replication.state}, epoch ${status.replication.epoch}, ${status.replication.lag_seconds.toFixed(1)} s behind, ${status.replication.failures} failures` : 'none'],
      ['Rooms kept', status.rooms.ended === null ? '' : `${status.rooms.ended} ended`],
    ])),
    element('section', {}, element('div', { className: 'head' }, element('h2', {}, 'Check list'), actions(button('Look again', look))), checks),
    section('Starts', starts, startPages.node),
    element('section', {}, element('div', { className: 'head' }, element('h2', {}, 'Copies of the database'), actions(button('Back up now', backUp, { least: 'all' }))), backups),
    ...(status.replication ? [element('section', {}, element('div', { className: 'head' }, element('h2', {}, 'Replica'),
      actions(button('List what it has', showGenerations))), generations)] : []),
    ...(may('all') ? [log.node] : []),
    element('section', {}, element('div', { className: 'head' }, element('h2', {}, 'Configuration'), own), configuration),
    ...(may('all') ? [element('section', {}, element('div', { className: 'head' }, element('h2', {}, 'Signed in'), actions(button('Make a link', makeLink))), sessions)] : []),
  );
  look().catch((error) => {
    if (error.name !== 'AbortError') toast(error.message, true);
  });
  await Promise.all([startPages.first(), showBackups(), ...(may('all') ? [showSessions()] : [])]);
  if (may('all')) log.watch();
  return { close: log.end };
}

// tail is the log as it grows.
function tail() {
  const level = fieldOf({ name: 'level', label: 'At least', options: [['debug', 'debug'], ['info', 'info'], ['warn', 'warn'], ['error', 'error']], value: 'info' });
  const select = level.querySelector('select');
  const list = element('ol', { className: 'events list lines', id: 'lines', tabIndex: 0, 'aria-label': 'Log, the newest first' });
  const state = element('span', { className: 'quiet small', role: 'status' });
  const states = { warn: 'warning', error: 'failed' };
  const live = new Live({
    at: '/log', begin: '',
    take(name, line) {
      if (name !== 'line') return;
      list.prepend(element('li', {}, time(line.at, { short: true }), tag(line.level, states[line.level] ?? ''),
        element('span', { className: 'of' }, element('strong', {}, line.message), ' ', element('span', { className: 'mono small' }, line.attrs))));
      while (list.childElementCount > LINES) list.lastElementChild.remove();
    },
    state(now) {
      state.textContent = now === 'lost' ? 'The connection is lost, trying again …' : '';
    },
  });
  const watch = () => {
    list.replaceChildren();
    live.watch({ level: select.value });
  };
  select.addEventListener('change', watch);
  const node = element('section', {}, element('div', { className: 'head' }, element('h2', {}, 'Log'), state), element('div', { className: 'toolbar' }, level), list);
  return { node, watch, end: () => live.end() };
}
