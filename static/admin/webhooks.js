// The endpoints of webhooks, and what is on its way to them.

import { actions, ask, button, element, facts, fieldOf, pager, percent, redraw, section, since, table, tag, time, toast } from './ui.js';
import { call, get, query } from './api.js';

export async function webhooks(root, { signal, overview }) {
  const cards = element('div', { className: 'cards', id: 'endpoints' });
  const deliveries = element('div', {});
  let shown = null; // id of the endpoint whose deliveries are shown
  let before = JSON.stringify(overview?.status.webhooks ?? null); // the figures by which the cards were drawn

  async function refresh() {
    const list = (await get('/webhooks', signal)).webhooks;
    redraw(cards, ...(list.length ? list.map(card) : [element('p', { className: 'empty' }, 'The configuration names no webhooks.')]));
  }

  // What an act has begun goes on after this refresh. The next overview brings another one,
  // although its figures may be as they were before the act.
  const then = (act) => async () => {
    if (await act() === false) return;
    await refresh();
    before = null;
  };

  function card(one) {
    const name = one.name || one.url;
    const at = `/webhooks/${one.id}`;
    const least = 'all';
    const state = one.state !== 'on' ? [one.state, 'warning'] : one.down ? ['down', 'failed'] : one.failing_since ? ['failing', 'warning'] : ['on', 'ok'];
    return element('article', { className: 'card person' },
      element('header', {}, element('h3', {}, name), tag(...state)),
      facts([
        ['URL', one.url], ['Reason', one.reason], ['Pending', one.pending ? `${one.pending}, the oldest for ${since(one.oldest_pending_at)}` : '0'], ['Dead', String(one.dead)],
        ['Delivered', `${one.delivered}, ${percent(one.success_rate)} of the attempts`],
        ['Last success', one.last_success_at ? time(one.last_success_at) : 'never'],
        ['Last answer', one.last_status ? String(one.last_status) : ''], ['Last error', one.last_error], ['Failing for', one.failing_since ? since(one.failing_since) : ''],
        ['Signed with', one.key], ['Order', one.ordering],
      ]),
      actions(
        button('Deliveries', () => show(one), { name }),
        button('Test', then(async () => {
          const { seq } = await call('POST', `${at}/test`);
          toast(`Event ${seq} is on its way.`);
        }), { least, name }),
        one.state === 'on'
          ? button('Pause', then(async () => {
            const answer = await ask({ title: `Pause ${name}?`, text: 'Its events wait.', confirm: 'Pause', fields: [{ name: 'reason', label: 'Reason' }] });
            return answer && call('POST', `${at}/pause`, { reason: answer.reason || undefined });
          }), { least, name })
          : button('Resume', then(() => call('POST', `${at}/resume`)), { least, name }),
        one.dead > 0 ? button('Replay the dead', then(async () => {
          const { replayed } = await call('POST', `${at}/replay`, {});
          toast(`${replayed} are sent again.`);
        }), { least, name }) : null,
      ));
  }

  async function show(one) {
    shown = one;
    const name = one.name || one.url;
    const state = fieldOf({ name: 'state', label: 'State', options: [['pending', 'Pending'], ['dead', 'Dead'], ['delivered', 'Delivered']], value: one.dead ? 'dead' : 'pending' });
    const select = state.querySelector('select');
    const place = element('div', {});
    const all = pager(async (cursor) => {
      const page = await get(`/webhooks/${one.id}/deliveries${query({ state: select.value, limit: 50, cursor })}`, signal);
      place.replaceChildren(table(`Deliveries to ${name}`, [
        { head: 'Event', cell: (d) => `#${d.seq}` },
        { head: 'Type', kind: 'tight', cell: (d) => d.type },
        { head: 'Room', cell: (d) => d.room ?? '' },
        { head: 'Created', kind: 'tight', cell: (d) => time(d.created_at) },
        { head: 'Attempts', kind: 'num', cell: (d) => String(d.attempts) },
        { head: 'Next', kind: 'tight', cell: (d) => (d.next_attempt_at ? time(d.next_attempt_at) : d.state === 'pending' ? 'waits its turn' : '') },
        { head: 'Answer', kind: 'wide', cell: (d) => d.last_error || (d.last_status ? String(d.last_status) : '') },
        { head: 'Body', cell: (d) => button('Show', () => body(d), { name: `event ${d.seq}` }) },
        { head: 'Actions', cell: (d) => button('Send again', async () => {
          const { replayed } = await call('POST', `/webhooks/${one.id}/replay`, { event_id: d.event_id });
          toast(replayed ? 'It is sent again.' : 'It is on its way already.');
          await all.again();
        }, { least: 'all', name: `event ${d.seq}` }) },
      ], page.deliveries, 'There are none in this state.'));
      return page.next_cursor;
    });
    select.addEventListener('change', () => all.first().catch((error) => toast(error.message, true)));
    deliveries.replaceChildren(section(`Deliveries to ${name}`, element('div', { className: 'toolbar' }, state), place, all.node));
    await all.first();
    deliveries.firstElementChild.scrollIntoView();
  }

  async function body(delivery) {
    const { events } = await get(`/events?after=${delivery.seq - 1}&limit=1`, signal);
    const text = events[0]?.id === delivery.event_id ? JSON.stringify(events[0].event, null, 1) : 'It is not kept any more.';
    await ask({ title: `Event ${delivery.seq}`, fields: [{ name: 'body', label: delivery.type, type: 'textarea', value: text }], confirm: 'Close' });
  }

  root.append(element('header', {}, element('h1', {}, 'Webhooks'), actions(button('Refresh', async () => {
    await refresh();
    if (shown) await show(shown);
  }))), section('Endpoints', cards), deliveries);
  await refresh();
  return {
    overview({ status }) {
      const text = JSON.stringify(status.webhooks);
      if (text !== before) refresh().catch(() => {});
      before = text;
    },
  };
}
