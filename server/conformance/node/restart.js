// One participant with LiveKit's Node SDK, in the room that PARLOR_ROOM names:
// it publishes a tone, listens to everybody, and prints what it knows as a line
// of JSON every 50 ms. It does nothing to come back after a restart; that is the
// SDK's business. It ends with its standard input.

import {
  AudioFrame, AudioSource, AudioStream, LocalAudioTrack, Room, TrackPublishOptions, TrackSource,
} from '@livekit/rtc-node';
import { token, url } from './common.js';

const room = new Room();
const heard = {};
const log = [];

room.on('trackSubscribed', async (track, pub, participant) => {
  if (pub.name !== 'microphone') return;
  for await (const frame of new AudioStream(track, 48000, 1)) {
    let energy = 0;
    for (const sample of frame.data) energy += sample * sample;
    if (energy > 0) heard[participant.identity] = (heard[participant.identity] ?? 0) + 1;
  }
});
for (const name of ['reconnecting', 'reconnected', 'disconnected']) room.on(name, () => log.push(name));

await room.connect(url, await token(process.env.PARLOR_ROOM, 'node'), { autoSubscribe: true, dynacast: false });
// What the SDK's core logs says why a track was not published again. The test shows it if
// it fails.
globalThis._ffiClientInstance.on('ffi_event', ({ message }) => {
  if (message?.case !== 'logs') return;
  for (const { level, target, message: text } of message.value.records) {
    if (level <= 1 || (level <= 3 && target.startsWith('livekit'))) console.error(new Date().toISOString(), level, target, text.slice(0, 500));
  }
});
const source = new AudioSource(48000, 1);
const options = new TrackPublishOptions();
options.source = TrackSource.SOURCE_MICROPHONE;
await room.localParticipant.publishTrack(LocalAudioTrack.createAudioTrack('microphone', source), options);

let n = 0; // frames given to the source
setInterval(() => console.log(JSON.stringify({ sid: room.localParticipant.sid, heard, log, captured: n })), 50);
process.stdin.on('end', () => process.exit(0)).resume();
for (; ; n++) {
  const data = Int16Array.from({ length: 480 }, (_, i) => 8000 * Math.sin(((n * 480 + i) * 440 * 2 * Math.PI) / 48000));
  await source.captureFrame(new AudioFrame(data, 48000, 1, 480));
}
