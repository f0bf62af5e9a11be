// Participants with @livekit/rtc-node: real encoders and decoders.

import {
  AudioFrame,
  AudioSource,
  AudioStream,
  DisconnectReason,
  LocalAudioTrack,
  LocalVideoTrack,
  Room,
  TrackPublishOptions,
  TrackSource,
  VideoBufferType,
  VideoFrame,
  VideoSource,
  VideoStream,
} from '@livekit/rtc-node';

import { eventually, sleep, token, url } from './common.js';
import { noteDataTracks } from './engine.js';

/** Joins a room; what is heard and seen is counted in the result. */
export async function join(cleanups, room, identity, { grant, claims, at = url, autoSubscribe = true, ...options } = {}) {
  const r = new Room();
  const peer = { room: r, log: [], data: [], audio: new Map(), video: new Map() };
  const note = (line) => peer.log.push(line);
  r.on('participantConnected', (p) => note(`joined ${p.identity}`));
  r.on('participantDisconnected', (p) => note(`left ${p.identity}`));
  r.on('trackPublished', (pub, p) => note(`published ${p.identity} ${pub.name}`));
  r.on('trackUnpublished', (pub, p) => note(`unpublished ${p.identity} ${pub.name}`));
  r.on('trackMuted', (pub, p) => note(`muted ${p.identity} ${pub.name}`));
  r.on('trackUnmuted', (pub, p) => note(`unmuted ${p.identity} ${pub.name}`));
  r.on('trackUnsubscribed', (_, pub, p) => note(`unsubscribed ${p.identity} ${pub.name}`));
  r.on('localTrackSubscribed', () => note('someone subscribed'));
  r.on('roomMetadataChanged', (m) => note(`room metadata ${m}`));
  r.on('participantMetadataChanged', (m, p) => note(`metadata ${p.identity}`));
  r.on('participantNameChanged', (n, p) => note(`name ${p.identity} ${n}`));
  r.on('participantAttributesChanged', (c, p) => note(`attributes ${p.identity} ${JSON.stringify(c)}`));
  r.on('disconnected', (reason) => note(`disconnected ${DisconnectReason[reason]}`));
  r.on('dataReceived', (payload, p, kind, topic) =>
    peer.data.push(`${p?.identity ?? ''}/${topic ?? ''}/${Buffer.from(payload)}`));
  r.on('trackSubscribed', (track, pub, p) => {
    const key = `${p.identity} ${pub.name}`;
    note(`subscribed ${key}`);
    if (pub.name === 'microphone') listenTo(track, peer.audio, key);
    else watch(track, peer.video, key);
  });
  r.on('reconnected', () => note('reconnected'));
  const connected = r.connect(at, await token(room, identity, grant, claims), { autoSubscribe, dynacast: false, ...options });
  noteDataTracks(cleanups, peer); // there is an engine now, and it tells of nothing before it is connected
  await connected;
  cleanups.push(() => r.disconnect());
  return peer;
}

/** Counts the loud 10 ms of a track. */
async function listenTo(track, counts, key) {
  counts.set(key, 0);
  for await (const frame of new AudioStream(track, 48000, 1)) {
    let energy = 0;
    for (const sample of frame.data) energy += sample * sample;
    if (Math.sqrt(energy / frame.data.length) > 500) counts.set(key, counts.get(key) + 1);
  }
}

/** Counts the pictures of a track and keeps the last one's brightness. */
async function watch(track, counts, key) {
  counts.set(key, { pictures: 0, brightness: new Set() });
  for await (const { frame } of new VideoStream(track)) {
    const seen = counts.get(key);
    const i420 = frame.convert(VideoBufferType.I420);
    seen.pictures++;
    seen.brightness.add(i420.data[Math.floor((frame.width * frame.height) / 2)] >> 5);
    seen.size = `${frame.width}x${frame.height}`;
  }
}

/** Publishes a tone, or with video a picture whose brightness changes, once start resolves. */
export async function publish(cleanups, peer, name, start = undefined) {
  const video = name !== 'microphone';
  const source = video ? new VideoSource(320, 180) : new AudioSource(48000, 1);
  const track = video ? LocalVideoTrack.createVideoTrack(name, source) : LocalAudioTrack.createAudioTrack(name, source);
  let running = true;
  const feed = (async () => {
    await start;
    for (let n = 0; running; n++) {
      if (video) {
        const data = new Uint8Array(320 * 180 * 1.5).fill(128);
        data.fill((n * 8) % 256, 0, 320 * 180);
        source.captureFrame(new VideoFrame(data, 320, 180, VideoBufferType.I420));
        await sleep(50);
      } else {
        const data = Int16Array.from({ length: 480 }, (_, i) => 8000 * Math.sin(((n * 480 + i) * 440 * 2 * Math.PI) / 48000));
        await source.captureFrame(new AudioFrame(data, 48000, 1, 480));
      }
    }
  })();
  cleanups.push(async () => {
    running = false;
    await feed;
  });
  const options = new TrackPublishOptions();
  options.source = { microphone: TrackSource.SOURCE_MICROPHONE, camera: TrackSource.SOURCE_CAMERA, screen: TrackSource.SOURCE_SCREENSHARE }[name];
  return peer.room.localParticipant.publishTrack(track, options);
}

/**
 * Mutes or unmutes a publication of one's own. This SDK has no method for it, but
 * the engine under it has: the one that all SDKs of its kind share.
 */
export const mute = (publication, on) =>
  globalThis._ffiClientInstance.request({
    message: { case: 'localTrackMute', value: { trackHandle: publication.track.ffi_handle.handle, mute: on } },
  });

export const told = (peer, line) =>
  eventually(`${peer.room.localParticipant.identity} is told "${line}", was told ${peer.log}`, () => peer.log.includes(line));

export const hears = (peer, key) => {
  const before = peer.audio.get(key) ?? 0;
  return eventually(`hears ${key}`, () => (peer.audio.get(key) ?? 0) > before + 50);
};

export const sees = (peer, key) => {
  const before = peer.video.get(key)?.pictures ?? 0;
  return eventually(`sees ${key}`, () => {
    const seen = peer.video.get(key);
    return seen && seen.pictures > before + 8 && seen.brightness.size >= 2;
  });
};
