// One room: who is in it, how they fare, and what can be done.

import { actions, ask, button, element, duration, eventItem, facts, pager, percent, rate, redraw, section, since, table, tag, time, toast, until } from './ui.js';
import { call, get, path, query } from './api.js';
import { fares as faresOf } from './fares.js';
import { hasInvitations, makeInvitation, showLink } from './invitations.js';
import { closeRoom } from './rooms.js';

const EVERY = 3000; // ms between two looks
const LEAST = 1000; // ms between two looks, however much happens
const EVENTS = 100;

export async function room(root, { of: name, signal, go, session }) {
  const at = `/rooms${path(name)}`;
  let info;
  try {
    info = await get(at, signal);
  } catch (error) {
    if (error.status !== 404) throw error;
    root.append(element('header', {}, element('h1', {}, name)), element('p', { className: 'empty' }, 'No open room bears this name.'), await past(name, signal));
    return {};
  }
  const title = element('h1', {}, name);
  const state = element('span', {});
  const bar = element('div', { className: 'actions', id: 'room-actions' });
  const about = element('div', { className: 'card' });
  const people = element('div', { className: 'cards', id: 'people' });
  const bans = element('div', {});
  const revocations = element('div', {});
  const charted = new Map(); // identities whose charts are shown
  const log = element('ol', { className: 'events list', id: 'timeline' });

  async function refresh() {
    const [now, list, stats] = await Promise.all([
      get(at, signal), get(`${at}/participants`, signal), statsOf(at, signal),
    ]);
    info = now;
    for (const [identity, one] of charted) {
      if (!list.participants.some((other) => other.identity === identity)) hideCharts(identity, one);
    }
    draw(list.participants, stats);
    await Promise.all([...charted.values()].map((one) => one.refresh().catch((error) => {
      if (error.status !== 404) throw error; // it has left meanwhile: the next look tells
    })));
  }

  function draw(list, stats) {
    state.replaceChildren(...[
      info.locked && tag('locked', 'warning'), info.hold && tag('held muted', 'warning'), info.waiting_room && tag('guests wait'), info.keep_chat && tag('chat kept'),
    ].filter(Boolean));
    redraw(bar, ...roomActions().filter(Boolean));
    about.replaceChildren(facts([
      ['Id', element('code', {}, info.sid)], ['Open since', time(info.created_at)], ['Open for', since(info.created_at)],
      ['People', `${info.num_participants}${info.max_participants ? ` of ${info.max_participants}` : ''}, at most ${info.peak_participants} at a time, ${info.num_joined} ${info.num_joined === 1 ? 'join' : 'joins'}`],
      ['Publishers', String(info.num_publishers)],
      ['Ends', info.expires_at ? `in ${until(info.expires_at)}` : info.num_participants ? 'not while occupied' : 'never by itself'],
      ['When empty', `ends ${after(info.empty_timeout)} if nobody joins, ${after(info.departure_timeout)} when the last has left`],
      ['Tags', Object.entries(info.tags).map(([key, value]) => tag(`${key}=${value}`))],
      ['Metadata', info.metadata ? element('pre', { tabIndex: 0 }, info.metadata) : ''],
    ]));
    const cards = list.map((one) => person(one, stats.get(one.sid)));
    redraw(people, ...(cards.length ? cards : [element('p', { className: 'empty' }, 'Nobody is here.')]));
  }

  function hideCharts(identity, one) {
    one.close();
    charted.delete(identity);
  }

  function toggleCharts(on, identity) {
    const one = charted.get(identity);
    if (one) hideCharts(identity, one);
    else charted.set(identity, faresOf(on, signal));
  }

  const then = (act) => async () => {
    if (await act() !== false) await refresh();
  };

  function roomActions() {
    const least = 'moderate';
    return [
      button(info.locked ? 'Unlock' : 'Lock', then(() => call('PATCH', at, { locked: !info.locked })), { least }),
      button('Mute all', then(async () => {
        const { tracks } = await call('POST', `${at}/mute`, {});
        toast(`${tracks.length} tracks were muted.`);
      }), { least }),
      info.hold
        ? button('Release', then(() => call('DELETE', `${at}/mute`)), { least })
        : button('Hold muted', then(() => call('POST', `${at}/mute`, { hold: true })), { least }),
      button(info.waiting_room ? 'Let guests in at once' : 'Let guests wait', then(() => call('PATCH', at, { waiting_room: !info.waiting_room })), { least }),
      button(info.keep_chat ? 'Forget the chat' : 'Keep the chat', then(keepChat), { least }),
      button('Message', message(), { least }),
      button('Invite', invite, { least: 'all' }),
      button('Observe', observe, { least: 'all' }),
      button('Close', async () => {
        if (await closeRoom(name)) go();
      }, { least, kind: 'bad' }),
    ];
  }

  async function keepChat() {
    if (info.keep_chat) {
      const sure = await ask({ title: 'Forget the chat?', text: 'What was kept for latecomers is deleted.', confirm: 'Forget', bad: true });
      if (!sure) return false;
    }
    return call('PATCH', at, { keep_chat: !info.keep_chat });
  }

  function message(to) {
    return async () => {
      const answer = await ask({ title: to ? `Message to ${to}` : 'Message to everybody', confirm: 'Send', fields: [{ name: 'text', label: 'Text', type: 'textarea' }] });
      if (!answer?.text) return;
      await call('POST', `${at}/data`, { text: answer.text, topic: 'parlor.message', to: to ? [to] : undefined });
      toast('The message was sent.');
    };
  }

  // invite makes an invitation, or, where the server has none, a token.
  async function invite() {
    if (await hasInvitations(signal)) {
      await makeInvitation(name);
      return;
    }
    const answer = await ask({
      title: 'Invite somebody', confirm: 'Make a link',
      fields: [
        { name: 'identity', label: 'Identity', required: true, value: `guest-${crypto.randomUUID().slice(0, 8)}` }, { name: 'name', label: 'Name that others see' },
        { name: 'ttl', label: 'Can be used for', options: [['3600', 'An hour'], ['86400', 'A day'], ['604800', 'A week']], value: '86400' },
      ],
    });
    if (!answer) return;
    const { token } = await call('POST', '/tokens', { room: name, identity: answer.identity, name: answer.name || undefined, ttl: Number(answer.ttl) });
    await showLink(new URL(`/#token=${token}`, location.href).href, 'With it one joins as that identity');
  }

  // observe opens the tab at the click, and goes there with the token that it gets. A blocker
  // of popups stops a tab that opens once an answer is there.
  async function observe() {
    let tab = null;
    const sure = await ask({
      title: 'Observe this room?', text: 'You join hidden from others and cannot speak. It stands in the audit.', confirm: 'Observe',
      confirmed() {
        tab = window.open('', '_blank');
      },
    });
    if (!sure) return;
    if (!tab) throw new Error('The browser did not let the dashboard open a tab: allow pop-ups for this site.');
    tab.opener = null;
    tab.document.title = 'Observe – Parlor';
    try {
      const { token } = await call('POST', '/tokens', {
        room: name, identity: `observer-${session.id}`, hidden: true, can_publish: false, can_publish_data: false, ttl: 300,
      });
      tab.location.replace(new URL(`/#token=${token}`, location.href));
    } catch (error) {
      tab.close();
      throw error;
    }
  }

  function person(one, fares) {
    const who = one.name && one.name !== one.identity ? `${one.name} (${one.identity})` : one.identity;
    const on = `${at}/participants${path(one.identity)}`;
    const least = 'moderate';
    const quality = { excellent: 'ok', good: 'ok', poor: 'warning', lost: 'failed' }[fares?.quality] ?? '';
    const down = fares?.downlink;
    const client = fares?.client;
    const node = element('article', { className: charted.has(one.identity) ? 'card person wide' : 'card person' },
      element('header', {}, element('h3', {}, who), element('span', {}, tag(one.state), one.kind !== 'standard' ? tag(one.kind) : '', one.host ? tag('host') : '', fares ? tag(fares.quality, quality) : '')),
      facts([
        ['Joined', [time(one.joined_at), ` (${since(one.joined_at)} ago)`]],
        ['Client', client ? [client.sdk, client.version, client.browser, client.os].filter(Boolean).join(' ') : ''],
        ['Address', client?.address],
        ['Transport', fares && fares.up !== 'none' ? `${fares.up} up, ${fares.down} down` : ''],
        ['Round trip', down?.rtt_ms ? `${down.rtt_ms.toFixed(0)} ms` : ''],
        ['Loss', down ? `${percent(down.loss)} down` : ''],
        ['Sent to it', down ? `${rate(down.sent)}${down.estimate ? ` of ${rate(down.estimate)} estimated` : ''}${down.paused_tracks ? `, ${down.paused_tracks} paused` : ''}` : ''],
        ['May not', lacks(one.permissions)],
        ['Metadata', one.metadata ? element('pre', { tabIndex: 0 }, one.metadata) : ''],
        ['Attributes', Object.entries(one.attributes).map(([key, value]) => tag(`${key}=${value}`))],
      ]),
      element('div', {}, ...one.tracks.map((track) => trackRow(on, one, track, fares))),
      charted.get(one.identity)?.node ?? '',
      actions(
        button(charted.has(one.identity) ? 'Hide charts' : 'Charts', then(() => toggleCharts(on, one.identity)), { name: who }),
        button('Message', message(one.identity), { least, name: who }),
        button('Rename', then(() => rename(on, one)), { least, name: who }),
        button(one.host ? 'Host no more' : 'Make host', then(() => call(one.host ? 'DELETE' : 'PUT', `${on}/host`)), { least, name: who }),
        button('Permissions', then(() => permissions(on, one)), { least, name: who }),
        button('Move', then(() => move(on, who)), { least, name: who }),
        button('Remove', then(() => remove(on, who)), { least, kind: 'bad', name: who }),
        button('Ban', then(() => ban(one.identity, who)), { least, kind: 'bad', name: who }),
      ));
    return node;
  }

  function trackRow(on, one, track, fares) {
    const layers = fares?.tracks.find((other) => other.sid === track.sid)?.layers.filter((layer) => layer.live) ?? [];
    const best = layers.at(-1);
    const sum = layers.reduce((all, layer) => all + layer.bitrate, 0);
    const unmute = track.muted;
    return element('div', { className: 'track' },
      element('span', {}, track.source.replaceAll('_', ' '), track.name ? ` “${track.name}”` : ''),
      track.muted ? tag('muted') : '',
      layers.length ? element('span', { className: 'quiet small' }, `${rate(sum)}${best.height ? `, ${best.width}×${best.height} ${Math.round(best.fps)} fps` : ''}, ${percent(best.loss)} lost${layers.length > 1 ? `, ${layers.length} layers` : ''}`) : '',
      button(unmute ? 'Unmute' : track.type === 'video' ? 'Stop' : 'Mute', then(() => call('PATCH', `${on}/tracks${path(track.sid)}`, { muted: !unmute })), { least: 'moderate', name: `${track.source.replaceAll('_', ' ')} of ${one.identity}` }) ?? '');
  }

  async function rename(on, one) {
    const answer = await ask({ title: 'Rename', confirm: 'Rename', fields: [{ name: 'name', label: 'Name that others see', value: one.name }] });
    if (!answer) return false;
    return call('PATCH', on, { name: answer.name });
  }

  async function permissions(on, one) {
    const names = { can_publish: 'Publish audio and video', can_subscribe: 'Receive others', can_publish_data: 'Send data', can_update_own_metadata: 'Change its own name and metadata' };
    const answer = await ask({
      title: `What ${one.identity} may`, confirm: 'Change',
      fields: Object.entries(names).map(([key, label]) => ({ name: key, label, type: 'checkbox', value: one.permissions[key] })),
    });
    if (!answer) return false;
    return call('PATCH', on, { permissions: answer });
  }

  async function move(on, who) {
    const answer = await ask({ title: `Move ${who}`, confirm: 'Move', fields: [{ name: 'room', label: 'To the room', required: true }] });
    if (!answer) return false;
    return call('POST', `${on}/move`, { room: answer.room });
  }

  async function remove(on, who) {
    const answer = await ask({
      title: `Remove ${who}?`, text: 'It is sent away, and may come back unless its tokens are refused.', confirm: 'Remove', bad: true,
      fields: [{ name: 'revoke', label: 'Refuse its tokens from now on', type: 'checkbox' }],
    });
    if (!answer) return false;
    await call('DELETE', `${on}${query({ revoke: answer.revoke ? 'true' : '' })}`);
    return showRevocations();
  }

  async function ban(identity, who) {
    const answer = await ask({
      title: `Ban ${who}?`, text: 'It is sent away, and kept out of rooms of this name.', confirm: 'Ban', bad: true,
      fields: [{ name: 'reason', label: 'Reason' }, { name: 'until', label: 'Until (empty: until lifted)', type: 'datetime-local' }],
    });
    if (!answer) return false;
    await call('PUT', `${at}/bans${path(identity)}`, { reason: answer.reason || undefined, until: answer.until ? new Date(answer.until).toISOString() : undefined });
    return showBans();
  }

  async function showBans() {
    const page = await get(`${at}/bans?limit=100`, signal);
    bans.replaceChildren(table('Bans', [
      { head: 'Identity', cell: (one) => one.identity },
      { head: 'Until', cell: (one) => (one.until ? time(one.until) : 'it is lifted') },
      { head: 'Reason', cell: (one) => one.reason },
      { head: 'Actions', cell: (one) => button('Lift', async () => {
        await call('DELETE', `${at}/bans${path(one.identity)}`);
        await showBans();
      }, { least: 'moderate', name: one.identity }) },
    ], page.bans, 'Nobody is banned.'));
  }

  async function showRevocations() {
    const page = await get(`${at}/revocations?limit=100`, signal);
    revocations.replaceChildren(table('Refused tokens', [
      { head: 'Identity', cell: (one) => one.identity },
      { head: 'From before', cell: (one) => time(one.before) },
      { head: 'Actions', cell: (one) => button('Lift', async () => {
        await call('DELETE', `${at}/revocations${path(one.identity)}`);
        await showRevocations();
      }, { least: 'moderate', name: `the refusal of ${one.identity}'s tokens` }) },
    ], page.revocations, 'No tokens are refused.'));
  }

  const timeline = await newestOf(info.sid, signal);
  log.append(...timeline.map(eventItem));
  root.append(
    element('header', {}, title, state, bar),
    element('div', { className: 'split' }, element('section', {}, element('h2', {}, 'The room'), about), element('section', {}, element('h2', {}, 'Bans'), bans, element('h2', {}, 'Refused tokens'), revocations)),
    section('People', people), section('What happened', log), await past(name, signal),
  );
  await Promise.all([refresh(), showBans(), showRevocations()]);

  let asked = Promise.resolve();
  let due = null;
  let last = 0;
  // A busy room is not asked for each of its events.
  const look = () => {
    if (document.hidden) return;
    due ??= setTimeout(() => {
      due = null;
      last = Date.now();
      asked = asked.then(refresh).catch((error) => {
        if (error.status === 404 && !signal.aborted) go();
      });
    }, Math.max(0, last + LEAST - Date.now()));
  };
  const timer = setInterval(look, EVERY);
  return {
    filter: { room: info.sid },
    event(event) {
      log.prepend(eventItem(event));
      while (log.childElementCount > EVENTS) log.lastElementChild.remove();
      if (event.type === 'room_finished') go();
      else look();
    },
    close() {
      clearInterval(timer);
      clearTimeout(due);
      for (const one of charted.values()) one.close();
    },
  };
}

