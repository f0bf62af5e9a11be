// What the engine under @livekit/rtc-node can do and that SDK has no method for: data tracks
// and their schemas, which are data blobs. All SDKs of its kind share this engine.

import { FfiHandle, DataTrackSchemaEncoding_WellKnownSchemaEncoding as SchemaEncoding } from '@livekit/rtc-ffi-bindings';

import { eventually } from './common.js';

const engine = () => globalThis._ffiClientInstance;
const ask = (name, value) => engine().request({ message: { case: name, value } });
const handleOf = (peer) => peer.room.localParticipant.ffi_handle.handle;

/** Asks for something that is answered later. */
async function call(name, value) {
  const { asyncId } = ask(name, value);
  return engine().waitFor(({ message }) => message.case === name && message.value.asyncId === asyncId);
}

/** Keeps the data tracks of others that a peer is told of, by publisher and name. */
export function noteDataTracks(cleanups, peer) {
  peer.tracks = new Map();
  const note = ({ message }) => {
    if (message.case !== 'roomEvent' || message.value.roomHandle !== peer.room.ffiHandle?.handle) return;
    const { case: what, value } = message.value.message;
    if (what === 'dataTrackPublished') {
      const { handle, info, publisherIdentity } = value.track;
      const key = `${publisherIdentity} ${info.name}`;
      peer.tracks.set(key, { handle: handle.id, info });
      peer.log.push(`data track ${key}`);
    } else if (what === 'dataTrackUnpublished') {
      for (const [key, track] of peer.tracks) if (track.info.sid === value.sid) peer.log.push(`no data track ${key}`);
    }
  };
  engine().on('ffi_event', note);
  cleanups.push(() => engine().off('ffi_event', note));
}

/** Publishes a data track. */
export async function publishData(peer, options) {
  const { result } = await call('publishDataTrack', { localParticipantHandle: handleOf(peer), options });
  if (result.case === 'error') throw Object.assign(new Error(result.value.message), { code: result.value.code });
  const { handle, info } = result.value;
  return {
    info,
    push: (payload, userTimestamp) => ask('localDataTrackTryPush', { trackHandle: handle.id, frame: { payload, userTimestamp } }).error,
    published: () => ask('localDataTrackIsPublished', { trackHandle: handle.id }).isPublished,
    unpublish: () => ask('localDataTrackUnpublish', { trackHandle: handle.id }),
  };
}

/** Sends numbered frames of a data track until the test ends; returns how many there were. */
export function feed(cleanups, track, payload, every = 20) {
  let sent = 0;
  const timer = setInterval(() => track.push(payload, BigInt(++sent)), every);
  cleanups.push(() => clearInterval(timer));
  return () => sent;
}

/** Subscribes to a data track: frames are what arrives, over is set at its end. */
export function read(cleanups, peer, key) {
  const track = peer.tracks.get(key);
  const { stream } = ask('subscribeDataTrack', { trackHandle: track.handle, options: {} });
  const owned = new FfiHandle(stream.handle.id);
  const reader = { peer, key, track, frames: [], over: false };
  const next = () => {
    if (ask('dataTrackStreamRead', { streamHandle: stream.handle.id }).eosEvent) reader.over = true;
  };
  const note = ({ message }) => {
    if (message.case !== 'dataTrackStreamEvent' || message.value.streamHandle !== stream.handle.id) return;
    const { case: what, value } = message.value.detail;
    if (what === 'frameReceived') {
      reader.frames.push(value.frame);
      next();
    } else {
      reader.over = value.error ?? true;
    }
  };
  engine().on('ffi_event', note);
  reader.close = () => {
    engine().off('ffi_event', note);
    owned.dispose();
    reader.close = () => {};
  };
  cleanups.push(() => reader.close());
  next();
  return reader;
}

/**
 * Waits until frames arrive that are sent from now on. After its publisher began anew, a
 * track is either the same to its subscribers, or they are told of a new one.
 */
export async function goesOn(cleanups, reader, sent, what) {
  const already = BigInt(sent());
  await eventually(what, () => {
    const track = reader.peer.tracks.get(reader.key);
    if (track !== reader.track) reader = read(cleanups, reader.peer, reader.key);
    return reader.frames.filter(({ userTimestamp }) => userTimestamp > already).length > 5;
  });
}

export const jsonSchema = (name) => ({ name, encoding: { encoding: { case: 'wellKnown', value: SchemaEncoding.JSON_SCHEMA } } });

/**
 * As call, of schemas. The engine does not get an answer that comes before it waits for it,
 * and then times out: so it is asked again.
 */
async function callAgain(name, value) {
  for (let n = 1; ; n++) {
    const answer = await call(name, value);
    if (n === 5 || !answer.error?.includes('timed out')) return answer;
  }
}

/** Stores a schema, which is a data blob of its participant. */
export async function defineSchema(peer, schemaId, definition) {
  const { error } = await callAgain('defineSchema', { localParticipantHandle: handleOf(peer), schemaId, definition });
  if (error) throw new Error(error);
}

/** Fetches a schema that a participant stored. */
export async function getSchema(peer, schemaId, participantIdentity) {
  const { definition, error } = await callAgain('getSchema', { localParticipantHandle: handleOf(peer), schemaId, participantIdentity });
  if (error) throw new Error(error);
  return definition;
}
