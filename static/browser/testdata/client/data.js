// Data between participants, and coming back after failures.

import {
  assert, equal, eventually, hears, inbound, join, protocols, publication, publish, rejects, roomName, sees, single, sleep, told, width,
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

/** The data tracks that a peer sees, by name. */
function tracksOf(peer) {
  const tracks = new Map();
  peer.room.on('dataTrackPublished', (track) => tracks.set(track.info.name, track));
  peer.room.on('dataTrackUnpublished', (sid) => {
    for (const [name, track] of tracks) if (track.info.sid === sid) tracks.delete(name);
  });
  return tracks;
}

/** What comes of a data track, read as it comes. */
function framesOf(track) {
  const got = { texts: new Set(), times: new Set(), ended: false };
  (async () => {
    const reader = track.subscribe().getReader();
    for (let next; !(next = await reader.read()).done;) {
      got.texts.add(new TextDecoder().decode(next.value.payload));
      got.times.add(next.value.userTimestamp);
    }
  })().catch(() => {}).finally(() => { got.ended = true; });
  return got;
}

/** Pushes text ten times a second until the function that it gives is called. */
function keepsPushing(track, text) {
  const timer = setInterval(() => track.tryPush({ payload: bytes(text) }).catch(() => {}), 100);
  return () => clearInterval(timer);
}

const flows = ({ alice, bob }) => Promise.all([sees(bob, 'alice camera'), hears(bob, 'alice microphone'), sees(alice, 'bob camera')]);

/** Joins so that the candidates of one protocol are hidden from both ends: those of hidden.protocol. */
async function joinHiding(hidden, ...args) {
  const Plain = window.RTCPeerConnection;
  const seen = (candidate) => !candidate?.toLowerCase().split(' ').includes(hidden.protocol);
  window.RTCPeerConnection = class extends Plain {
    addIceCandidate(candidate) { return seen(candidate?.candidate) ? super.addIceCandidate(candidate) : Promise.resolve(); }

    setRemoteDescription({ type, sdp }) {
      const lines = sdp.split('\r\n').filter((line) => !line.startsWith('a=candidate:') || seen(line));
      return super.setRemoteDescription({ type, sdp: lines.join('\r\n') });
    }

    set onicecandidate(tell) { super.onicecandidate = (event) => { if (seen(event.candidate?.candidate)) tell?.(event); }; }
  };
  try {
    return await join(...args);
  } finally {
    window.RTCPeerConnection = Plain;
  }
}

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
  ['data tracks: several subscribers, a late one, large frames, unpublish', async () => {
    const [alice, bob, carol] = await trio();
    const [seen, other] = [tracksOf(bob), tracksOf(carol)];
    const geo = await alice.room.localParticipant.publishDataTrack({ name: 'geo' });
    equal((await rejects(alice.room.localParticipant.publishDataTrack({ name: 'geo' }), 'a second track of one name')).reasonName, 'DuplicateName', 'why');
    await eventually('both see it', () => seen.get('geo') && other.get('geo'));
    equal(seen.get('geo').publisherIdentity, 'alice', 'its publisher');
    const stop = keepsPushing(geo, 'here');
    const frames = framesOf(seen.get('geo'));
    await eventually('bob gets frames', () => frames.texts.has('here'));
    const dave = await join(alice.room.name, 'dave');
    const late = [...dave.room.remoteParticipants.get('alice').dataTracks.values()];
    equal(late.map((track) => track.info.name), ['geo'], 'what one who comes late sees');
    const hers = framesOf(late[0]);
    await eventually('dave gets frames', () => hers.texts.has('here'));
    stop();
    const large = 'x'.repeat(300_000); // many packets
    await eventually('a large frame', async () => {
      await geo.tryPush({ payload: bytes(large), userTimestamp: 42n });
      await sleep(500);
      return frames.texts.has(large) && frames.times.has(42n);
    });
    const heat = await alice.room.localParticipant.publishDataTrack({ name: 'heat' });
    await eventually('the second track', () => other.get('heat'));
    const warm = framesOf(other.get('heat'));
    await eventually('it goes to who asks', async () => {
      await heat.tryPush({ payload: bytes('20') });
      await sleep(50);
      return warm.texts.has('20');
    });
    assert(!frames.texts.has('20'), 'bob has not asked for it');
    await geo.unpublish();
    await eventually('it ends', () => frames.ended && hers.ended && !seen.get('geo'));
    assert(!warm.ended, 'the other goes on');
  }],
  ['data tracks: resume and full reconnect, of the publisher and of a subscriber', async () => {
    const [alice, bob] = await trio();
    const seen = tracksOf(bob);
    const geo = await alice.room.localParticipant.publishDataTrack({ name: 'geo' });
    await eventually('bob sees it', () => seen.get('geo'));
    let frames = framesOf(seen.get('geo'));
    const flows = (text) => eventually(`bob gets ${text}`, async () => {
      if (frames.ended && seen.get('geo')) frames = framesOf(seen.get('geo')); // subscribed again
      await geo.tryPush({ payload: bytes(text) }).catch(() => {}); // while it is published again
      await sleep(50);
      return frames.texts.has(text);
    });
    await flows('first');
    const first = frames;
    for (const [peer, scenario, line] of [
      [alice, 'signal-reconnect', 'resuming'], [bob, 'signal-reconnect', 'resuming'],
      [alice, 'full-reconnect', 'reconnecting'], [bob, 'full-reconnect', 'reconnecting'],
    ]) {
      peer.log.length = 0;
      await peer.room.simulateScenario(scenario);
      await told(peer, line);
      await told(peer, 'reconnected');
      await flows(`after ${scenario} of ${peer.room.localParticipant.identity}`);
      assert(frames === first || line === 'reconnecting', 'a resume ends no stream');
    }
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
  // The picture goes on while the connections of its viewer move from UDP to TCP, and back: the
  // decoder needs no other key frame.
  ['resumes over another protocol', async () => {
    const hidden = { protocol: 'tcp' };
    const room = roomName();
    const [alice, bob] = await Promise.all([join(room, 'alice'), joinHiding(hidden, room, 'bob')]);
    await Promise.all([publish(alice, 'camera'), publish(alice, 'microphone'), publish(bob, 'camera')]);
    await flows({ alice, bob });
    const all = (protocol) => eventually(async () => `all goes over ${protocol}: ${await protocols(bob)}`,
      async () => (await protocols(bob)).every((one) => one === protocol));
    const decoded = async () => {
      const { keyFramesDecoded, pliCount, firCount } = await inbound(bob, 'alice camera');
      return { keyFramesDecoded, pliCount, firCount: firCount ?? 0 };
    };
    await all('udp');
    const before = await decoded();
    for (const [from, to] of [['udp', 'tcp'], ['tcp', 'udp']]) {
      hidden.protocol = from;
      bob.log.length = 0;
      await bob.room.simulateScenario('signal-reconnect');
      await told(bob, 'reconnected');
      await all(to);
      await flows({ alice, bob });
      equal(await decoded(), before, `key frames and requests for them, over ${to}`);
      assert(!bob.log.includes('reconnecting'), 'no full reconnect');
    }
  }],
  // Without a relay there is none; a client that asks for one comes back as before.
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
