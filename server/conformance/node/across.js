// A participant with LiveKit's Node SDK, in the room that PARLOR_ROOM names, for
// tests of several kinds of clients together. It ends with its standard input.

import { answer } from '../../../static/browser/testdata/client/answers.mjs';
import { hears, join, publish, sees } from './peers.js';

const me = await join([], process.env.PARLOR_ROOM, 'node');
answer(me.room, (identity) => Promise.all([sees(me, `${identity} camera`), hears(me, `${identity} microphone`)]));
await publish([], me, 'camera');
await publish([], me, 'microphone');
process.stdin.on('end', () => process.exit(0)).resume();
