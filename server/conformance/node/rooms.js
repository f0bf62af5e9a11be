// RoomServiceClient and WebhookReceiver of livekit-server-sdk.

import assert from 'node:assert/strict';

import { RoomServiceClient } from 'livekit-server-sdk';

import { api, apiKey, eventually, host, roomName } from './common.js';
import { eventsOf } from './webhooks.js';

/** Asserts a twirp error as the SDK reports it. */
const refuses = (promise, status, code) =>
  assert.rejects(promise, (err) => {
    assert.equal(err.status, status, err.message);
    if (code) assert.equal(err.code, code);
    return true;
  });

export const roomTests = [
  [
    'rooms: create, list, update, delete',
    async () => {
      const name = roomName();
      const room = await api.createRoom({
        name, emptyTimeout: 600, departureTimeout: 30, maxParticipants: 5, metadata: 'first',
      });
      assert.match(room.sid, /^RM_/);
      assert.equal(room.emptyTimeout, 600);
      assert.equal(room.departureTimeout, 30);
      assert.equal(room.maxParticipants, 5);
      assert.equal(room.metadata, 'first');
      assert.ok(Math.abs(Number(room.creationTime) - Date.now() / 1000) < 60);
      assert.equal((await api.createRoom({ name })).sid, room.sid);
      assert.deepEqual((await api.listRooms([name, 'absent'])).map((r) => r.sid), [room.sid]);
      assert.ok((await api.listRooms()).some((r) => r.sid === room.sid));
      assert.equal((await api.updateRoomMetadata(name, 'second')).metadata, 'second');
      await api.deleteRoom(name);
      assert.deepEqual(await api.listRooms([name]), []);
      const names = await eventually('room_finished', () => {
        const got = eventsOf(name).map((e) => e.event);
        return got.includes('room_finished') && got;
      });
      assert.deepEqual(names, ['room_started', 'room_finished']);
      assert.equal(eventsOf(name)[0].room.sid, room.sid);
    },
  ],
  [
    'rooms: what is absent',
    async () => {
      const name = roomName();
      await refuses(api.deleteRoom(name), 404, 'not_found');
      await refuses(api.updateRoomMetadata(name, 'm'), 404, 'not_found');
      await refuses(api.getParticipant(name, 'nobody'), 404, 'not_found');
      await refuses(api.removeParticipant(name, 'nobody'), 404, 'not_found');
      await refuses(api.updateParticipant(name, 'nobody', { metadata: 'm' }), 404, 'not_found');
      assert.deepEqual(await api.listParticipants(name), []);
    },
  ],
  [
    'rooms: a wrong secret',
    async () => {
      const stranger = new RoomServiceClient(host, apiKey, 'not the secret of this server at all');
      await refuses(stranger.listRooms(), 401);
    },
  ],
];
