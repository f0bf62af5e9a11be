// The actions of a moderator on the room and its participants: calls of the room API with
// the person's own token.

import { t } from './texts.js';

const { Track } = window.LivekitClient;

const SPOTLIGHT = 'parlor.spotlight'; // a member of the room's metadata, if that is JSON

// A request to unmute is data from one page to another, on this topic.
export const ASK_TOPIC = 'parlor.ask';

// nameable reports whether a text can be a segment of a path, in which a browser takes '.' and
// '..' for steps, however they are written.
export const nameable = (text) => Boolean(text) && text !== '.' && text !== '..';

export class Moderation {
  #room;

  constructor(room) {
    this.#room = room;
  }

  // allowed reports whether the person's token permits moderation.
  get allowed() {
    const grant = this.#grant;
    return grant.roomAdmin === true && (!grant.room || grant.room === this.#room.name);
  }

  // known reports whether there is a token to tell what is allowed.
  get known() {
    return this.#token !== '';
  }

  // mayClose reports whether the token also permits ending rooms.
  get mayClose() {
    return this.allowed && this.#grant.roomCreate === true;
  }

  // state is the server's state of the room: locked, hold.
  state() {
    return this.#call('GET', '');
  }

  // hosts are the identities of those who run the room.
  async hosts() {
    const { participants } = await this.#call('GET', '/participants');
    return new Set(participants.filter(({ host }) => host).map(({ identity }) => identity));
  }

  makeHost(participant, is) {
    return this.#of(participant, is ? 'PUT' : 'DELETE', '/host');
  }

  lock(locked) {
    return this.#call('PATCH', '', { locked });
  }

  // keepChat has the room keep its chat, or delete what it has kept.
  keepChat(on) {
    return this.#call('PATCH', '', { keep_chat: on });
  }

  // deleteMessage deletes what the room keeps, for everybody.
  deleteMessage(identity, id) {
    return this.#call('DELETE', `/chat/${encodeURIComponent(identity)}/${encodeURIComponent(id)}`);
  }

  waitingRoom(on) {
    return this.#call('PATCH', '', { waiting_room: on });
  }

  // knocks is who waits to be let in: {knocks: [{id, name, since}]}.
  knocks() {
    return this.#call('GET', '/knocks');
  }

  // decide answers one who waits: admit or refuse.
  decide(id, how) {
    return this.#call('POST', `/knocks/${encodeURIComponent(id)}/${how}`);
  }

  admitAll() {
    return this.#call('POST', '/knocks/admit');
  }

  // muteAll mutes all other microphones; hold keeps them muted.
  muteAll(hold) {
    return this.#call('POST', '/mute', { sources: ['microphone'], except: [this.#room.localParticipant.identity], hold });
  }

  release() {
    return this.#call('DELETE', '/mute');
  }

  close() {
    return this.#call('DELETE', '');
  }

  // turnOff mutes the participant's track of that source.
  async turnOff(participant, source) {
    const publication = participant.getTrackPublication(source);
    if (publication && !publication.isMuted) await this.#of(participant, 'PATCH', `/tracks/${encodeURIComponent(publication.trackSid)}`, { muted: true });
  }

  // ask makes the participant's page offer to turn the microphone on.
  ask(participant) {
    return this.#room.localParticipant.publishData(new TextEncoder().encode(JSON.stringify({ unmute: 'microphone' })), {
      reliable: true, topic: ASK_TOPIC, destinationIdentities: [participant.identity],
    });
  }

  rename(participant, name) {
    return this.#of(participant, 'PATCH', '', { name });
  }

  // spotlight makes all pages show the identity large; '' ends that. It is part of the
  // room's metadata, which only those who run the room can change.
  spotlight(identity) {
    const metadata = metadataOf(this.#room);
    if (!metadata) throw new Error(t('people.spotlight-taken'));
    if (identity) metadata[SPOTLIGHT] = identity;
    else delete metadata[SPOTLIGHT];
    return this.#call('PATCH', '', { metadata: Object.keys(metadata).length > 0 ? JSON.stringify(metadata) : '' });
  }

  // elsewhere is the room to which the token permits moving people; '' = to none.
  get elsewhere() {
    return this.allowed ? this.#grant.destinationRoom ?? '' : '';
  }

  move(participant) {
    return this.#of(participant, 'POST', '/move', { room: this.elsewhere });
  }

  // placement is what the person may know of the room's division: {open, here, mine, …}.
  placement() {
    return this.#call('GET', '/breakout');
  }

  // goTo moves the person itself to a breakout room; '' = back to the main room.
  goTo(to) {
    return this.#call('POST', '/breakout', { to });
  }

  // division is how the room is divided, and who is where; so is what the next three return.
  // Its etag tells the breakout rooms and who is assigned.
  division() {
    return this.#call('GET', '/breakouts');
  }

  // divide fails with the status 412 if the breakout rooms are not those of the etag.
  divide(breakouts, etag) {
    return this.#call('PUT', '/breakouts', { breakouts }, etag ? { 'If-Match': etag } : {});
  }

  sendOut(seconds) {
    return this.#call('POST', '/breakouts/open', seconds ? { seconds } : undefined);
  }

  callBack() {
    return this.#call('POST', '/breakouts/close');
  }

  // tell shows a text to everybody in all rooms, after the person's name.
  tell(text) {
    return this.#call('POST', '/breakouts/message', { text });
  }

  // helped takes a call for help down in the breakout room that the person has come to.
  async helped(room, identity) {
    for (let tries = 0; this.#room.name !== room && tries < 20; tries++) await new Promise((done) => setTimeout(done, 100));
    return this.#call('PATCH', `/participants/${encodeURIComponent(identity)}`, { attributes: { 'parlor.help': '' } });
  }

  lowerHand(participant) {
    return this.#of(participant, 'PATCH', '', { attributes: { 'parlor.hand': '' } });
  }

  letSpeak(participant, may) {
    return this.#of(participant, 'PATCH', '', { permissions: { can_publish: may } });
  }

  remove(participant) {
    return this.#of(participant, 'DELETE', '');
  }

  ban(participant) {
    return this.#call('PUT', `/bans/${encodeURIComponent(participant.identity)}`);
  }

  get #token() {
    return this.#room.engine?.token ?? ''; // livekit-client refreshes it
  }

  get #grant() {
    try {
      const part = this.#token.split('.')[1].replace(/-/g, '+').replace(/_/g, '/');
      return JSON.parse(atob(part)).video ?? {};
    } catch {
      return {};
    }
  }

  #of(participant, method, path, body) {
    return this.#call(method, `/participants/${encodeURIComponent(participant.identity)}${path}`, body);
  }

  async #call(method, path, body, headers = {}) {
    const response = await fetch(`v1/rooms/${encodeURIComponent(this.#room.name)}${path}`, {
      method,
      headers: { Authorization: `Bearer ${this.#token}`, ...(body && { 'Content-Type': 'application/json' }), ...headers },
      body: body && JSON.stringify(body),
      signal: AbortSignal.timeout(10_000),
    });
    if (response.ok) return response.status === 204 ? null : { ...await response.json(), etag: response.headers.get('ETag') };
    const problem = await response.json().catch(() => ({}));
    const error = new Error(problem.detail || problem.title || `the server answered ${response.status}`);
    throw Object.assign(error, { status: response.status });
  }
}

// metadataOf is the room's metadata, null if it is not a JSON object: then it is an app's own.
function metadataOf(room) {
  if (!room.metadata) return {};
  try {
    const metadata = JSON.parse(room.metadata);
    return metadata && typeof metadata === 'object' && !Array.isArray(metadata) ? metadata : null;
  } catch {
    return null;
  }
}

const spotlights = new WeakMap(); // room → {metadata, identity}: views ask often, and metadata can be long

// spotlighted is the identity that those who run the room show large for all; '' = none.
export function spotlighted(room) {
  const { metadata } = room;
  let known = spotlights.get(room);
  if (!known || known.metadata !== metadata) {
    const identity = metadataOf(room)?.[SPOTLIGHT];
    known = { metadata, identity: typeof identity === 'string' ? identity : '' };
    spotlights.set(room, known);
  }
  return known.identity;
}

// isSending reports whether the participant's source is on.
export function isSending(participant, source) {
  const publication = participant.getTrackPublication(source);
  return Boolean(publication) && !publication.isMuted;
}

export const { Microphone, Camera } = Track.Source;
