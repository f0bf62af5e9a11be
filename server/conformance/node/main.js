// Drives a running server with LiveKit's Node SDKs. The server and the port
// for its webhooks come from the environment; see node_test.go.
// The last line is "N passed, N failed".

import { dispose } from '@livekit/rtc-node';

import { callTests } from './calls.js';
import { dataTrackTests } from './datatracks.js';
import { rightsTests } from './rights.js';
import { roomTests } from './rooms.js';
import { close, listen } from './webhooks.js';

const timeout = 180_000;

await listen();
let passed = 0;
let failed = 0;
for (const [name, test] of [...roomTests, ...callTests, ...rightsTests, ...dataTrackTests]) {
  const began = Date.now();
  const cleanups = [];
  let timer;
  try {
    await Promise.race([
      test(cleanups),
      new Promise((_, reject) => {
        timer = setTimeout(() => reject(new Error(`not done within ${timeout / 1000} s`)), timeout);
      }),
    ]);
    passed++;
    console.log(`ok    ${name} (${Date.now() - began} ms)`);
  } catch (err) {
    failed++;
    console.log(`FAIL  ${name} (${Date.now() - began} ms)\n${err.stack ?? err}`);
  } finally {
    clearTimeout(timer);
  }
  for (const cleanup of cleanups.reverse()) {
    try {
      await cleanup();
    } catch (err) {
      failed++;
      console.log(`FAIL  after ${name}\n${err.stack ?? err}`);
    }
  }
}
await close();
await dispose();
console.log(`${passed} passed, ${failed} failed`);
process.exit(failed === 0 ? 0 : 1);
