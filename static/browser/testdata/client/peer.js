// Participants with livekit-client. Several live in one page, each with
// connections of its own, and write down what they are told.

const {
  Room, RoomEvent, Track, ConnectionQuality, DisconnectReason, LocalAudioTrack, LocalVideoTrack, setLogLevel,
} = window.LivekitClient;

const query = new URLSearchParams(location.search);
export const url = query.get('url');
export const single = query.get('single') !== '0';
const [apiKey, apiSecret] = (query.get('keys') ?? 'devkey:secret').split(':');
setLogLevel(query.get('log') ?? 'silent');

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Waits until ok gives something true, and gives that. */
export async function eventually(what, ok, within = 60_000) {
  for (const end = Date.now() + within; ; await sleep(40)) {
    const value = await ok();
    if (value) return value;
    if (Date.now() > end) throw new Error(`this did not happen within ${within} ms: ${typeof what === 'function' ? await what() : what}`);
  }
}

/** Fails if ok gives something false within the time. */
export async function steadily(what, ok, during = 700) {
  for (const end = Date.now() + during; Date.now() < end; await sleep(50)) assert(await ok(), what);
}

export function assert(ok, what) {
  if (!ok) throw new Error(what);
}

export function equal(got, want, what = 'the value') {
  const [a, b] = [JSON.stringify(got), JSON.stringify(want)];
  assert(a === b, `${what} is ${a} instead of ${b}`);
}

export async function rejects(promise, what) {
  let given;
  try {
    given = await promise;
  } catch (error) {
    return error;
  }
  throw new Error(`${what} was accepted: ${given}`);
}

