// The event log, as it grows.

import { actions, button, element, eventItem, fieldOf, toast } from './ui.js';
import { get, query } from './api.js';

const KEPT = 300;

export async function events(root, { signal }) {
  const list = element('ol', { className: 'events list', id: 'log' });
  const none = element('p', { className: 'empty' }, 'No event is like that.');
  const form = element('form', { className: 'toolbar', role: 'search' },
    fieldOf({ name: 'room', label: 'Room, by name or id' }),
    fieldOf({ name: 'type', label: 'Types, with commas between', hint: 'participant_joined' }),
    fieldOf({ name: 'seq', label: 'From number', type: 'number' }),
    element('button', { type: 'submit' }, 'Show'));
  const filter = {};
  let live = true;
  const pause = button('Pause', () => {
    live = !live;
    pause.setAttribute('aria-pressed', String(!live));
  });
  pause.setAttribute('aria-pressed', 'false');

  async function load() {
    const { room, type, seq } = Object.fromEntries(new FormData(form));
    Object.assign(filter, { room, type });
    const range = await get('/events?limit=1&after=latest', signal);
    let found = [];
    if (seq) {
      found = (await get(`/events${query({ room, type, limit: 100, after: Math.max(Number(seq) - 1, range.oldest - 1, 0) })}`, signal)).events;
    } else {
      // The newest hundred: further back, the fewer the filter lets through.
      for (let reach = 100; ; reach *= 10) {
        const after = Math.max(range.newest - reach, range.oldest - 1, 0);
        const page = (await get(`/events${query({ room, type, limit: 1000, after })}`, signal)).events;
        found = page.slice(-100);
        if (found.length === 100 || after <= Math.max(range.oldest - 1, 0) || reach > 100_000) break;
      }
    }
    list.replaceChildren(...found.reverse().map(eventItem));
    drawn();
  }
  function drawn() {
    list.hidden = list.childElementCount === 0;
    none.hidden = !list.hidden;
  }

  form.addEventListener('submit', (event) => {
    event.preventDefault();
    load().catch((error) => toast(error.message, true));
  });
  root.append(element('header', {}, element('h1', {}, 'Events'), actions(pause)), form, element('section', {}, list, none));
  await load();
  return {
    filter: {},
    event(event) {
      if (!live || (filter.room && event.room !== filter.room && event.room_sid !== filter.room)) return;
      if (filter.type && !filter.type.split(',').map((type) => type.trim()).includes(event.type)) return;
      list.prepend(eventItem(event));
      while (list.childElementCount > KEPT) list.lastElementChild.remove();
      drawn();
    },
  };
}
