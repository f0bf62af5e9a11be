// What is going on, and what is wrong, first.

import { bytes, duration, element, eventItem, percent, rate, section } from './ui.js';
import { get } from './api.js';
import { chart } from './chart.js';

const NEWEST = 50; // events

export async function now(root, { signal }) {
  const first = await get('/overview', signal);
  const { newest, oldest } = await get('/events?limit=1&after=latest', signal);
  const after = Math.max(newest - NEWEST, oldest - 1, 0);
  const log = newest > 0 ? (await get(`/events?limit=${NEWEST}&after=${after}`, signal)).events : [];

  const alerts = element('div', { id: 'alerts', role: 'status' });
  const lamps = element('ul', { className: 'lamps', id: 'lamps' });
  const figures = element('dl', { className: 'figures', id: 'figures' });
  const charts = [
    chart('People and rooms', [
      { name: 'People', colour: '--accent', value: (s) => s.participants },
      { name: 'Rooms', colour: '--ok', value: (s) => s.live },
    ], (n) => String(Math.round(n * 10) / 10), 5),
    chart('Media', [
      { name: 'In', colour: '--ok', value: (s) => s.in },
      { name: 'Out', colour: '--accent', value: (s) => s.out },
    ], rate, 1e6),
    chart('Loss to subscribers', [{ name: 'Loss', colour: '--failed', value: (s) => s.loss }], (n) => percent(n), 0.05),
    chart('CPU', [{ name: 'Cores', colour: '--warning', value: (s) => s.cpu }], (n) => n.toFixed(2), 1),
  ];
  const list = element('ol', { className: 'events list', id: 'newest' }, ...log.reverse().map(eventItem));
  const none = element('p', { className: 'empty', hidden: log.length > 0 }, 'Nothing has happened yet.');
  list.hidden = log.length === 0;

  root.append(
    element('header', {}, element('h1', {}, 'Now')),
    alerts, section('Parts', lamps), section('Figures', figures),
    section('The last hour', element('div', { className: 'charts' }, ...charts.map((one) => one.node))),
    section('Newest events', list, none),
  );

  function draw(overview) {
    alerts.replaceChildren(...overview.alerts.map((alert) => element('div', { className: `alert ${alert.state}` },
      element('strong', {}, alert.found), element('span', {}, alert.do), ' ', element('span', { className: 'quiet small' }, alert.name))));
    if (overview.alerts.length === 0) alerts.append(element('div', { className: 'alert ok' }, element('strong', {}, 'Nothing is wrong.')));
    lamps.replaceChildren(...overview.lamps.map((lamp) => element('li', { className: 'card lamp' },
      element('span', { className: `dot ${lamp.state}` }), element('h3', {}, lamp.name, element('span', { className: 'sr' }, `: ${lamp.state}`)), element('p', {}, lamp.found))));
    const { status, now: sample } = overview;
    const pairs = [
      ['Rooms open', status.rooms.open ?? '–'], ['Rooms live', status.rooms.live], ['People', status.rooms.participants],
      ['In', rate(sample?.in)], ['Out', rate(sample?.out)], ['Loss', percent(sample?.loss)],
      ['CPU', sample ? `${sample.cpu.toFixed(2)} cores` : '–'], ['Memory', bytes(sample?.memory)], ['Disk free', bytes(sample?.disk_free)],
      ['Write-ahead log', bytes(status.database?.wal_bytes)], ['Refused', overview.refused], ['Up for', duration(status.uptime_seconds)],
    ];
    figures.replaceChildren(...pairs.map(([name, value]) => element('div', { className: 'card figure' }, element('dt', {}, name), element('dd', {}, String(value)))));
    if (sample) for (const one of charts) one.add(sample);
  }
  draw(first);
  for (const one of charts) one.set(first.hour ?? []);

  return {
    filter: {},
    overview: draw,
    event(event) {
      list.prepend(eventItem(event));
      while (list.childElementCount > NEWEST) list.lastElementChild.remove();
      list.hidden = false;
      none.hidden = true;
    },
    close() {
      for (const one of charts) one.close();
    },
  };
}
