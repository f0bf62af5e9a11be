// What participants may do, and those who do not do everything, with
// @livekit/rtc-node.

import assert from 'node:assert/strict';

import { TrackSource } from 'livekit-server-sdk';

import { eventually, roomName, sleep } from './common.js';
import { hears, join, publish, sees, told } from './peers.js';

/** Asserts that nothing of a kind was told for a while. */
async function never(peer, start, during = 700) {
  await sleep(during);
  assert.ok(!peer.log.some((line) => line.startsWith(start)), `was told ${peer.log}`);
}

export const rightsTests = [
  [
    'rights: announced before any media',
    async (cleanups) => {
      const room = roomName();
      const alice = await join(cleanups, room, 'alice');
      const bob = await join(cleanups, room, 'bob');
      const names = ['microphone', 'camera', 'screen'];
      let begin;
      const start = new Promise((resolve) => { begin = resolve; });
      cleanups.push(async () => begin());
      for (const name of names) await publish(cleanups, alice, name, start);
      for (const name of names) {
        await told(bob, `published alice ${name}`);
        await told(bob, `subscribed alice ${name}`);
      }
      const carol = await join(cleanups, room, 'carol');
      for (const name of names) await told(carol, `subscribed alice ${name}`);
      // Until there is a picture, this SDK sends black by itself, and silence.
      for (const name of ['camera', 'screen']) assert.ok(bob.video.get(`alice ${name}`).brightness.size <= 1, name);
      assert.equal(bob.audio.get('alice microphone'), 0);
      begin();
      await Promise.all([bob, carol].flatMap((peer) => [
        hears(peer, 'alice microphone'), sees(peer, 'alice camera'), sees(peer, 'alice screen'),
      ]));
    },
  ],
  [
    'rights: audio only, data only',
    async (cleanups) => {
      const room = roomName();
      const alice = await join(cleanups, room, 'alice');
      const bob = await join(cleanups, room, 'bob');
      const carol = await join(cleanups, room, 'carol'); // sends nothing but data
      await publish(cleanups, alice, 'microphone');
      await publish(cleanups, bob, 'microphone');
      await Promise.all([hears(alice, 'bob microphone'), hears(bob, 'alice microphone'), hears(carol, 'bob microphone')]);
      await eventually('all see carol', () => [alice, bob].every((peer) => peer.room.remoteParticipants.has('carol')));
      await carol.room.localParticipant.publishData(Buffer.from('hello'), { reliable: true });
      await eventually('the data', () => [alice, bob].every((peer) => peer.data.includes('carol//hello')));
    },
  ],
  [
    'rights: hidden',
    async (cleanups) => {
      const room = roomName();
      const alice = await join(cleanups, room, 'alice');
      await publish(cleanups, alice, 'microphone');
      const ghost = await join(cleanups, room, 'ghost', { grant: { hidden: true } });
      await hears(ghost, 'alice microphone');
      await ghost.room.disconnect();
      await never(alice, 'joined ghost');
      assert.ok(!alice.log.includes('left ghost'));
    },
  ],
  [
    'rights: without canPublish, canSubscribe, canPublishData; canPublishSources',
    async (cleanups) => {
      const room = roomName();
      const bob = await join(cleanups, room, 'bob');
      await publish(cleanups, bob, 'microphone');
      const listener = await join(cleanups, room, 'listener', { grant: { canPublish: false, canPublishData: true } });
      const speaker = await join(cleanups, room, 'speaker', { grant: { canSubscribe: false } });
      const quiet = await join(cleanups, room, 'quiet', { grant: { canPublishData: false } });
      const voice = await join(cleanups, room, 'voice', { grant: { canPublishSources: [TrackSource.MICROPHONE] } });

      await hears(listener, 'bob microphone');
      const refused = Promise.all([assert.rejects(publish(cleanups, listener, 'microphone')), assert.rejects(publish(cleanups, voice, 'camera'))]);
      for (const peer of [speaker, quiet]) await publish(cleanups, peer, 'microphone');
      await Promise.all([hears(bob, 'speaker microphone'), hears(bob, 'quiet microphone')]);
      await quiet.room.localParticipant.publishData(Buffer.from('forbidden'), { reliable: true }).catch(() => {});
      await listener.room.localParticipant.publishData(Buffer.from('allowed'), { reliable: true });
      await eventually('the data', () => bob.data.includes('listener//allowed'));
      await never(speaker, 'subscribed');
      assert.ok(!bob.data.includes('quiet//forbidden'));

      await refused;
      await publish(cleanups, voice, 'microphone');
      await hears(bob, 'voice microphone');
      for (const line of ['published listener microphone', 'published voice camera']) assert.ok(!bob.log.includes(line), line);
    },
  ],
];
