// Data tracks and data blobs with the engine under @livekit/rtc-node, with two peer
// connections and with one.

import assert from 'node:assert/strict';

import { SimulateScenarioKind } from '@livekit/rtc-node';

import { api, eventually, plainURL, roomName } from './common.js';
import { defineSchema, feed, getSchema, goesOn, jsonSchema, publishData, read } from './engine.js';
import { join, told } from './peers.js';

const big = Buffer.alloc(60_000, 'data track'); // more than one packet
const notAllowed = 5; // PUBLISH_DATA_TRACK_ERROR_CODE_NOT_ALLOWED
const duplicate = 2; // PUBLISH_DATA_TRACK_ERROR_CODE_DUPLICATE_NAME

const arrives = async (reader, what) => {
  const before = reader.frames.length;
  await eventually(what, () => reader.frames.length > before + 5);
};

const reconnects = (peer) => peer.log.filter((line) => line === 'reconnected').length;

const tests = (singlePeerConnection) => [
  [
    'frames arrive whole, a late joiner, subscribing again, unpublishing, leaving',
    async (cleanups) => {
      const room = roomName();
      const alice = await join(cleanups, room, 'alice', { singlePeerConnection });
      const bob = await join(cleanups, room, 'bob', { singlePeerConnection });
      const schema = jsonSchema('position');
      const json = { encoding: { case: 'custom', value: 'our own json' } };
      const track = await publishData(alice, { name: 'positions', schema, frameEncoding: json });
      assert.match(track.info.sid, /^DTR_/);
      await assert.rejects(publishData(alice, { name: 'positions' }), (err) => err.code === duplicate);
      feed(cleanups, track, big);
      await told(bob, 'data track alice positions');
      const told1 = bob.tracks.get('alice positions').info;
      assert.equal(told1.sid, track.info.sid);
      assert.equal(told1.schema.name, 'position');
      assert.equal(told1.frameEncoding.encoding.value, 'our own json');
      assert.equal(told1.usesE2ee, false);
      const first = read(cleanups, bob, 'alice positions');
      await arrives(first, 'bob gets frames');
      for (const { payload } of first.frames) assert.ok(big.equals(payload));
      const stamps = first.frames.map(({ userTimestamp }) => userTimestamp);
      assert.deepEqual(stamps, [...stamps].sort((a, b) => Number(a - b)));

      const carol = await join(cleanups, room, 'carol', { singlePeerConnection });
      await told(carol, 'data track alice positions');
      const late = read(cleanups, carol, 'alice positions');
      await arrives(late, 'carol gets frames');
      first.close();
      const second = read(cleanups, bob, 'alice positions');
      await arrives(second, 'bob gets frames again');

      const [listed] = (await api.listParticipants(room)).filter((p) => p.identity === 'alice');
      assert.deepEqual(listed.dataTracks.map((t) => t.name), ['positions']);

      const other = await publishData(bob, { name: 'positions' });
      feed(cleanups, other, Buffer.from('back'));
      await told(alice, 'data track bob positions');
      await arrives(read(cleanups, alice, 'bob positions'), 'alice gets frames');

      track.unpublish();
      assert.equal(track.published(), false);
      await eventually('bob is told that it is over', () => second.over);
      await told(carol, 'no data track alice positions');
      await bob.room.disconnect();
      await told(carol, 'no data track bob positions');
    },
  ],
  [
    'several tracks of one publisher, each by itself',
    async (cleanups) => {
      const room = roomName();
      const alice = await join(cleanups, room, 'alice', { singlePeerConnection });
      const bob = await join(cleanups, room, 'bob', { singlePeerConnection });
      // A participant of this SDK that has more than 16 does not come to the end of its leaving.
      const names = Array.from({ length: 12 }, (_, n) => `sensor ${n}`);
      for (const name of names) feed(cleanups, await publishData(alice, { name }), Buffer.from(name), 50);
      for (const name of names) await told(bob, `data track alice ${name}`);
      names.reverse(); // so that his handles are others than hers
      const readers = names.map((name) => read(cleanups, bob, `alice ${name}`));
      await Promise.all(readers.map((reader, n) => arrives(reader, names[n])));
      for (const [n, { frames }] of readers.entries()) {
        for (const { payload } of frames) assert.equal(Buffer.from(payload).toString(), names[n]);
      }
    },
  ],
  [
    'encrypted end to end',
    async (cleanups) => {
      const room = roomName();
      const encryption = { keyProviderOptions: { sharedKey: Buffer.from('a secret') } };
      const alice = await join(cleanups, room, 'alice', { singlePeerConnection, encryption });
      const bob = await join(cleanups, room, 'bob', { singlePeerConnection, encryption });
      const track = await publishData(alice, { name: 'secret' });
      assert.equal(track.info.usesE2ee, true);
      feed(cleanups, track, big);
      await told(bob, 'data track alice secret');
      assert.equal(bob.tracks.get('alice secret').info.usesE2ee, true);
      const reader = read(cleanups, bob, 'alice secret');
      await arrives(reader, 'bob reads it');
      for (const { payload } of reader.frames) assert.ok(big.equals(payload));
    },
  ],
  [
    'rights, and rights that change',
    async (cleanups) => {
      const room = roomName();
      const alice = await join(cleanups, room, 'alice', { singlePeerConnection });
      const mute = await join(cleanups, room, 'mute', { singlePeerConnection, grant: { canPublishData: false } });
      const deaf = await join(cleanups, room, 'deaf', { singlePeerConnection, grant: { canSubscribe: false } });
      await assert.rejects(publishData(mute, { name: 'forbidden' }), (err) => err.code === notAllowed);
      const track = await publishData(alice, { name: 'news' });
      feed(cleanups, track, Buffer.from('news'));
      await told(mute, 'data track alice news');
      const reader = read(cleanups, mute, 'alice news');
      await arrives(reader, 'who may not publish may read');
      await api.updateParticipant(room, 'deaf', { permission: { canSubscribe: true, canPublish: true, canPublishData: true } });
      await told(deaf, 'data track alice news');
      await arrives(read(cleanups, deaf, 'alice news'), 'who may subscribe now gets frames');
      await api.updateParticipant(room, 'alice', { permission: { canSubscribe: true, canPublish: true, canPublishData: false } });
      await eventually('it ends with its right', () => reader.over);
      await told(mute, 'no data track alice news');
    },
  ],
  [
    'after a resume and a full reconnect',
    async (cleanups) => {
      const room = roomName();
      const alice = await join(cleanups, room, 'alice', { singlePeerConnection });
      const bob = await join(cleanups, room, 'bob', { singlePeerConnection });
      const sent = feed(cleanups, await publishData(alice, { name: 'news' }), big);
      await told(bob, 'data track alice news');
      const reader = read(cleanups, bob, 'alice news');
      await goesOn(cleanups, reader, sent, 'bob gets frames');
      for (const [who, peer] of [['subscriber', bob], ['publisher', alice]]) {
        for (const [how, scenario] of [['resume', 'SIMULATE_SIGNAL_RECONNECT'], ['full reconnect', 'SIMULATE_FULL_RECONNECT']]) {
          const times = reconnects(peer);
          await peer.room.simulateScenario(SimulateScenarioKind[scenario]);
          await eventually(`the ${who}'s ${how}`, () => reconnects(peer) > times);
          await goesOn(cleanups, reader, sent, `frames after the ${who}'s ${how}`);
        }
      }
    },
  ],
  [
    'schemas, which are data blobs',
    async (cleanups) => {
      const room = roomName();
      const alice = await join(cleanups, room, 'alice', { singlePeerConnection });
      const bob = await join(cleanups, room, 'bob', { singlePeerConnection });
      const definition = 'ä'.repeat(30_000);
      await defineSchema(alice, jsonSchema('position'), definition);
      assert.equal(await getSchema(bob, jsonSchema('position'), 'alice'), definition);
      await assert.rejects(defineSchema(alice, jsonSchema('too long'), 'a'.repeat(120_000)));
      await assert.rejects(getSchema(bob, jsonSchema('unknown'), 'alice'));
      await assert.rejects(getSchema(bob, jsonSchema('position'), 'bob'));
      await bob.room.simulateScenario(SimulateScenarioKind.SIMULATE_SIGNAL_RECONNECT);
      assert.equal(await getSchema(bob, jsonSchema('position'), 'alice'), definition);
      await defineSchema(alice, jsonSchema('position'), '{}');
      assert.equal(await getSchema(bob, jsonSchema('position'), 'alice'), '{}', 'the later one counts');
    },
  ],
  [
    'data blobs are refused unless the server has them on',
    async (cleanups) => {
      const alice = await join(cleanups, roomName(), 'alice', { singlePeerConnection, at: plainURL() });
      await assert.rejects(defineSchema(alice, jsonSchema('position'), '{}'), /NotAllowed/);
      await assert.rejects(getSchema(alice, jsonSchema('position'), 'alice'), /NotAllowed/);
    },
  ],
];

export const dataTrackTests = [false, true].flatMap((single) =>
  tests(single).map(([name, test]) => [`data tracks, ${single ? 'one peer connection' : 'two peer connections'}: ${name}`, test]));
