// Calls with @livekit/rtc-node.

import assert from 'node:assert/strict';

import { DataPacket_Kind } from 'livekit-server-sdk';

import { api, eventually, roomName, sleep } from './common.js';
import { hears, join, mute, publish, sees, told } from './peers.js';
import { eventsOf } from './webhooks.js';

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
      await Promise.all([sees(carol, 'alice camera'), sees(carol, 'alice screen')]);
      await publish(cleanups, carol, 'microphone');
      await hears(alice, 'carol microphone');

      await alice.room.localParticipant.unpublishTrack(camera.sid);
      await told(bob, 'unpublished alice camera');
      await sees(bob, 'alice screen');
      const again = await publish(cleanups, alice, 'camera');
      assert.notEqual(again.sid, camera.sid);
      await Promise.all([bob, carol].flatMap((peer) => [sees(peer, 'alice camera'), sees(peer, 'alice screen')]));

      await alice.room.disconnect();
      await told(bob, 'left alice');
      await eventually('participant_left', () => eventsOf(room).some((e) => e.event === 'participant_left'));
    },
  ],
  [
    'call: mute, unmute, unsubscribe, subscribe again, auto_subscribe=false',
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
      await api.mutePublishedTrack(room, 'alice', microphone.sid, false);
      await told(bob, 'unmuted alice microphone');
      await hears(bob, 'alice microphone');
      remote.setSubscribed(false);
      await told(bob, 'unsubscribed alice microphone');
      remote.setSubscribed(true);
      await hears(bob, 'alice microphone');
    },
  ],
  [
    'call: one mutes oneself, and unsubscribes from one of two pictures',
    async (cleanups) => {
      const room = roomName();
      const alice = await join(cleanups, room, 'alice');
      const bob = await join(cleanups, room, 'bob');
      const microphone = await publish(cleanups, alice, 'microphone');
      const camera = await publish(cleanups, alice, 'camera');
      const screen = await publish(cleanups, alice, 'screen');
      const all = [['microphone', microphone, hears], ['camera', camera, sees], ['screen', screen, sees]];
      for (const [name, , arrives] of all) await arrives(bob, `alice ${name}`);
      for (const [name, publication, arrives] of all) {
        mute(publication, true);
        await told(bob, `muted alice ${name}`);
        // This SDK fails if it is told of a track when it has just left: so it gets none.
        const late = await join(cleanups, room, 'late', { autoSubscribe: false });
        const seen = await eventually(name, () => late.room.remoteParticipants.get('alice')?.trackPublications.get(publication.sid));
        assert.equal(seen.muted, true);
        await late.room.disconnect();
        mute(publication, false);
        await told(bob, `unmuted alice ${name}`);
        await arrives(bob, `alice ${name}`);
      }
      const remote = bob.room.remoteParticipants.get('alice').trackPublications.get(screen.sid);
      remote.setSubscribed(false);
      await told(bob, 'unsubscribed alice screen');
      await sees(bob, 'alice camera');
      remote.setSubscribed(true);
      await Promise.all([sees(bob, 'alice screen'), sees(bob, 'alice camera')]);
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
