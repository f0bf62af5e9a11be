// Not a list of scenarios: a participant for tests of several kinds of clients
// together, who drive it by RPC.

import { answer } from './answers.mjs';
import { hears, join, publish, sees } from './peer.js';

const me = await join(new URLSearchParams(location.search).get('room'), 'page');
answer(me.room, (identity) => Promise.all([sees(me, `${identity} camera`), hears(me, `${identity} microphone`)]));
await publish(me, 'camera');
await publish(me, 'microphone');

export const scenarios = [];