const after = (timeout) => (timeout === 'never' ? 'never' : `after ${duration(timeout)}`);

function lacks(permissions) {
  const names = { can_publish: 'publish', can_subscribe: 'receive', can_publish_data: 'send data' };
  return Object.entries(names).filter(([key]) => !permissions[key]).map(([, text]) => text).join(', ');
}

// statsOf is how all in the room fare, by session.
async function statsOf(at, signal) {
  const all = new Map();
  for (let cursor = ''; ;) {
    const page = await get(`${at}/stats${query({ limit: 100, cursor })}`, signal);
    for (const one of page.participants) all.set(one.sid, one);
    cursor = page.next_cursor;
    if (!cursor || all.size >= 500) return all;
  }
}

// newestOf is the newest events of a room that the log has, the newest first.
export async function newestOf(sid, signal) {
  return (await get(`/events${query({ room: sid, before: 'latest', limit: EVENTS })}`, signal)).events;
}

// past are the ended rooms of that name.
async function past(name, signal) {
  const place = element('div', {});
  const pages = pager(async (cursor) => {
    const page = await get(`/rooms${query({ name, state: 'ended', order: 'descending', limit: 10, cursor })}`, signal);
    place.replaceChildren(table('Past rooms of this name', [
      { head: 'Ended', cell: (one) => element('a', { href: `#/stay/${one.sid}` }, time(one.ended_at)) },
      { head: 'Open for', kind: 'tight', cell: (one) => duration(one.duration_seconds) },
      { head: 'Why', cell: (one) => one.end_reason.replaceAll('_', ' ') },
      { head: 'Joins', kind: 'num', cell: (one) => String(one.num_joined) },
      { head: 'Peak', kind: 'num', cell: (one) => String(one.peak_participants) },
    ], page.rooms, 'There was none before.'));
    return page.next_cursor;
  });
  await pages.first();
  return section('Past rooms of this name', place, pages.node);
}