const base64url = (bytes) => btoa(String.fromCharCode(...bytes)).replace(/\+/g, '-').replace(/\//g, '_').replace(/=/g, '');

export async function token(room, identity, grant = {}, claims = {}) {
  const utf8 = new TextEncoder();
  const part = (value) => base64url(utf8.encode(JSON.stringify(value)));
  const now = Math.floor(Date.now() / 1000);
  const signed = `${part({ alg: 'HS256', typ: 'JWT' })}.${part({
    iss: apiKey, sub: identity, nbf: now - 5, exp: now + 600, video: { roomJoin: true, room, ...grant }, ...claims,
  })}`;
  const key = await crypto.subtle.importKey('raw', utf8.encode(apiSecret), { name: 'HMAC', hash: 'SHA-256' }, false, ['sign']);
  return `${signed}.${base64url(new Uint8Array(await crypto.subtle.sign('HMAC', key, utf8.encode(signed))))}`;
}

/** Calls the server's RoomService. */
export async function api(method, room, request) {
  const response = await fetch(`${url.replace(/^ws/, 'http')}/twirp/livekit.RoomService/${method}`, {
    method: 'POST',
    headers: { 'Content-Type': 'application/json', Authorization: `Bearer ${await token(room, 'backend', { roomCreate: true, roomAdmin: true, roomList: true })}` },
    body: JSON.stringify(request),
  });
  assert(response.ok, `${method}: ${response.status}`);
  return response.json();
}

let rooms = 0;

/** A room that no other scenario uses. */
export const roomName = () => `${query.get('list')}-${single ? 'one' : 'two'}-${++rooms}`;

let peers = [];
let stops = []; // of what feeds tracks

/** Joins and notes everything; options may name grant, claims, autoSubscribe, connect and room. */
export async function join(name, identity, options = {}) {
  const room = new Room({ singlePeerConnection: single, disconnectOnPageLeave: false, ...options.room });
  const peer = { identity, room, log: [], data: [] };
  peers.push(peer);
  listen(peer);
  await room.connect(url, await token(name, identity, options.grant, options.claims), {
    autoSubscribe: options.autoSubscribe ?? true, ...options.connect,
  });
  return peer;
}

function listen(peer) {
  const { room } = peer;
  const note = (line) => peer.log.push(line);
  room.on(RoomEvent.ParticipantConnected, (p) => note(`joined ${p.identity}`));
  room.on(RoomEvent.ParticipantDisconnected, (p) => note(`left ${p.identity}`));
  room.on(RoomEvent.TrackPublished, (pub, p) => note(`published ${p.identity} ${pub.source}`));
  room.on(RoomEvent.TrackUnpublished, (pub, p) => note(`unpublished ${p.identity} ${pub.source}`));
  room.on(RoomEvent.TrackMuted, (pub, p) => note(`muted ${p.identity} ${pub.source}`));
  room.on(RoomEvent.TrackUnmuted, (pub, p) => note(`unmuted ${p.identity} ${pub.source}`));
  room.on(RoomEvent.TrackUnsubscribed, (_, pub, p) => note(`unsubscribed ${p.identity} ${pub.source}`));
  room.on(RoomEvent.LocalTrackSubscribed, (pub) => note(`someone subscribed to ${pub.source}`));
  room.on(RoomEvent.ActiveSpeakersChanged, (speakers) => note(`speaking [${speakers.map((p) => p.identity)}]`));
  room.on(RoomEvent.ConnectionQualityChanged, (quality, p) => note(`quality ${p.identity} ${quality}`));
  room.on(RoomEvent.TrackStreamStateChanged, (pub, state, p) => note(`stream ${p.identity} ${pub.source} ${state}`));
  room.on(RoomEvent.SignalReconnecting, () => note('resuming'));
  room.on(RoomEvent.Reconnecting, () => note('reconnecting'));
  room.on(RoomEvent.Reconnected, () => note('reconnected'));
  room.on(RoomEvent.Disconnected, (reason) => note(`disconnected ${DisconnectReason[reason]}`));
  room.on(RoomEvent.DataReceived, (payload, p, _, topic) =>
    peer.data.push(`${p?.identity ?? ''}/${topic ?? ''}/${new TextDecoder().decode(payload)}`));
  room.on(RoomEvent.TrackSubscribed, (track, pub, p) => {
    note(`subscribed ${p.identity} ${pub.source}`);
    const element = track.attach();
    element.width = 160; // sound plays and pictures are shown, as on any page
    document.body.append(element);
  });
  // Gone is gone: whatever ends a track takes its element off the page.
  room.on(RoomEvent.TrackUnsubscribed, (track) => track.detach().forEach((element) => element.remove()));
}

export async function leaveAll() {
  await Promise.all(peers.map(({ room }) => room.disconnect()));
}
leaveAll.told = () => peers.map(({ identity, log, data }) => `${identity} was told: ${log.join(', ')}${data.length ? `; data: ${data.slice(-5)}` : ''}`).join('\n');

/** Stops what the scenario has fed, and forgets who was in it. */
export function forget() {
  for (const stop of stops) stop();
  stops = [];
  peers = [];
  hues.clear();
  document.body.replaceChildren();
}

export const told = (peer, line) =>
  eventually(() => `${peer.identity} is told "${line}"`, () => peer.log.includes(line));

// --- What is sent

const hues = new Map(); // by "identity source"

/** A video track of the key's own colour, with something that moves in it. */
export function picture(key, { width = 320, height = 180, fps = 15 } = {}) {
  if (!hues.has(key)) hues.set(key, hues.size * 60);
  const canvas = Object.assign(document.createElement('canvas'), { width, height });
  const paint = canvas.getContext('2d');
  let n = 0;
  const draw = () => {
    paint.fillStyle = `hsl(${hues.get(key)} 100% 50%)`;
    paint.fillRect(0, 0, width, height);
    paint.fillStyle = '#fff';
    paint.fillRect((n++ * 8) % width, height / 2, width / 8, height / 4);
  };
  draw();
  const timer = setInterval(draw, 1000 / fps);
  stops.push(() => clearInterval(timer));
  const [track] = canvas.captureStream(fps).getVideoTracks();
  stops.push(() => track.stop());
  return track;
}

/** An audio track with a tone that nothing takes for silence; left only if asked. */
export function tone({ left = false } = {}) {
  const context = new AudioContext();
  const oscillator = new OscillatorNode(context, { frequency: 440 });
  const destination = context.createMediaStreamDestination();
  if (left) {
    const merger = new ChannelMergerNode(context, { numberOfInputs: 2 });
    oscillator.connect(merger, 0, 0);
    merger.connect(destination);
  } else {
    oscillator.connect(destination);
  }
  oscillator.start();
  stops.push(() => context.close());
  return destination.stream.getAudioTracks()[0];
}

/** Publishes a tone, or the key's own picture. */
export function publish(peer, source, options = {}, feed = {}) {
  const audio = source === Track.Source.Microphone;
  const track = audio ? tone(feed) : picture(`${peer.identity} ${source}`, feed);
  return peer.room.localParticipant.publishTrack(track, { source, name: source, simulcast: false, ...options });
}

// --- What is received, as "identity source"

export function publication(peer, key) {
  const [identity, source] = key.split(' ');
  const participant = peer.room.remoteParticipants.get(identity);
  return [...(participant?.trackPublications.values() ?? [])].find((pub) => pub.source === source);
}

/** The receiver's statistics, with the codec's type; null when nothing is received. */
export async function inbound(peer, key) {
  const report = await publication(peer, key)?.track?.receiver?.getStats();
  for (const stats of report?.values() ?? []) {
    if (stats.type === 'inbound-rtp') return { ...stats, mimeType: report.get(stats.codecId)?.mimeType };
  }
  return null;
}

/** Waits until more frames are decoded, and show the sender's colour. */
export async function sees(peer, key, frames = 5) {
  const decoded = async () => (await inbound(peer, key))?.framesDecoded ?? 0;
  const before = await decoded();
  const what = async () => `${peer.identity} sees ${key}: ${JSON.stringify(await inbound(peer, key))}`;
  // A receiver that is set up anew counts from zero.
  await eventually(what, async () => { const now = await decoded(); return now >= (now < before ? frames : before + frames); });
  if (hues.has(key)) await eventually(() => `${peer.identity} sees the colour of ${key}, but it is ${hue(peer, key)}`, () => Math.abs(hue(peer, key) - hues.get(key)) < 20);
}

/**
 * The longest time, in ms of the next 3 s, in which frames were sent and none decoded.
 * Time in which this page did not get to run does not count.
 */
export async function stillness(sent, decoded) {
  let [longest, still, last] = [0, 0, [performance.now(), await sent(), await decoded()]];
  for (const end = last[0] + 3000; last[0] < end;) {
    await sleep(100);
    const now = [performance.now(), await sent(), await decoded()];
    const [time, out, shown] = now.map((value, n) => value - last[n]);
    if (shown > 0) still = 0;
    else if (out > 0 && time < 300) still += time;
    longest = Math.max(longest, still);
    last = now;
  }
  return Math.round(longest);
}

/** Waits until pictures of that width are decoded. */
export const width = (peer, key, want) =>
  eventually(async () => `${peer.identity} sees ${key} ${want} wide: ${JSON.stringify(await inbound(peer, key))}`,
    async () => (await inbound(peer, key))?.frameWidth === want);

/** What its connections go over, sorted. */
export async function protocols(peer) {
  const { publisher, subscriber } = peer.room.engine.pcManager;
  const found = await Promise.all([publisher, subscriber].filter(Boolean).map(async (transport) => {
    const report = await transport.getStats();
    for (const stats of report?.values() ?? []) {
      if (stats.type === 'transport' && stats.selectedCandidatePairId) {
        return report.get(report.get(stats.selectedCandidatePairId).localCandidateId).protocol;
      }
    }
    return 'none';
  }));
  return found.sort();
}

/** The hue in a corner of what the video element shows. */
function hue(peer, key) {
  const [element] = publication(peer, key)?.track?.attachedElements ?? [];
  if (!element?.videoWidth) return NaN;
  const canvas = Object.assign(document.createElement('canvas'), { width: 16, height: 9 });
  const paint = canvas.getContext('2d');
  paint.drawImage(element, 0, 0, 16, 9);
  const [r, g, b] = paint.getImageData(2, 1, 1, 1).data;
  const [max, min] = [Math.max(r, g, b), Math.min(r, g, b)];
  if (max - min < 80) return NaN;
  if (max === r) return g >= b ? (60 * (g - b)) / (max - min) : ((60 * (g - b)) / (max - min)) % 360;
  return max === g ? 120 + (60 * (b - r)) / (max - min) : 240 + (60 * (r - g)) / (max - min);
}

/** Waits until more sound comes out, and that it is no silence. */
export async function hears(peer, key) {
  const energy = async () => (await inbound(peer, key))?.totalAudioEnergy ?? 0;
  const before = await energy();
  await eventually(async () => `${peer.identity} hears ${key}: ${JSON.stringify(await inbound(peer, key))}`,
    async () => { const now = await energy(); return now > (now < before ? 0 : before) + 0.001; });
}

/** Waits until nothing more is decoded, or heard. */
export async function nothing(peer, key) {
  const amount = async () => { const stats = await inbound(peer, key); return stats ? [stats.framesDecoded, stats.totalAudioEnergy] : []; };
  await eventually(`${peer.identity} gets nothing more of ${key}`, async () => {
    const [frames, energy] = await amount();
    await sleep(400);
    const [framesLater, energyLater] = await amount();
    return frames === framesLater && !(energyLater > energy + 0.0001);
  });
}

export { Track, ConnectionQuality, LocalAudioTrack, LocalVideoTrack, Room, RoomEvent };
