// Data between participants, and coming back after failures.

import {
  assert, equal, eventually, hears, join, protocols, publication, publish, rejects, roomName, sees, single, sleep, told, width,
} from './peer.js';

const bytes = (text) => new TextEncoder().encode(text);

async function trio() {
  const room = roomName();
  const peers = await Promise.all(['alice', 'bob', 'carol'].map((identity) => join(room, identity)));
  await eventually('all see all', () => peers.every((peer) => peer.room.remoteParticipants.size === 2));
  return peers;
}

/** Two who see and hear each other, one of whom plays a failure. */
async function call() {
  const room = roomName();
  const [alice, bob] = await Promise.all([join(room, 'alice'), join(room, 'bob')]);
  await Promise.all([publish(alice, 'camera'), publish(alice, 'microphone'), publish(bob, 'camera')]);
  await Promise.all([sees(bob, 'alice camera'), hears(bob, 'alice microphone'), sees(alice, 'bob camera')]);
  return { alice, bob };
}

const flows = ({ alice, bob }) => Promise.all([sees(bob, 'alice camera'), hears(bob, 'alice microphone'), sees(alice, 'bob camera')]);

export const scenarios = [
  ['packets', async () => {
    const [alice, bob, carol] = await trio();
    const send = (text, options) => alice.room.localParticipant.publishData(bytes(text), options);
    await send('to all', { reliable: true });
    await send('for bob', { reliable: true, topic: 't', destinationIdentities: ['bob'] });
    await send('after', { reliable: true });
    await eventually('bob gets all', () => bob.data.length === 3);
    equal(bob.data, ['alice//to all', 'alice/t/for bob', 'alice//after'], 'what bob got');
    await eventually('carol gets hers', () => carol.data.length === 2);
    equal(carol.data, ['alice//to all', 'alice//after'], 'what carol got');
    await eventually('a lossy packet', async () => {
      await send('lossy', { reliable: false });
      return carol.data.includes('alice//lossy');
    });
    for (let n = 0; n < 200; n++) await send(`${n}`, { reliable: true, topic: 'order' });
    const ordered = () => carol.data.filter((line) => line.startsWith('alice/order/'));
    await eventually('all in order', () => ordered().length === 200);
    equal(ordered(), Array.from({ length: 200 }, (_, n) => `alice/order/${n}`), 'the order');
    equal(alice.data, [], 'what comes back to the sender');
  }],
  ['text streams, byte streams, RPC', async () => {
    const [alice, bob] = await trio();
    const text = 'grüezi mitenand '.repeat(8000);
    const read = new Promise((resolve) => bob.room.registerTextStreamHandler('chat', async (reader, from) => resolve([from.identity, await reader.readAll()])));
    await alice.room.localParticipant.sendText(text, { topic: 'chat' });
    equal(await read, ['alice', text], 'the text');

    const file = new File([Uint8Array.from({ length: 100_000 }, (_, n) => n % 251)], 'numbers.bin');
    const received = new Promise((resolve) => bob.room.registerByteStreamHandler('files', async (reader) => resolve([reader.info.name, await new Blob(await reader.readAll()).arrayBuffer()])));
    await alice.room.localParticipant.sendFile(file, { topic: 'files' });
    const [name, content] = await received;
    equal(name, 'numbers.bin', 'the name');
    equal([...new Uint8Array(content)], [...new Uint8Array(await file.arrayBuffer())], 'the file');

    bob.room.registerRpcMethod('double', async ({ callerIdentity, payload }) => `${callerIdentity} ${payload}${payload}`);
    const call = (method, payload) => alice.room.localParticipant.performRpc({ destinationIdentity: 'bob', method, payload });
    equal(await call('double', 'ab'), 'alice abab', 'the answer');
    equal((await call('double', 'x'.repeat(20_000))).length, 40_006, 'the length of a long answer');
    equal((await rejects(call('unknown', ''), 'an unknown method')).code, 1400, 'the code');
  }],
  // What a lost WebSocket must not do: touch the media.
  ...['signal-reconnect', 'disconnect-signal-on-resume', 'disconnect-signal-on-resume-no-messages'].map((name) => [`resume: ${name}`, async () => {
    const { alice, bob } = await call();
    const sid = publication(bob, 'alice camera').trackSid;
    await alice.room.simulateScenario(name);
    await told(alice, 'resuming');
    await told(alice, 'reconnected');
    await flows({ alice, bob });
    equal(publication(bob, 'alice camera').trackSid, sid, 'the track');
    for (const line of ['left alice', 'unpublished alice camera', 'unsubscribed alice camera']) assert(!bob.log.includes(line), `bob was told "${line}"`);
    assert(!alice.log.includes('reconnecting'), 'no full reconnect');
    await alice.room.localParticipant.publishData(bytes('still here'), { reliable: true });
    await eventually('data after it', () => bob.data.includes('alice//still here'));
  }]),
  ...['full-reconnect', 'resume-reconnect', 'leave-full-reconnect', 'node-failure', 'migration'].map((name) => [`full reconnect: ${name}`, async () => {
    const { alice, bob } = await call();
    await alice.room.simulateScenario(name);
    await told(alice, 'reconnecting');
    await told(alice, 'reconnected');
    await flows({ alice, bob });
    // The client loses what it is given in the first two seconds after it: send until seen.
    await eventually('data after it', async () => {
      await alice.room.localParticipant.publishData(bytes('back'), { reliable: true });
      await sleep(200);
      return bob.data.includes('alice//back');
    });
  }]),
  // The next transports are offered nothing but TCP, and so is what they send and get.
  ['full reconnect: force-tcp', async () => {
    const { alice, bob } = await call();
    equal(await protocols(alice), single ? ['udp'] : ['udp', 'udp'], 'what goes before');
    await alice.room.simulateScenario('force-tcp');
    await told(alice, 'reconnecting');
    await told(alice, 'reconnected');
    await flows({ alice, bob });
    await eventually('TCP alone', async () => (await protocols(alice)).every((protocol) => protocol === 'tcp'));
  }],
  // Without a relay there is none; whoever asks for it comes back as before.
  ['full reconnect: force-tls', async () => {
    const { alice, bob } = await call();
    await alice.room.simulateScenario('force-tls');
    await told(alice, 'reconnecting');
    await told(alice, 'reconnected');
    await flows({ alice, bob });
  }],
  ['speaker', async () => {
    const room = roomName();
    const alice = await join(room, 'alice');
    await alice.room.simulateScenario('speaker');
    await told(alice, 'speaking [alice]');
    await told(alice, 'speaking []');
  }],
  ['subscriber-bandwidth', async () => {
    const room = roomName();
    const [alice, bob] = await Promise.all([join(room, 'alice'), join(room, 'bob')]);
    await publish(alice, 'camera', { simulcast: true }, { width: 640, height: 360 });
    await width(bob, 'alice camera', 640);
    await bob.room.simulateScenario('subscriber-bandwidth', 1000);
    await width(bob, 'alice camera', 320);
    await sees(bob, 'alice camera');
    await bob.room.simulateScenario('subscriber-bandwidth', 0);
    await width(bob, 'alice camera', 640);
  }],
  ['leave: server-leave', async () => {
    const { alice, bob } = await call();
    await alice.room.simulateScenario('server-leave');
    await told(alice, 'disconnected SERVER_SHUTDOWN');
    await told(bob, 'left alice');
  }],
];
