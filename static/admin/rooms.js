// The open rooms: found, paged and sorted by the server.

import { actions, ask, button, element, fieldOf, pager, redraw, roomLink, since, table, tag, toast, until } from './ui.js';
import { call, get, path, query } from './api.js';

const PAGE = 50;

export async function rooms(root, { signal, go }) {
  const form = element('form', { className: 'toolbar', role: 'search' },
    fieldOf({ name: 'by', label: 'Search by', options: [['name_prefix', 'Name begins with'], ['tag', 'Tag (key=value)'], ['metadata', 'Metadata is'], ['metadata_field', 'Metadata field (key=value)']] }),
    fieldOf({ name: 'text', label: 'Text', type: 'search' }),
    fieldOf({ name: 'order', label: 'Order', options: [['descending', 'Newest first, or by name descending'], ['ascending', 'Oldest first, or by name']], value: 'descending' }),
    element('button', { type: 'submit' }, 'Search'));
  const place = element('div', { id: 'rooms' });
  const pages = pager(async (cursor) => {
    const { by, text, order } = Object.fromEntries(new FormData(form));
    const page = await get(`/rooms${query({ limit: PAGE, cursor, order, ...(text ? { [by]: text } : {}) })}`, signal);
    redraw(place, table('Open rooms', columns, page.rooms, text ? 'No open room is like that.' : 'No room is open.'));
    return page.next_cursor;
  });
  form.addEventListener('submit', (event) => {
    event.preventDefault();
    pages.first().catch((error) => toast(error.message, true));
  });
  form.elements.namedItem('order').addEventListener('change', () => form.requestSubmit());

  const columns = [
    { head: 'Name', cell: (room) => [roomLink(room.name)] },
    { head: 'People', kind: 'num', cell: (room) => `${room.num_participants}${room.max_participants ? ` / ${room.max_participants}` : ''}` },
    { head: 'Peak', kind: 'num', cell: (room) => String(room.peak_participants) },
    { head: 'Open for', kind: 'tight', cell: (room) => since(room.created_at) },
    { head: 'Ends', kind: 'tight', cell: (room) => (room.expires_at ? `in ${until(room.expires_at)}` : room.num_participants ? 'occupied' : 'never') },
    { head: 'State', cell: (room) => [room.locked && tag('locked', 'warning'), room.hold && tag('held muted', 'warning'),
      ...Object.entries(room.tags).map(([key, value]) => tag(`${key}=${value}`))].filter(Boolean) },
    { head: 'Actions', cell: (room) => actions(
      button(room.locked ? 'Unlock' : 'Lock', async () => {
        await call('PATCH', `/rooms${path(room.name)}`, { locked: !room.locked });
        await pages.again();
      }, { least: 'moderate', name: room.name }),
      button('Close', async () => {
        if (await closeRoom(room.name)) await pages.again();
      }, { least: 'moderate', kind: 'bad', name: room.name }),
    ) },
  ];
  root.append(
    element('header', {}, element('h1', {}, 'Rooms'), actions(
      button('Refresh', () => pages.again()),
      button('Create a room', async () => {
        if (await createRoom()) go();
      }, { least: 'moderate', kind: 'primary' }),
    )),
    form, element('section', {}, place, pages.node),
  );
  await pages.first();
  let due = null;
  return {
    filter: { type: 'room_started,room_finished,participant_joined,participant_left' },
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

// closeRoom closes a room if that is meant.
export async function closeRoom(name) {
  const sure = await ask({ title: 'Close this room?', text: `Everybody in ${name} is sent away, and its name is free.`, confirm: 'Close the room', bad: true });
  if (!sure) return false;
  await call('DELETE', `/rooms${path(name)}`);
  toast('The room is closed.');
  return true;
}

async function createRoom() {
  const timeouts = [['', 'As configured'], ['60', 'After a minute'], ['600', 'After 10 minutes'], ['86400', 'After a day'], ['never', 'Never']];
  const answer = await ask({
    title: 'Create a room', confirm: 'Create',
    fields: [
      { name: 'name', label: 'Name', required: true },
      { name: 'max', label: 'People at most (empty: no limit)', type: 'number' },
      { name: 'empty', label: 'Ends if nobody joins', options: timeouts, value: '' },
      { name: 'departure', label: 'Ends after the last has left', options: timeouts, value: '' },
      { name: 'metadata', label: 'Metadata', type: 'textarea' },
    ],
  });
  if (!answer) return false;
  const timeout = (text) => (text === '' ? undefined : text === 'never' ? text : Number(text));
  await call('POST', '/rooms', {
    name: answer.name, max_participants: Number(answer.max) || undefined, metadata: answer.metadata || undefined,
    empty_timeout: timeout(answer.empty), departure_timeout: timeout(answer.departure),
  });
  location.hash = `#/room/${encodeURIComponent(answer.name)}`;
  return false;
}
