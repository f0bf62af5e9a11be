// A call: one Room of livekit-client from joining to its end, with its views.

import { Breakouts, shownName } from './breakouts.js';
import { Captions } from './captions.js';
import { Chat } from './chat.js';
import { Controls } from './controls.js';
import { captureOptions, treatSound } from './devices.js';
import { $ } from './dom.js';
import { Encryption } from './encryption.js';
import { Floating } from './floating.js';
import { Hands } from './hands.js';
import { guestLink } from './invitation.js';
import { listen } from './keys.js';
import { deviceProblem, ending } from './messages.js';
import { Moderation } from './moderation.js';
import { Banner, dismiss, toast } from './notices.js';
import { inviteLink } from './options.js';
import { People } from './people.js';
import { preferences } from './preferences.js';
import { qrCode } from './qr.js';
import { videoResolution } from './preview.js';
import { reconnectPolicy } from './reconnect.js';
import { play } from './sounds.js';
import { Stage } from './stage.js';
import { keepApart, ofServer } from './streams.js';
import { listed, say, t } from './texts.js';
import { nameOf } from './tile.js';
import { watch } from './watch.js';

const { DisconnectReason, Room, RoomEvent, Track } = window.LivekitClient;

// In a call with more people than this, joining and leaving are not announced.
const ANNOUNCED_UP_TO = 12;

const GATHERED_FOR = 1000; // ms

const PANELS = ['chat', 'people'];

// forward is 1 if the right arrow leads forward, as in languages written from the left.
const forward = () => (document.documentElement.dir === 'rtl' ? -1 : 1);

export class Call {
  room;
  stage;
  controls;
  chat;
  #banner = new Banner();
  #listening = new AbortController();
  #joined = false;
  #away = false; // reconnecting
  #encryption;
  #passphrase;
  #open;
  #invited;
  #guestLink; // a promise, from the first time that a host asks for it
  #ended;
  #wakeLock;
  #watch;
  #unread = new Set(); // identities that encrypt with another key
  #news = new Map(); // identity → join or leave that has not been announced yet
  #telling;
  #since = 0; // when the call was joined, performance.now()

