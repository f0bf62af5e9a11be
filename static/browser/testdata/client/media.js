// What a browser encodes and decodes: codecs, layers, sound, encryption.

import {
  api, assert, eventually, hears, inbound, join, publication, publish, roomName, sees, sleep, told, width,
} from './peer.js';

const { ExternalE2EEKeyProvider, VideoQuality } = window.LivekitClient;

async function pair(options, roomOptions) {
  const room = roomName();
  if (roomOptions) await api('CreateRoom', room, { name: room, ...roomOptions });
  const [alice, bob] = await Promise.all([join(room, 'alice', options), join(room, 'bob', options)]);
  return { room, alice, bob };
}

const isCodec = async (peer, key, mimeType) => {
  const stats = await inbound(peer, key);
  assert(stats.mimeType.toLowerCase() === mimeType.toLowerCase(), `${peer.identity} decodes ${stats.mimeType}`);
};

/** Joins as a browser that cannot decode AV1. */
async function joinWithoutAV1(...args) {
  const Plain = window.RTCPeerConnection;
  const codecs = RTCRtpReceiver.getCapabilities('video').codecs.filter(({ mimeType }) => !/AV1/i.test(mimeType));
  const restrict = (connection) => {
    for (const transceiver of connection.getTransceivers()) {
      if (transceiver.receiver.track.kind === 'video' && transceiver.direction !== 'sendonly') transceiver.setCodecPreferences(codecs);
    }
  };
  window.RTCPeerConnection = class extends Plain {
    createOffer(...options) { restrict(this); return super.createOffer(...options); }
    createAnswer(...options) { restrict(this); return super.createAnswer(...options); }
  };
  try {
    return await join(...args);
  } finally {
    window.RTCPeerConnection = Plain;
  }
}

/** Switches the layer that bob gets, by quality and by size, and judges by the picture's width. */
async function switchLayers(bob, [low, high]) {
  const key = 'alice camera';
  await width(bob, key, high);
  publication(bob, key).setVideoQuality(VideoQuality.LOW);
  await width(bob, key, low);
  await sees(bob, key);
  publication(bob, key).setVideoQuality(VideoQuality.HIGH);
  await width(bob, key, high);
  publication(bob, key).setVideoDimensions({ width: low, height: Math.round((low * 9) / 16) });
  await width(bob, key, low);
  await sees(bob, key);
}

/** The loudness of the left and the right channel of what arrives. */
async function loudness(peer, key) {
  const context = new AudioContext();
  const splitter = new ChannelSplitterNode(context, { numberOfOutputs: 2 });
  context.createMediaStreamSource(new MediaStream([publication(peer, key).track.mediaStreamTrack])).connect(splitter);
  const channels = [0, 1].map((n) => {
    const analyser = new AnalyserNode(context);
    splitter.connect(analyser, n);
    return analyser;
  });
  const measure = () => channels.map((analyser) => {
    const wave = new Float32Array(analyser.fftSize);
    analyser.getFloatTimeDomainData(wave);
    return Math.sqrt(wave.reduce((sum, x) => sum + x * x, 0) / wave.length);
  });
  try {
    return await eventually('sound in the left channel', () => { const both = measure(); return both[0] > 0.05 && both; });
  } finally {
    await context.close();
  }
}

// encrypted joins a room as one that has the key to what is sent there.
async function encrypted(room, identity) {
  const keyProvider = new ExternalE2EEKeyProvider();
  const worker = new Worker('/vendor/livekit-client.e2ee.worker.js');
  const peer = await join(room, identity, { room: { encryption: { keyProvider, worker } } });
  await keyProvider.setKey('a secret of theirs');
  await peer.room.setE2EEEnabled(true);
  return peer;
}

