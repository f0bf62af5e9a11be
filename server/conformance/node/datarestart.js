// Two participants with data tracks and a data blob, in a room that outlasts its server. It
// prints "ready", is told by a line of its standard input that the server was killed and is
// there again, and ends with "N passed, N failed".

import assert from 'node:assert/strict';
import { once } from 'node:events';

import { roomName } from './common.js';
import { defineSchema, feed, getSchema, goesOn, jsonSchema, publishData, read } from './engine.js';
import { join, told } from './peers.js';

const cleanups = [];
const singlePeerConnection = process.argv[2] === 'one';
const room = roomName();
const alice = await join(cleanups, room, 'alice', { singlePeerConnection });
const bob = await join(cleanups, room, 'bob', { singlePeerConnection });
await defineSchema(alice, jsonSchema('position'), '{"type":"object"}');
const sent = feed(cleanups, await publishData(alice, { name: 'positions' }), Buffer.from('here'));
await told(bob, 'data track alice positions');
const reader = read(cleanups, bob, 'alice positions');
await goesOn(cleanups, reader, sent, 'frames');
console.log('ready');

await once(process.stdin, 'data');
await told(alice, 'reconnected');
await told(bob, 'reconnected');
await goesOn(cleanups, reader, sent, 'frames after the kill');
assert.equal(await getSchema(bob, jsonSchema('position'), 'alice'), '{"type":"object"}');
console.log('1 passed, 0 failed');
process.exit(0);
