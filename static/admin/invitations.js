// The invitations of all rooms: links that let people in without an app of one's own.

import { actions, ask, button, element, pager, redraw, roomLink, table, tag, time, toast } from './ui.js';
import { call, get, path, query } from './api.js';
import { qrCode } from '../js/qr.js';

const PAGE = 50;
const states = { usable: 'ok', revoked: 'failed' };

export async function invitations(root, { signal }) {
  const header = element('header', {}, element('h1', {}, 'Invitations'));
  root.append(header);
  if (!await hasInvitations(signal)) {
    root.append(element('p', { className: 'empty' }, 'This server has no invitations. To turn them on, set ', element('code', {}, 'invitations: true'),
      ' in its configuration, or start it with ', element('code', {}, '--invitations'), '.'));
    return {};
  }
  const place = element('div', { id: 'invitations' });
  const pages = pager(async (cursor) => {
    const page = await get(`/invitations${query({ limit: PAGE, cursor })}`, signal);
    redraw(place, table('Invitations', columns, page.invitations, 'Nobody is invited.'));
    return page.next_cursor;
  });
  const columns = [
    { head: 'Room', cell: (one) => [roomLink(one.room)] },
    { head: 'Role', cell: (one) => [tag(one.role)] },
    { head: 'For', cell: (one) => one.name },
    { head: 'State', cell: (one) => [tag(one.state, states[one.state])] },
    { head: 'Used', kind: 'num', cell: (one) => `${one.used}${one.uses ? ` of ${one.uses}` : ''}` },
    { head: 'Last used', kind: 'tight', cell: (one) => (one.used_at ? time(one.used_at) : 'never') },
    { head: 'Expires', kind: 'tight', cell: (one) => (one.expires_at ? time(one.expires_at) : 'never') },
    { head: 'Made', kind: 'tight', cell: (one) => time(one.created_at) },
    { head: 'By', cell: (one) => one.created_by || 'the API key' },
    { head: 'Actions', cell: (one) => (one.state === 'usable' ? button('Revoke', async () => {
      const sure = await ask({ title: 'Revoke this invitation?', text: `Its link lets nobody into ${one.room} any more. Those who used it may stay, and come back for up to an hour.`, confirm: 'Revoke', bad: true });
      if (!sure) return;
      await call('DELETE', `/rooms${path(one.room)}/invitations${path(one.id)}`);
      await pages.again();
    }, { least: 'moderate', kind: 'bad', name: `${one.role} of ${one.room}, ${one.id}` }) : '') },
  ];
  header.append(actions(
    button('Refresh', () => pages.again()),
    button('Invite', async () => {
      if (await makeInvitation()) await pages.again();
    }, { least: 'all', kind: 'primary' }),
  ));
  root.append(element('section', {}, place, pages.node));
  await pages.first();
  return {};
}

// hasInvitations tells whether the server has invitations turned on.
export async function hasInvitations(signal) {
  try {
    await get('/invitations?limit=1', signal);
    return true;
  } catch (error) {
    if (error.code === 'invitations_off') return false;
    throw error;
  }
}

// makeInvitation makes an invitation, of that room or of one that is asked for, and shows its
// link; false if it was given up.
export async function makeInvitation(room) {
  const answer = await ask({
    title: 'Invite', confirm: 'Make a link',
    fields: [
      ...(room === undefined ? [{ name: 'room', label: 'Room', required: true }] : []),
      { name: 'role', label: 'Role', options: [['guest', 'Guest'], ['host', 'Host: may mute, remove and invite others']], value: 'guest' },
      { name: 'uses', label: 'Uses at most (empty: no limit)', type: 'number', min: 1, step: 1 },
      { name: 'expires', label: 'Until (empty: until revoked)', type: 'datetime-local' },
      { name: 'name', label: 'For (the name of those who give none)' },
    ],
  });
  if (!answer) return false;
  const { link } = await call('POST', `/rooms${path(room ?? answer.room)}/invitations`, {
    role: answer.role, uses: answer.uses === '' ? undefined : Number(answer.uses), name: answer.name || undefined,
    expires_at: answer.expires ? new Date(answer.expires).toISOString() : undefined,
  });
  await showLink(link, 'Whoever has it may join. It is not shown again.');
  return true;
}

// showLink shows a link to hand on, as text and, if one can be made, as a QR code, and copies
// it where it may.
export async function showLink(link, label) {
  const copied = await navigator.clipboard?.writeText(link).then(() => true, () => false);
  if (copied) toast('The link is copied.');
  await ask({
    title: 'The link', fields: [{ name: 'link', label, type: 'textarea', value: link }],
    figure: await qrCode(link, 'QR code of the link').catch(() => undefined), confirm: 'Done',
  });
}