  // open: anyone with the link can join, so the call offers to copy it. invited: the person
  // came by an invitation; if it is a host it may make one for others, with its token.
  // ended(end) is called once, when a call that was joined has ended.
  constructor({ options, open, invited, ended, openSettings }) {
    this.#open = open;
    this.#invited = invited;
    this.#ended = ended;
    this.#passphrase = options.passphrase;
    this.#encryption = new Encryption(options.passphrase);
    this.room = new Room({ ...roomOptions(options), encryption: this.#encryption.options });
    keepApart(this.room);
    this.stage = new Stage(this.room, $('#stage'), $('#audio'));
    this.controls = new Controls(this.room);
    const moderation = new Moderation(this.room);
    this.chat = new Chat(this.room, moderation);
    this.captions = new Captions(this.room);
    this.breakouts = new Breakouts(this.room, moderation, () => {
      $('#room-name').textContent = shownName(this.room);
      this.#watch.update();
    });
    this.people = new People(this.room, this.stage, {
      moderation,
      invited,
      divide: () => this.breakouts.open(),
      write: (participant) => {
        this.#showPanel('chat');
        this.chat.address(participant);
      },
    });
    this.hands = new Hands(this.room, this.stage);
    this.floating = new Floating({
      keys: { m: () => this.controls.toggle('microphone'), v: () => this.controls.toggle('camera') },
      moved: () => this.stage.update(),
    });
    this.#listenToRoom();
    this.#listenToPage(openSettings);
  }

  // join connects and then publishes the tracks. It throws the error of livekit-client if
  // the room cannot be joined.
  async join({ url, token, tracks, subscribe }) {
    try {
      await this.#encryption.begin(this.room);
      await this.room.connect(url, token, { autoSubscribe: subscribe });
    } catch (error) {
      this.#close();
      throw error;
    }
    this.#joined = true;
    this.#since = performance.now();
    this.#showRoom();
    this.#update();
    this.#keepAwake();
    this.chat.recall();
    this.breakouts.look();
    await Promise.all(tracks.map((track) => this.#publish(track)));
    this.#update();
  }

  leave() {
    return this.room.disconnect();
  }

  // reconnecting reports whether the connection is lost and being restored.
  get reconnecting() {
    return this.#away;
  }

  async #publish(track) {
    const kind = track.kind === 'video' ? 'camera' : 'microphone';
    if (!this.controls.allowed(kind)) {
      track.stop();
      return;
    }
    try {
      if (kind === 'camera') await this.controls.treatPicture(track); // the choice may have changed while joining
      await this.room.localParticipant.publishTrack(track, {
        source: kind === 'camera' ? Track.Source.Camera : Track.Source.Microphone,
      });
    } catch (error) {
      if (!this.#joined) return;
      const { code, text } = deviceProblem(kind, error);
      toast(text, { bad: true, code });
    }
  }

  #listenToRoom() {
    const { room } = this;
    room.on(RoomEvent.Disconnected, (reason) => this.#disconnected(reason));
    // A lost WebSocket is usually restored before the user notices.
    room.on(RoomEvent.SignalReconnecting, () => this.#reconnecting({ after: 500 }));
    room.on(RoomEvent.Reconnecting, () => this.#reconnecting());
    room.on(RoomEvent.Reconnected, () => this.#reconnected());
    room.on(RoomEvent.Moved, () => this.#moved());
    room.on(RoomEvent.ParticipantConnected, (participant) => this.#announce(participant, 'joined'));
    room.on(RoomEvent.ParticipantDisconnected, (participant) => this.#announce(participant, 'left'));
    room.on(RoomEvent.AudioPlaybackStatusChanged, () => {
      $('#hear').hidden = room.canPlaybackAudio;
    });
    room.on(RoomEvent.DataReceived, (payload, _participant, _kind, topic, encryption, sender) => {
      if (topic === 'parlor.message' && ofServer(sender, encryption)) toast(new TextDecoder().decode(payload).slice(0, 1000), { code: 'message' });
    });
    room.on(RoomEvent.RecordingStatusChanged, (recording) => {
      $('#recording').hidden = !recording;
      toast(t(recording ? 'call.recorded' : 'call.recorded-no-more'), { code: 'recording' });
    });
    room.on(RoomEvent.TrackSubscriptionFailed, (_sid, participant) => {
      toast(t('call.format', { name: nameOf(participant) }), { bad: true, code: 'subscription-failed' });
    });
    if (this.#encryption.on) room.on(RoomEvent.TrackSubscribed, (_track, publication, participant) => this.#clear(publication, participant));
    room.on(RoomEvent.EncryptionError, (_error, participant) => this.#unreadable(participant));
    room.on(RoomEvent.ParticipantPermissionsChanged, (before, participant) => {
      if (participant.isLocal) this.#permissionsChanged(before);
    });
    this.#watch = watch(room, () => this.#update());
  }

  #reconnecting(delay) {
    this.#away = true;
    this.#banner.show('call.lost', delay);
  }

  #reconnected() {
    this.#away = false;
    if (this.#banner.visible) toast(t('call.back'), { code: 'reconnected' });
    this.#banner.hide();
    this.chat.recall();
    this.breakouts.look();
  }

  // clear refuses what comes unencrypted into a call that says that it is encrypted.
  #clear(publication, participant) {
    if (publication.isEncrypted) return;
    publication.setSubscribed(false);
    toast(t('call.clear', { name: nameOf(participant) }), { bad: true, code: 'encryption' });
  }

  // unreadable announces once for each participant that it cannot be decrypted. The
  // errors come with every frame.
  #unreadable(participant) {
    const identity = participant?.identity ?? '';
    if (this.#unread.has(identity)) return;
    this.#unread.add(identity);
    toast(t('call.unreadable', { name: participant ? nameOf(participant) : t('people.somebody') }), { bad: true, code: 'encryption' });
  }

  async #moved() {
    this.#news.clear(); // the others did not leave
    this.#guestLink = undefined; // it leads to the room before
    this.chat.recall();
    this.#update();
    await this.breakouts.look();
    $('#room-name').textContent = shownName(this.room);
    toast(t('call.moved', { room: shownName(this.room) }), { code: 'moved' });
  }

  #listenToPage(openSettings) {
    const { signal } = this.#listening;
    const on = (selector, action) => $(selector).addEventListener('click', action, { signal });
    on('#leave', () => this.leave());
    on('#hear', () => this.room.startAudio());
    on('#invite', () => this.#copyLink());
    on('#invite-qr', () => this.#showCode());
    on('[data-close="qr"]', () => $('#qr').close());
    on('#settings-open', openSettings);
    on('#chat-toggle', () => this.#togglePanel('chat'));
    on('#people-toggle', () => this.#togglePanel('people'));
    for (const name of PANELS) on(`[data-close="${name}"]`, () => this.#showPanel(null, name));
    document.addEventListener('visibilitychange', () => this.#keepAwake(), { signal });
    document.addEventListener('language', () => this.stage.update(), { signal });
    document.addEventListener('background-lost', ({ detail: { track, problem } }) => {
      const camera = this.room.localParticipant.getTrackPublication(Track.Source.Camera)?.track;
      if (camera && camera === track) this.controls.darken(problem, camera);
    }, { signal });
    listen({
      m: () => this.controls.toggle('microphone'),
      v: () => this.controls.toggle('camera'),
      s: () => !$('#share').hidden && this.controls.toggle('screen'),
      c: () => this.#togglePanel('chat'),
      p: () => this.#togglePanel('people'),
      h: () => this.hands.toggle(),
      ArrowLeft: () => this.stage.turn(-forward()),
      ArrowRight: () => this.stage.turn(forward()),
      ' ': () => this.controls.startTalking(),
      '?': openSettings,
      Escape: () => this.#showPanel(null) || this.stage.unpin(),
    }, signal);
  }

  #togglePanel(name) {
    if ($(`#${name}`).hidden) this.#showPanel(name);
    else this.#showPanel(null, name);
  }

  // showPanel opens one panel and closes the other; null closes both. It reports whether
  // it closed a panel. The focus returns to the button of the panel.
  #showPanel(open, from = PANELS.find((name) => !$(`#${name}`).hidden)) {
    for (const name of PANELS) {
      $(`#${name}`).hidden = name !== open;
      $(`#${name}-toggle`).setAttribute('aria-expanded', String(name === open));
    }
    $('#call').classList.toggle('with-panel', open !== null);
    if (open) dismiss(open); // the panel shows what the toasts announced
    if (open === 'people') this.people.opened();
    if (open === 'chat') this.chat.opened();
    else if (open) $(`#${open} [data-close]`).focus();
    else if (from) $(`#${from}-toggle`).focus();
    return open === null && from !== undefined;
  }

  #showRoom() {
    $('#room-name').textContent = this.room.name;
    $('#encrypted').hidden = !this.#encryption.on;
    $('#recording').hidden = !this.room.isRecording;
    if (this.room.isRecording) toast(t('call.recorded'), { code: 'recording' });
    $('#hear').hidden = this.room.canPlaybackAudio;
    const { permissions } = this.room.localParticipant;
    this.chat.permit(permissions?.canPublishData !== false);
    if (permissions?.canSubscribe === false) toast(t('call.cannot-subscribe'), { code: 'permissions' });
    else if (permissions?.canPublish === false) toast(t('call.only-watch'), { code: 'permissions' });
  }

  // preferred is called when the person's preferences have changed.
  preferred() {
    this.stage.update();
    this.controls.update();
    this.hands.update();
    this.captions.update();
    Object.assign(this.room.options.audioCaptureDefaults, captureOptions('audioinput'));
    treatSound(this.room.localParticipant.getTrackPublication(Track.Source.Microphone)?.track).catch(() => {
      // The device cannot change while it is open: the choice applies next time.
    });
  }

  // treatPicture is called when the person has chosen another background.
  treatPicture() {
    return this.controls.treatPicture(this.room.localParticipant.getTrackPublication(Track.Source.Camera)?.track);
  }

  #update() {
    if (this.#joined) $('#clock').textContent = lasting(performance.now() - this.#since);
    $('#alone').hidden = this.room.remoteParticipants.size > 0;
    const invitable = (this.#open || this.#host) && !this.breakouts.inside; // nobody is invited to a breakout room
    $('#invite').hidden = !invitable;
    $('#invite-qr').hidden = !invitable;
    say($('#alone'), invitable ? 'call.alone-invite' : 'call.alone');
  }

  // announce collects joins and leaves for a moment, to announce several at once, and to
  // skip a person who leaves and returns at once.
  #announce(participant, what) {
    // While reconnecting, the others only seem to leave and return.
    if (this.#away) return;
    const { identity } = participant;
    const before = this.#news.get(identity);
    if (before && before.what !== what) this.#news.delete(identity);
    else this.#news.set(identity, { name: nameOf(participant), what });
    this.#telling ??= setTimeout(() => this.#tell(), GATHERED_FOR);
  }

  #tell() {
    this.#telling = undefined;
    const news = [...this.#news.values()];
    this.#news.clear();
    if (this.room.remoteParticipants.size > ANNOUNCED_UP_TO) return;
    for (const what of ['left', 'joined']) {
      const names = news.filter((item) => item.what === what).map((item) => item.name);
      if (names.length > 0) play(what);
      if (names.length > 3) toast(t(`call.many-${what}`, { count: names.length }), { code: 'people' });
      else if (names.length > 0) toast(t(`call.${what}`, { names: listed(names) }), { code: 'people' });
    }
  }

  #permissionsChanged(before) {
    const now = this.room.localParticipant.permissions;
    this.chat.permit(now?.canPublishData !== false);
    if (!before || before.canPublish === now?.canPublish) return;
    toast(t(now?.canPublish ? 'call.may-speak' : 'call.may-watch'), { code: 'permissions' });
  }

  async #showCode() {
    const link = await this.#link();
    if (!link) return;
    try {
      $('#qr-code').replaceChildren(await qrCode(link, t('call.qr')));
    } catch (error) {
      toast(error.message, { bad: true, code: 'link-failed' });
      return;
    }
    $('#qr-link').textContent = link;
    $('#qr').showModal();
  }

  get #host() {
    return this.#invited && this.people.runs;
  }

  // link is the link that others come in by; undefined if there is none, which was said then.
  async #link() {
    try {
      return this.#host ? await this.#forGuests() : inviteLink(location, this.room.name, this.#passphrase);
    } catch (error) {
      toast(error.message, { bad: true, code: 'link-failed' });
      return undefined;
    }
  }

  async #copyLink() {
    const link = await this.#link();
    if (!link) return;
    try {
      await navigator.clipboard.writeText(link);
      toast(t(this.#host ? 'call.link-copied-day' : 'call.link-copied'), { code: 'link-copied' });
    } catch {
      // Without permission, or without a secure context, the link is copied by hand.
      toast(link, { code: 'link' });
    }
  }

  // forGuests makes one link for the whole call.
  async #forGuests() {
    this.#guestLink ??= guestLink(location, this.room.name, this.room.engine?.token ?? '', this.#passphrase);
    try {
      return await this.#guestLink;
    } catch (error) {
      this.#guestLink = undefined;
      throw error;
    }
  }

  // keepAwake prevents a phone from going to sleep during a call. A browser releases the
  // lock whenever the page is hidden.
  async #keepAwake() {
    if (document.visibilityState !== 'visible' || !this.#joined) return;
    const lock = await navigator.wakeLock?.request('screen').catch(() => null);
    if (this.#joined) this.#wakeLock = lock;
    else lock?.release();
  }

  #disconnected(reason) {
    // While joining, connect throws the error, so it is not reported here.
    if (!this.#joined) return;
    this.#close();
    this.#ended(ending(reason ?? DisconnectReason.UNKNOWN_REASON));
  }

  #close() {
    this.#joined = false;
    this.#listening.abort();
    clearTimeout(this.#telling);
    this.#banner.hide();
    this.#showPanel(null, null);
    this.#watch.end();
    this.controls.close();
    this.chat.close();
    this.captions.close();
    this.people.close();
    this.breakouts.close();
    this.hands.close();
    this.floating.close();
    this.stage.close();
    this.#encryption.close();
    this.#wakeLock?.release();
    $('#hear').hidden = true;
    $('#sharing').hidden = true;
    if (document.fullscreenElement) document.exitFullscreen().catch(() => {});
    document.title = 'Parlor';
  }
}

// lasting is a time in ms as hours, minutes and seconds.
function lasting(ms) {
  const seconds = Math.floor(ms / 1000);
  const two = (number) => String(number).padStart(2, '0');
  const [hours, minutes] = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60];
  return `${hours ? `${hours}:${two(minutes)}` : minutes}:${two(seconds % 60)}`;
}

function roomOptions(options) {
  return {
    adaptiveStream: options.adaptive,
    dynacast: options.dynacast,
    singlePeerConnection: options.single,
    reconnectPolicy,
    audioCaptureDefaults: captureOptions('audioinput'),
    videoCaptureDefaults: { ...captureOptions('videoinput'), resolution: videoResolution(options.resolution) },
    audioOutput: preferences.audiooutput ? { deviceId: preferences.audiooutput } : undefined,
    publishDefaults: {
      simulcast: options.simulcast,
      videoCodec: options.codec,
      red: options.red,
      dtx: options.dtx,
    },
  };
}
