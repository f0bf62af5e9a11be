// Who had the server change what.

import { actions, element, exports, fieldOf, pager, roomLink, table, tag, time, toast } from './ui.js';
import { get, pages as gather, query } from './api.js';

const MOST = 100_000; // lines in a file

export async function audit(root, { signal }) {
  const place = element('div', { id: 'deeds' });
  const form = element('form', { className: 'toolbar', role: 'search' },
    fieldOf({ name: 'room', label: 'Room' }),
    fieldOf({ name: 'of', label: 'Whose', options: [['', 'Everybody’s'], ['dashboard', 'Of the dashboard']] }),
    element('button', { type: 'submit' }, 'Search'));
  const filter = () => Object.fromEntries(new FormData(form));
  const all = pager(async (cursor) => {
    const page = await get(`/audit${query({ ...filter(), limit: 50, cursor })}`, signal);
    place.replaceChildren(table('Audit', [
      { head: 'When', cell: (one) => time(one.at) },
      { head: 'Who', cell: (one) => [one.identity ? `${one.identity} · ` : '', one.key, ' ', one.session ? tag(`dashboard, ${one.role}`) : ''] },
      { head: 'Did', cell: (one) => [element('strong', {}, one.call), one.path ? element('div', { className: 'quiet small mono' }, one.path) : ''] },
      { head: 'Room', cell: (one) => (one.room ? roomLink(one.room) : '') },
      { head: 'To', cell: (one) => one.participant ?? '' },
      { head: 'Address', cell: (one) => one.address },
      { head: 'Session', cell: (one) => (one.session ? element('code', {}, one.session) : '') },
    ], page.deeds, 'Nothing was changed yet.'));
    return page.next_cursor;
  });
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    all.first().catch((error) => toast(error.message, true));
  });
  root.append(element('header', {}, element('h1', {}, 'Audit'), actions(...exports('audit',
    ['id', 'at', 'key', 'identity', 'session', 'role', 'address', 'call', 'path', 'room', 'participant'],
    () => gather('/audit', filter(), 'deeds', MOST)))), form, element('section', {}, place, all.node));
  await all.first();
  return {};
}
