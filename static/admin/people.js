// The participants of all rooms: found and paged by the server.

import { actions, button, element, fieldOf, pager, redraw, roomLink, since, table, toast } from './ui.js';
import { get, query } from './api.js';

const PAGE = 50;

export async function people(root, { signal }) {
  const form = element('form', { className: 'toolbar', role: 'search' },
    fieldOf({ name: 'text', label: 'Identity or name has, or address begins with', type: 'search' }),
    element('button', { type: 'submit' }, 'Search'));
  const place = element('div', { id: 'people' });
  let text = ''; // that was asked for, and not what is being typed
  const pages = pager(async (cursor) => {
    const page = await get(`/participants${query({ limit: PAGE, cursor, text })}`, signal);
    redraw(place, table('People', columns, page.found, text ? 'Nobody is like that, on this page.' : 'Nobody is in a room.'));
    return page.next_cursor;
  });
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    text = form.elements.namedItem('text').value;
    pages.first().catch((error) => toast(error.message, true));
  });
  const columns = [
    { head: 'Identity', cell: ({ participant }) => participant.identity },
    { head: 'Name', cell: ({ participant }) => participant.name },
    { head: 'Room', cell: ({ room }) => [roomLink(room)] },
    { head: 'Address', cell: ({ address }) => address ?? '' },
    { head: 'Kind', cell: ({ participant }) => participant.kind },
    { head: 'State', cell: ({ participant }) => participant.state },
    { head: 'There for', kind: 'tight', cell: ({ participant }) => since(participant.joined_at) },
    { head: 'Tracks', kind: 'num', cell: ({ participant }) => String(participant.tracks.length) },
  ];
  root.append(
    element('header', {}, element('h1', {}, 'People'), actions(button('Refresh', () => pages.again()))),
    form, element('section', {}, place, pages.node),
  );
  await pages.first();
  let due = null;
  return {
    filter: { type: 'participant_joined,participant_left,room_finished' },
    // A busy server is not asked for each of its events.
    event() {
      due ??= setTimeout(() => {
        due = null;
        pages.again().catch(() => {});
      }, 2000);
    },
    close() {
      clearTimeout(due);
    },
  };
}
