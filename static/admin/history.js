// Rooms that have ended, and who was in them.

import { actions, bytes, duration, element, eventItem, exports, facts, fieldOf, pager, percent, rate, section, table, time, toast } from './ui.js';
import { get, pages as gather, path, query } from './api.js';
import { bars } from './chart.js';
import { newestOf } from './room.js';

const PAGE = 50;
const MOST = 10_000; // rooms, sessions or hours in a file
const DAY = 86_400_000; // ms

export async function ended(root, { signal }) {
  const form = element('form', { className: 'toolbar', role: 'search' },
    fieldOf({ name: 'name_prefix', label: 'Name begins with', type: 'search' }),
    fieldOf({ name: 'from', label: 'Created from', type: 'date' }),
    fieldOf({ name: 'to', label: 'Created before', type: 'date' }),
    fieldOf({ name: 'order', label: 'Order', options: [['descending', 'Newest first'], ['ascending', 'Oldest first']], value: 'descending' }),
    element('button', { type: 'submit' }, 'Search'));
  const place = element('div', { id: 'ended' });
  const days = byDay(signal);
  const filter = () => {
    const { from, to, ...rest } = Object.fromEntries(new FormData(form));
    return { state: 'ended', ...rest, created_after: from && new Date(`${from}T00:00`).toISOString(), created_before: to && new Date(`${to}T00:00`).toISOString() };
  };
  const all = pager(async (cursor) => {
    const page = await get(`/rooms${query({ ...filter(), limit: PAGE, cursor })}`, signal);
    place.replaceChildren(table('Ended rooms', [
      { head: 'Name', cell: (room) => element('a', { href: `#/stay/${room.sid}` }, room.name) },
      { head: 'Created', kind: 'tight', cell: (room) => time(room.created_at) },
      { head: 'Ended', kind: 'tight', cell: (room) => time(room.ended_at) },
      { head: 'Open for', kind: 'tight', cell: (room) => duration(room.duration_seconds) },
      { head: 'Why', cell: (room) => room.end_reason.replaceAll('_', ' ') },
      { head: 'Joins', kind: 'num', cell: (room) => String(room.num_joined) },
      { head: 'Peak', kind: 'num', cell: (room) => String(room.peak_participants) },
    ], page.rooms, 'No ended room is like that.'));
    return page.next_cursor;
  });
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    all.first().catch((error) => toast(error.message, true));
  });
  form.elements.namedItem('order').addEventListener('change', () => form.requestSubmit());
  root.append(
    element('header', {}, element('h1', {}, 'History'), actions(...exports('rooms',
      ['sid', 'name', 'created_at', 'ended_at', 'duration_seconds', 'end_reason', 'num_joined', 'peak_participants', 'tags', 'metadata'],
      () => gather('/rooms', filter(), 'rooms', MOST)))),
    days.node, section('Ended rooms', form, place, all.node),
  );
  await Promise.all([all.first(), days.show()]);
  return { close: days.close };
}

// byDay has the figures of each day of UTC.
function byDay(signal) {
  const span = fieldOf({ name: 'days', label: 'Days', options: [['30', '30 days'], ['90', '90 days'], ['400', '400 days']], value: '30' });
  const select = span.querySelector('select');
  const charts = element('div', { className: 'charts', id: 'days' });
  const inWords = element('div', {});
  const whole = (n) => String(Math.round(n * 10) / 10);
  const sum = (values) => values.reduce((all, value) => all + value, 0);
  const most = (values) => Math.max(0, ...values);
  const figures = [
    ['People at a time', 'peak_participants', '--accent', 'At most', most, whole],
    ['Minutes of people', 'participant_minutes', '--accent', 'In all', sum, (n) => String(Math.round(n))],
    ['Joins', 'joins', '--ok', 'In all', sum, whole],
    ['Rooms opened', 'rooms_opened', '--ok', 'In all', sum, whole],
    ['Rooms ended', 'rooms_ended', '--ok', 'In all', sum, whole],
    ['Media in', 'bytes_in', '--ok', 'In all', sum, bytes],
    ['Media out', 'bytes_out', '--accent', 'In all', sum, bytes],
    ['Loss to subscribers', 'loss', '--failed', 'At most', most, (n) => percent(n)],
    ['Quality of connections, of 5', 'quality', '--ok', 'At least', (values) => (values.length ? Math.min(...values) : 0), (n) => n.toFixed(1)],
    ['Refused', 'refused', '--warning', 'In all', sum, whole],
  ];
  const range = () => {
    const today = Math.floor(Date.now() / DAY) * DAY;
    return { today, from: new Date(today - (Number(select.value) - 1) * DAY).toISOString() };
  };
  let drawn = [];
  const close = () => {
    for (const one of drawn) one.close();
    drawn = [];
  };
  async function show() {
    const { today, from } = range();
    const found = await gather('/history/hours', { by: 'day', from }, 'hours', MOST);
    if (signal.aborted) return;
    close();
    const of = new Map(found.map((day) => [+new Date(day.from), day]));
    const all = [];
    for (let at = +new Date(from); at <= today; at += DAY) all.push(of.get(at) ?? { from: new Date(at).toISOString(), loss: null, quality: null });
    drawn = figures.map(([title, key, colour, name, total, format]) => bars(title, { name, colour, sum: total, value: (day) => (key in day ? day[key] : 0) }, format, all));
    charts.replaceChildren(...drawn.map((one) => one.node));
    inWords.replaceChildren(table('Days', [
      { head: 'Day (UTC)', cell: (day) => day.from.slice(0, 10) },
      ...figures.map(([head, key, , , , format]) => ({ head, kind: 'num', cell: (day) => (day[key] === null ? '' : format(day[key])) })),
    ], found.toReversed(), 'Nothing has happened in these days.'));
  }
  select.addEventListener('change', () => show().catch((error) => toast(error.message, true)));
  const node = element('section', {},
    element('div', { className: 'head' }, element('h2', {}, 'By day'), actions(...exports('hours',
      ['from', ...figures.map(([, key]) => key)], () => gather('/history/hours', { from: range().from }, 'hours', MOST)))),
    element('div', { className: 'toolbar' }, span), charts, element('details', {}, element('summary', {}, 'In words'), inWords));
  return { node, show, close };
}

