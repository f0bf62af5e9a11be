// The server itself: its configuration, what is wrong with its machine, who is signed in.

import { actions, ask, button, duration, element, facts, may, section, table, tag, time, toast } from './ui.js';
import { call, get, path } from './api.js';

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
    element('section', {}, element('div', { className: 'head' }, element('h2', {}, 'Configuration'), own), configuration),
    ...(may('all') ? [element('section', {}, element('div', { className: 'head' }, element('h2', {}, 'Signed in'), actions(button('Make a link', makeLink))), sessions)] : []),
  );
  look().catch((error) => {
    if (error.name !== 'AbortError') toast(error.message, true);
  });
  if (may('all')) await showSessions();
  return {};
}