export const scenarios = [
  ...['vp8', 'h264', 'vp9', 'av1'].map((videoCodec) => [`${videoCodec} in one layer`, async () => {
    const { alice, bob } = await pair();
    await publish(alice, 'camera', { videoCodec, backupCodec: false });
    await sees(bob, 'alice camera');
    await isCodec(bob, 'alice camera', `video/${videoCodec}`);
  }]),
  ...['vp8', 'h264'].map((videoCodec) => [`layers of ${videoCodec}, simulcast`, async () => {
    const { alice, bob } = await pair();
    await publish(alice, 'camera', { videoCodec, simulcast: true }, { width: 640, height: 360 });
    await switchLayers(bob, [320, 640]);
    await isCodec(bob, 'alice camera', `video/${videoCodec}`);
  }]),
  ...['vp9', 'av1'].map((videoCodec) => [`layers of ${videoCodec}, SVC`, async () => {
    const { alice, bob } = await pair();
    await publish(alice, 'camera', { videoCodec, simulcast: true, scalabilityMode: 'L2T3_KEY', backupCodec: false }, { width: 640, height: 360 });
    await switchLayers(bob, [320, 640]);
    await isCodec(bob, 'alice camera', `video/${videoCodec}`);
  }]),
  ['a backup codec for who cannot decode AV1', async () => {
    // livekit-client encodes for others only what the server asks it for: dynacast.
    const { room, alice, bob } = await pair({ room: { dynacast: true } });
    await publish(alice, 'camera', { videoCodec: 'av1', backupCodec: { codec: 'vp8' } });
    await sees(bob, 'alice camera');
    await isCodec(bob, 'alice camera', 'video/AV1');
    const carol = await joinWithoutAV1(room, 'carol');
    await sees(carol, 'alice camera');
    await isCodec(carol, 'alice camera', 'video/VP8');
    // By the default policy all who can take it then, and in the stream that they have.
    await eventually('VP8 at bob', async () => (await inbound(bob, 'alice camera')).mimeType === 'video/VP8');
    await sees(bob, 'alice camera');
    assert(!bob.log.includes('unsubscribed alice camera'), 'bob has one track all along');
  }],
  ['stereo', async () => {
    const { alice, bob } = await pair();
    await publish(alice, 'microphone', { forceStereo: true, red: false, dtx: false }, { left: true });
    await hears(bob, 'alice microphone');
    let heard;
    await eventually(() => `the tone is on the left: ${heard}`, async () => {
      heard = await loudness(bob, 'alice microphone');
      return heard[0] > 5 * heard[1];
    });
  }],
  ['RED', async () => {
    const { alice, bob } = await pair();
    const packetSize = async () => {
      const { packetsReceived, bytesReceived } = (await inbound(bob, 'alice microphone')) ?? {};
      return packetsReceived > 30 ? bytesReceived / packetsReceived : 0;
    };
    const { track } = await publish(alice, 'microphone', { red: false });
    await hears(bob, 'alice microphone');
    const plain = await eventually('some packets', packetSize);
    await alice.room.localParticipant.unpublishTrack(track);
    await eventually('the end of it', () => !publication(bob, 'alice microphone'));
    await publish(alice, 'microphone', { red: true });
    await hears(bob, 'alice microphone');
    let redundant;
    await eventually(() => `packets have ${plain} bytes without, and ${redundant} with what was before`, async () => {
      redundant = await packetSize();
      return redundant > 1.5 * plain;
    });
  }],
  ['playout delay', async () => {
    const { alice, bob } = await pair({}, { min_playout_delay: 700, max_playout_delay: 2000 });
    await publish(alice, 'camera');
    await sees(bob, 'alice camera');
    let delay;
    await eventually(() => `the picture is held back by ${delay} s`, async () => {
      const before = await inbound(bob, 'alice camera');
      await sleep(500);
      const now = await inbound(bob, 'alice camera');
      delay = (now.jitterBufferDelay - before.jitterBufferDelay) / (now.jitterBufferEmittedCount - before.jitterBufferEmittedCount);
      return delay > 0.4 && delay < 2.5;
    });
  }],
  ['speakers and connection quality', async () => {
    const { alice, bob } = await pair();
    const microphone = await publish(alice, 'microphone');
    await told(bob, 'speaking [alice]');
    await told(alice, 'speaking [alice]');
    await microphone.mute();
    await told(bob, 'speaking []');
    await told(bob, 'quality alice excellent');
    await told(bob, 'quality bob excellent');
  }],
  ...['vp8', 'h264', 'vp9'].map((videoCodec) => [`layers of ${videoCodec}, encrypted`, async () => {
    const room = roomName();
    const [alice, bob] = await Promise.all([encrypted(room, 'alice'), encrypted(room, 'bob')]);
    const scalability = videoCodec === 'vp9' ? { scalabilityMode: 'L2T3_KEY' } : {};
    const camera = await publish(alice, 'camera', { videoCodec, simulcast: true, backupCodec: false, ...scalability }, { width: 640, height: 360 });
    await switchLayers(bob, [320, 640]);
    // The frames that the server makes while the track is muted are not encrypted.
    await camera.mute();
    await told(bob, 'muted alice camera');
    await camera.unmute();
    await sees(bob, 'alice camera');
    publication(bob, 'alice camera').setVideoQuality(VideoQuality.HIGH);
    await width(bob, 'alice camera', 640);
    await sees(bob, 'alice camera');
    await isCodec(bob, 'alice camera', `video/${videoCodec}`);
  }]),
  ['end-to-end encryption', async () => {
    const room = roomName();
    const [alice, bob] = await Promise.all([encrypted(room, 'alice'), encrypted(room, 'bob')]);
    const carol = await join(room, 'carol');
    await publish(alice, 'camera');
    await publish(alice, 'microphone');
    await Promise.all([sees(bob, 'alice camera'), hears(bob, 'alice microphone')]);
    await eventually('packets at carol', async () => (await inbound(carol, 'alice camera'))?.packetsReceived > 20);
    assert(!(await inbound(carol, 'alice camera')).framesDecoded, 'who has no key decodes nothing');
    await alice.room.localParticipant.publishData(new TextEncoder().encode('sealed'), { reliable: true });
    await eventually('the data', () => bob.data.includes('alice//sealed'));
  }],
];