// stay is one room of the history.
export async function stay(root, { of: sid, signal }) {
  const at = `/history${path(sid)}`;
  const info = await get(at, signal);
  const sessions = await gather(`${at}/sessions`, {}, 'sessions', 500);
  const log = await newestOf(sid, signal);
  root.append(
    element('header', {}, element('h1', {}, info.name), actions(...exports(`sessions-${sid}`,
      ['sid', 'identity', 'name', 'kind', 'joined_at', 'active_at', 'left_at', 'reason', 'media'], () => gather(`${at}/sessions`, {}, 'sessions', MOST)))),
    element('div', { className: 'card' }, facts([
      ['Id', element('code', {}, info.sid)], ['Created', time(info.created_at)], ['Ended', info.ended_at ? time(info.ended_at) : 'still open'],
      ['Why', info.end_reason?.replaceAll('_', ' ')], ['Open for', info.duration_seconds === null ? '' : duration(info.duration_seconds)],
      ['People', `${info.num_joined} joins, at most ${info.peak_participants} at a time`],
      ['Minutes of people', minutes(sessions, info)],
      ['Metadata', info.metadata ? element('pre', { tabIndex: 0 }, info.metadata) : ''],
    ])),
    section('Who was there, and when', gantt(sessions, info)),
    section('Sessions', table('Sessions', [
      { head: 'Identity', cell: (one) => one.identity },
      { head: 'Name', cell: (one) => one.name },
      { head: 'Joined', kind: 'tight', cell: (one) => time(one.joined_at) },
      { head: 'Connected after', kind: 'tight', cell: (one) => (one.active_at ? `${((new Date(one.active_at) - new Date(one.joined_at)) / 1000).toFixed(1)} s` : 'never') },
      { head: 'Left', kind: 'tight', cell: (one) => (one.left_at ? time(one.left_at) : 'is there') },
      { head: 'Stayed', kind: 'tight', cell: (one) => duration((end(one, info) - new Date(one.joined_at)) / 1000) },
      { head: 'Why', cell: (one) => (one.reason ?? '').replaceAll('_', ' ') },
      { head: 'Up', kind: 'tight', cell: (one) => (one.media ? `${rate(one.media.up.bitrate)}, ${percent(one.media.up.loss)} lost` : '') },
      { head: 'Down', kind: 'tight', cell: (one) => (one.media ? `${rate(one.media.down.bitrate)}, ${percent(one.media.down.loss)} lost` : '') },
      { head: 'Round trip', kind: 'num', cell: (one) => (one.media?.rtt_ms ? `${Math.round(one.media.rtt_ms)} ms` : '') },
      { head: 'Worst minute', kind: 'tight', cell: (one) => (one.media?.worst_minute ? `${one.media.worst_minute.score.toFixed(1)} of 5` : '') },
    ], sessions, 'Nobody was there.')),
    section('What happened', log.length ? element('ol', { className: 'events list' }, ...log.map(eventItem)) : element('p', { className: 'empty' }, 'Its events are not kept any more.')),
  );
  return { filter: { room: sid } };
}

const end = (one, info) => new Date(one.left_at ?? info.ended_at ?? Date.now());

const minutes = (sessions, info) => Math.round(sessions.reduce((sum, one) => sum + (end(one, info) - new Date(one.joined_at)), 0) / 60_000).toString();

// gantt draws a lane for each identity, and each of its stays on it.
function gantt(sessions, info) {
  if (sessions.length === 0) return element('p', { className: 'empty' }, 'Nobody was there.');
  const from = +new Date(info.created_at);
  const to = Math.max(+new Date(info.ended_at ?? Date.now()), from + 1000);
  const lanes = new Map();
  for (const one of sessions) lanes.set(one.identity, [...(lanes.get(one.identity) ?? []), one]);
  const node = element('div', { className: 'card gantt', role: 'img', 'aria-label': 'The stays of each, over time: the table below has them in words' });
  for (const [identity, stays] of lanes) {
    const lane = element('div', { className: 'lane' });
    for (const one of stays) {
      const begin = +new Date(one.joined_at);
      const bar = element('span', { className: 'stay', title: `${duration((end(one, info) - begin) / 1000)}${one.reason ? `, ${one.reason.replaceAll('_', ' ')}` : ''}` });
      bar.style.left = `${Math.max(0, ((begin - from) / (to - from)) * 100)}%`;
      bar.style.width = `${Math.max(0, ((end(one, info) - begin) / (to - from)) * 100)}%`;
      lane.append(bar);
    }
    node.append(element('span', { className: 'name', title: identity }, stays.at(-1).name || identity), lane);
  }
  node.append(element('span', {}), element('div', { className: 'axis' }, time(info.created_at, { short: true }), time(info.ended_at ?? new Date().toISOString(), { short: true })));
  return node;
}
