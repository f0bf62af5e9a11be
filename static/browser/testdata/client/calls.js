// What an app does with livekit-client, judged by what the others see and hear.

import {
  assert, equal, eventually, hears, inbound, join, nothing, publication, publish, rejects, roomName, sees, sleep, steadily, stillness, told, tone,
} from './peer.js';

const bytes = (text) => new TextEncoder().encode(text);

/** Two participants of a room of their own. */
async function pair(options) {
  const room = roomName();
  const [alice, bob] = await Promise.all([join(room, 'alice'), join(room, 'bob', options)]);
  return { room, alice, bob };
}

export const scenarios = [
  ['publish, subscribe, join late, leave', async () => {
    const { room, alice, bob } = await pair();
    // The browser's own camera and microphone.
    await alice.room.localParticipant.setCameraEnabled(true, { resolution: { width: 320, height: 180, frameRate: 15 } }, { simulcast: false });
    await alice.room.localParticipant.setMicrophoneEnabled(true);
    await Promise.all([sees(bob, 'alice camera'), hears(bob, 'alice microphone')]);
    await told(alice, 'someone subscribed to camera');
    await told(alice, 'someone subscribed to microphone');
    await publish(bob, 'camera');
    await publish(bob, 'microphone');
    await Promise.all([sees(alice, 'bob camera'), hears(alice, 'bob microphone')]);

    const carol = await join(room, 'carol');
    equal([...carol.room.remoteParticipants.keys()].sort(), ['alice', 'bob'], 'whom carol finds');
    await Promise.all([sees(carol, 'alice camera'), hears(carol, 'alice microphone'), sees(carol, 'bob camera'), hears(carol, 'bob microphone')]);

    await alice.room.disconnect();
    await told(bob, 'left alice');
    await told(carol, 'left alice');
    assert(!bob.room.remoteParticipants.has('alice'), 'alice is gone');
    await sees(carol, 'bob camera');
  }],
  ['mute and unmute', async () => {
    const { room, alice, bob } = await pair();
    const camera = await publish(alice, 'camera');
    const microphone = await publish(alice, 'microphone');
    await Promise.all([sees(bob, 'alice camera'), hears(bob, 'alice microphone')]);
    for (const [pub, source, arrives] of [[camera, 'camera', sees], [microphone, 'microphone', hears]]) {
      await pub.mute();
      await told(bob, `muted alice ${source}`);
      await nothing(bob, `alice ${source}`);
      await pub.unmute();
      await told(bob, `unmuted alice ${source}`);
      await arrives(bob, `alice ${source}`);
    }
    await camera.mute();
    await told(bob, 'muted alice camera');
    const late = await join(room, 'late');
    assert(publication(late, 'alice camera').isMuted, 'who joins late sees that the camera is muted');
    await hears(late, 'alice microphone');
    await camera.unmute();
    await sees(late, 'alice camera');
  }],
  ...['vp8', 'h264'].map((videoCodec) => [`join while all is muted, ${videoCodec}`, async () => {
    const room = roomName();
    const alice = await join(room, 'alice');
    const [camera, microphone] = [
      await publish(alice, 'camera', { videoCodec, simulcast: true, backupCodec: false }, { width: 640, height: 360 }), await publish(alice, 'microphone'),
    ];
    const sent = async () => [...(await camera.track.sender.getStats()).values()]
      .reduce((sum, { type, framesEncoded = 0 }) => sum + (type === 'outbound-rtp' ? framesEncoded : 0), 0);
    await eventually('frames to be encoded', async () => await sent() > 10);
    await Promise.all([camera.mute(), microphone.mute()]);
    const bob = await join(room, 'bob');
    for (const source of ['camera', 'microphone']) {
      await told(bob, `subscribed alice ${source}`);
      assert(publication(bob, `alice ${source}`).isMuted, `bob knows that the ${source} is muted`);
      await eventually(`packets that the server made in place of the ${source}`, async () => (await inbound(bob, `alice ${source}`))?.packetsReceived > 0);
    }
    await eventually('the black picture', async () => (await inbound(bob, 'alice camera')).frameWidth === 16);
    await Promise.all([camera.unmute(), microphone.unmute()]);
    await eventually('a picture of hers', async () => (await inbound(bob, 'alice camera')).frameWidth > 16);
    const still = await stillness(sent, async () => (await inbound(bob, 'alice camera')).framesDecoded);
    assert(still <= 500, `the picture stood still for ${still} ms: ${JSON.stringify(await inbound(bob, 'alice camera'))}`);
    await Promise.all([sees(bob, 'alice camera'), hears(bob, 'alice microphone')]);
  }]),
  ['a second video track; unpublish and publish again', async () => {
    const { room, alice, bob } = await pair();
    const camera = await publish(alice, 'camera');
    await publish(alice, 'microphone');
    await publish(alice, 'screen_share');
    await Promise.all([sees(bob, 'alice camera'), sees(bob, 'alice screen_share'), hears(bob, 'alice microphone')]);
    const carol = await join(room, 'carol');
    await Promise.all([sees(carol, 'alice camera'), sees(carol, 'alice screen_share')]);
    publication(bob, 'alice screen_share').setSubscribed(false);
    await told(bob, 'unsubscribed alice screen_share');
    await sees(bob, 'alice camera');
    publication(bob, 'alice screen_share').setSubscribed(true);
    await alice.room.localParticipant.unpublishTrack(camera.track);
    await told(bob, 'unpublished alice camera');
    await sees(bob, 'alice screen_share');
    const again = await publish(alice, 'camera');
    assert(again.trackSid !== camera.trackSid, 'the new track has a SID of its own');
    await Promise.all([sees(bob, 'alice camera'), sees(bob, 'alice screen_share'), hears(bob, 'alice microphone')]);
    await Promise.all([sees(carol, 'alice camera'), sees(carol, 'alice screen_share')]);
  }],
  ['publish, unpublish without waiting, publish the same track', async () => {
    const { alice, bob } = await pair();
    const me = alice.room.localParticipant;
    for (const [source, arrives] of [['microphone', hears], ['camera', sees]]) {
      const first = await publish(alice, source);
      const { track } = first; // unpublishing takes it out of the publication
      me.unpublishTrack(track, false);
      const again = await me.publishTrack(track.mediaStreamTrack, { source, name: source, simulcast: false });
      assert(again.trackSid !== first.trackSid, 'the new track has a SID of its own');
      await arrives(bob, `alice ${source}`);
    }
  }],
  ['unsubscribe and subscribe again', async () => {
    const { alice, bob } = await pair();
    await publish(alice, 'camera');
    await publish(alice, 'microphone');
    await Promise.all([sees(bob, 'alice camera'), hears(bob, 'alice microphone')]);
    for (const [source, arrives] of [['camera', sees], ['microphone', hears]]) {
      const pub = publication(bob, `alice ${source}`);
      pub.setSubscribed(false);
      await told(bob, `unsubscribed alice ${source}`);
      await eventually('the track to go', () => !pub.track);
      pub.setSubscribed(true);
      await arrives(bob, `alice ${source}`);
    }
    // Disabled is not unsubscribed: the track stays, its packets stop.
    publication(bob, 'alice camera').setEnabled(false);
    await nothing(bob, 'alice camera');
    publication(bob, 'alice camera').setEnabled(true);
    await sees(bob, 'alice camera');
  }],
  ['auto_subscribe off', async () => {
    const { alice, bob } = await pair({ autoSubscribe: false });
    await publish(alice, 'camera');
    await publish(alice, 'microphone');
    await told(bob, 'published alice camera');
    await told(bob, 'published alice microphone');
    await steadily('bob gets nothing unasked', () => !bob.log.some((line) => line.startsWith('subscribed')));
    publication(bob, 'alice camera').setSubscribed(true);
    await sees(bob, 'alice camera');
    assert(!publication(bob, 'alice microphone').track, 'the microphone was not asked for');
    publication(bob, 'alice microphone').setSubscribed(true);
    await hears(bob, 'alice microphone');
  }],
  ['announced and subscribed before any media', async () => {
    const { room, alice, bob } = await pair();
    const source = new MediaStreamTrackGenerator({ kind: 'video' }); // it has no frame yet
    await alice.room.localParticipant.publishTrack(source, { source: 'camera', simulcast: false });
    await told(bob, 'published alice camera');
    await told(bob, 'subscribed alice camera');
    const carol = await join(room, 'carol');
    await told(carol, 'subscribed alice camera');
    equal((await inbound(bob, 'alice camera'))?.packetsReceived ?? 0, 0, 'what has arrived');

    const canvas = Object.assign(new OffscreenCanvas(320, 180));
    const writer = source.writable.getWriter();
    let running = true;
    const feed = (async () => {
      for (let n = 0; running; n++) {
        const paint = canvas.getContext('2d');
        paint.fillStyle = n % 2 ? '#f00' : '#00f';
        paint.fillRect(0, 0, 320, 180);
        await writer.write(new VideoFrame(canvas, { timestamp: n * 66_000 }));
        await sleep(66);
      }
    })();
    try {
      await Promise.all([sees(bob, 'alice camera'), sees(carol, 'alice camera')]);
    } finally {
      running = false;
      await feed;
    }
  }],
  ['audio only, data only', async () => {
    const { room, alice, bob } = await pair();
    const carol = await join(room, 'carol'); // sends nothing but data
    await publish(alice, 'microphone');
    await publish(bob, 'microphone');
    await Promise.all([hears(alice, 'bob microphone'), hears(bob, 'alice microphone'), hears(carol, 'bob microphone')]);
    await carol.room.localParticipant.publishData(bytes('hello'), { reliable: true });
    for (const peer of [alice, bob]) await eventually('the data', () => peer.data.includes('carol//hello'));
    await alice.room.localParticipant.publishData(bytes('back'), { reliable: true });
    await eventually('the answer', () => carol.data.includes('alice//back'));

    // A room in which nobody sends any media.
    const quiet = roomName();
    const [dan, eve] = await Promise.all([join(quiet, 'dan'), join(quiet, 'eve')]);
    await eventually('they see each other', () => dan.room.remoteParticipants.size === 1 && eve.room.remoteParticipants.size === 1);
    await dan.room.localParticipant.publishData(bytes('ping'), { reliable: true });
    await eventually('the data', () => eve.data.includes('dan//ping'));
  }],
  ['hidden', async () => {
    const { room, alice, bob } = await pair();
    await publish(alice, 'microphone');
    const ghost = await join(room, 'ghost', { grant: { hidden: true } });
    await hears(ghost, 'alice microphone');
    await ghost.room.localParticipant.publishData(bytes('boo'), { reliable: true });
    await eventually('the data without a name', () => bob.data.includes('//boo'));
    await steadily('nobody sees the ghost', () => !alice.room.remoteParticipants.has('ghost') && !bob.room.remoteParticipants.has('ghost'));
    await ghost.room.disconnect();
    await steadily('nobody sees it go', () => !bob.log.some((line) => line.endsWith(' ghost')));
  }],
  ['without canPublish', async () => {
    const { room, alice, bob } = await pair();
    await publish(alice, 'microphone');
    const listener = await join(room, 'listener', { grant: { canPublish: false, canPublishData: true } });
    await hears(listener, 'alice microphone');
    const error = await rejects(listener.room.localParticipant.publishTrack(tone(), { source: 'microphone' }), 'the track');
    assert(/permission/i.test(error.message), error.message);
    await listener.room.localParticipant.publishData(bytes('allowed'), { reliable: true });
    await eventually('the data', () => bob.data.includes('listener//allowed'));
    assert(!publication(bob, 'listener microphone'), 'bob sees no track');
  }],
  ['without canSubscribe', async () => {
    const { room, alice, bob } = await pair();
    await publish(alice, 'microphone');
    const speaker = await join(room, 'speaker', { grant: { canSubscribe: false } });
    await publish(speaker, 'microphone');
    await hears(bob, 'speaker microphone');
    await steadily('nothing arrives', () => !speaker.log.some((line) => line.startsWith('subscribed')));
    publication(speaker, 'alice microphone')?.setSubscribed(true);
    await steadily('nor when asked for', () => !speaker.log.some((line) => line.startsWith('subscribed')));
  }],
  ['without canPublishData', async () => {
    const { room, bob } = await pair();
    const quiet = await join(room, 'quiet', { grant: { canPublishData: false } });
    await publish(quiet, 'microphone');
    await quiet.room.localParticipant.publishData(bytes('forbidden'), { reliable: true }).catch(() => {});
    await hears(bob, 'quiet microphone');
    await bob.room.localParticipant.publishData(bytes('heard'), { reliable: true });
    await eventually('it receives data', () => quiet.data.includes('bob//heard'));
    equal(bob.data, [], 'what bob got');
  }],
  ['canPublishSources', async () => {
    const { room, bob } = await pair();
    const voice = await join(room, 'voice', { grant: { canPublishSources: ['microphone', 'screen_share'] } });
    await rejects(publish(voice, 'camera'), 'the camera');
    await publish(voice, 'microphone');
    await publish(voice, 'screen_share');
    await Promise.all([hears(bob, 'voice microphone'), sees(bob, 'voice screen_share')]);
    assert(!publication(bob, 'voice camera'), 'bob sees no camera');
  }],
  ['the same identity twice', async () => {
    const { room, alice: first, bob } = await pair();
    await publish(first, 'camera');
    await sees(bob, 'alice camera');
    const second = await join(room, 'alice');
    await told(first, 'disconnected DUPLICATE_IDENTITY');
    await publish(second, 'microphone');
    await hears(bob, 'alice microphone');
    equal(bob.room.remoteParticipants.get('alice').sid, second.room.localParticipant.sid, 'the SID bob sees');
    assert(!publication(bob, 'alice camera'), 'the camera of the first is gone');
    equal(second.room.state, 'connected', 'the state of the second');
  }],
];
