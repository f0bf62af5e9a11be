// Calls with @livekit/rtc-node: real encoders and decoders.

import assert from 'node:assert/strict';

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
import { DataPacket_Kind } from 'livekit-server-sdk';

import { api, eventually, roomName, sleep, token, url } from './common.js';
import { eventsOf } from './webhooks.js';

/** Joins a room; what is heard and seen is counted in the result. */
async function join(cleanups, room, identity, { grant, claims, autoSubscribe = true } = {}) {
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
  await r.connect(url, await token(room, identity, grant, claims), { autoSubscribe, dynacast: false });
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

/** Publishes a tone, or with video a picture whose brightness changes. */
async function publish(cleanups, peer, name) {
  const video = name !== 'microphone';
  const source = video ? new VideoSource(320, 180) : new AudioSource(48000, 1);
  const track = video ? LocalVideoTrack.createVideoTrack(name, source) : LocalAudioTrack.createAudioTrack(name, source);
  let running = true;
  const feed = (async () => {
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

const told = (peer, line) =>
  eventually(`${peer.room.localParticipant.identity} is told "${line}", was told ${peer.log}`, () => peer.log.includes(line));

const hears = (peer, key) => {
  const before = peer.audio.get(key) ?? 0;
  return eventually(`hears ${key}`, () => (peer.audio.get(key) ?? 0) > before + 50);
};

const sees = (peer, key) => {
  const before = peer.video.get(key)?.pictures ?? 0;
  return eventually(`sees ${key}`, () => {
    const seen = peer.video.get(key);
    return seen && seen.pictures > before + 8 && seen.brightness.size >= 3;
  });
};

export const callTests = [
  [
    'call: sound and pictures, second video, late joiner, unpublish, leave',
    async (cleanups) => {
      const room = roomName();
      const alice = await join(cleanups, room, 'alice');
      const bob = await join(cleanups, room, 'bob');
      assert.match(await alice.room.getSid(), /^RM_/);
      await publish(cleanups, alice, 'microphone');
      const camera = await publish(cleanups, alice, 'camera');
      await hears(bob, 'alice microphone');
      await sees(bob, 'alice camera');
      await told(alice, 'someone subscribed');
      await publish(cleanups, alice, 'screen');
      await sees(bob, 'alice screen');

      const carol = await join(cleanups, room, 'carol');
      await hears(carol, 'alice microphone');
      await sees(carol, 'alice camera');
      await publish(cleanups, carol, 'microphone');
      await hears(alice, 'carol microphone');

      await alice.room.localParticipant.unpublishTrack(camera.sid);
      await told(bob, 'unpublished alice camera');
      await sees(bob, 'alice screen');
      await publish(cleanups, alice, 'camera');
      await sees(bob, 'alice camera');

      await alice.room.disconnect();
      await told(bob, 'left alice');
      await eventually('participant_left', () => eventsOf(room).some((e) => e.event === 'participant_left'));
    },
  ],
  [
    'call: mute, unmute, unsubscribe, auto_subscribe=false',
    async (cleanups) => {
      const room = roomName();
      const alice = await join(cleanups, room, 'alice');
      const microphone = await publish(cleanups, alice, 'microphone');
      const bob = await join(cleanups, room, 'bob', { autoSubscribe: false });
      const remote = await eventually('the publication', () =>
        bob.room.remoteParticipants.get('alice')?.trackPublications.get(microphone.sid));
      await sleep(1000);
      assert.equal(bob.audio.size, 0);
      remote.setSubscribed(true);
      await hears(bob, 'alice microphone');
      await api.mutePublishedTrack(room, 'alice', microphone.sid, true);
      await told(bob, 'muted alice microphone');
      remote.setSubscribed(false);
      await told(bob, 'unsubscribed alice microphone');
    },
  ],
  [
    'call: moderator and own state',
    async (cleanups) => {
      const room = roomName();
      const alice = await join(cleanups, room, 'alice', {
        grant: { canUpdateOwnMetadata: true }, claims: { name: 'Alice', metadata: 'm0', attributes: { a: '0' } },
      });
      const bob = await join(cleanups, room, 'bob');
      const seen = await eventually('alice', () => bob.room.remoteParticipants.get('alice'));
      assert.equal(seen.name, 'Alice');
      assert.equal(seen.metadata, 'm0');
      assert.deepEqual(seen.attributes, { a: '0' });
      await alice.room.localParticipant.updateMetadata('m1');
      await told(bob, 'metadata alice');
      await alice.room.localParticipant.updateName('Alice II');
      await told(bob, 'name alice Alice II');
      await alice.room.localParticipant.setAttributes({ b: '1' });
      await told(bob, 'attributes alice {"b":"1"}');
      await bob.room.localParticipant.updateMetadata('forbidden'); // this SDK does not report the refusal

      const changed = await api.updateParticipant(room, 'alice', {
        metadata: 'm2', name: 'Moderated', attributes: { b: '2' }, permission: { canSubscribe: true, canPublish: false, canPublishData: false },
      });
      assert.equal(changed.permission.canPublish, false);
      await told(bob, 'name alice Moderated');
      assert.equal(bob.room.remoteParticipants.get('alice').metadata, 'm2');
      assert.equal((await api.getParticipant(room, 'bob')).metadata, '');
      assert.deepEqual((await api.listParticipants(room)).map((p) => p.identity).sort(), ['alice', 'bob']);
      assert.equal((await api.getParticipant(room, 'alice')).metadata, 'm2');
      await api.updateRoomMetadata(room, 'news');
      await told(bob, 'room metadata news');

      await api.removeParticipant(room, 'bob');
      await told(bob, 'disconnected PARTICIPANT_REMOVED');
      await api.deleteRoom(room);
      await told(alice, 'disconnected ROOM_DELETED');
    },
  ],
  [
    'call: subscriptions by the server',
    async (cleanups) => {
      const room = roomName();
      const alice = await join(cleanups, room, 'alice');
      const bob = await join(cleanups, room, 'bob', { autoSubscribe: false });
      const microphone = await publish(cleanups, alice, 'microphone');
      await told(bob, 'published alice microphone');
      await api.updateSubscriptions(room, 'bob', [microphone.sid], true);
      await hears(bob, 'alice microphone');
      await api.updateSubscriptions(room, 'bob', [microphone.sid], false);
    },
  ],
  [
    'call: data, streams, RPC',
    async (cleanups) => {
      const room = roomName();
      const alice = await join(cleanups, room, 'alice');
      const bob = await join(cleanups, room, 'bob');
      const carol = await join(cleanups, room, 'carol');
      await eventually('alice sees both', () => alice.room.remoteParticipants.size === 2);
      const me = alice.room.localParticipant;
      await me.publishData(Buffer.from('to all'), { reliable: true });
      await me.publishData(Buffer.from('for bob'), { reliable: true, topic: 't', destination_identities: ['bob'] });
      await eventually('bob gets both', () => bob.data.includes('alice//to all') && bob.data.includes('alice/t/for bob'));
      await eventually('a lossy packet', async () => {
        await me.publishData(Buffer.from('lossy'), { reliable: false });
        return carol.data.includes('alice//lossy');
      });
      assert.ok(carol.data.includes('alice//to all'));
      assert.ok(!carol.data.includes('alice/t/for bob'));
      await api.sendData(room, Buffer.from('from the server'), DataPacket_Kind.RELIABLE, { topic: 's', destinationIdentities: ['carol'] });
      await eventually('the server’s data', () => carol.data.includes('/s/from the server'));

      const text = 'zwölf Boxkämpfer '.repeat(5000);
      const read = new Promise((resolve) =>
        bob.room.registerTextStreamHandler('chat', async (reader, from) => resolve(`${from.identity}: ${await reader.readAll()}`)));
      await me.sendText(text, { topic: 'chat' });
      assert.equal(await read, `alice: ${text}`);

      bob.room.localParticipant.registerRpcMethod('double', async ({ callerIdentity, payload }) => `${callerIdentity} ${payload}${payload}`);
      assert.equal(await me.performRpc({ destinationIdentity: 'bob', method: 'double', payload: 'ab' }), 'alice abab');
      await assert.rejects(me.performRpc({ destinationIdentity: 'bob', method: 'unknown', payload: '' }), (err) => err.code === 1400);
    },
  ],
  [
    'call: the same identity twice',
    async (cleanups) => {
      const room = roomName();
      const first = await join(cleanups, room, 'alice');
      const second = await join(cleanups, room, 'alice');
      await told(first, 'disconnected DUPLICATE_IDENTITY');
      assert.ok(second.room.isConnected);
    },
  ],
];
