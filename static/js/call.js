// A call: one Room of livekit-client from joining to its end, and the views on it.

import { Chat } from './chat.js';
import { Controls } from './controls.js';
import { captureOptions } from './devices.js';
import { $ } from './dom.js';
import { listen } from './keys.js';
import { deviceProblem, ending } from './messages.js';
import { Banner, toast } from './notices.js';
import { inviteLink } from './options.js';
import { People } from './people.js';
import { preferences } from './preferences.js';
import { videoResolution } from './preview.js';
import { Stage } from './stage.js';
import { nameOf } from './tile.js';

const { DisconnectReason, Room, RoomEvent, Track } = window.LivekitClient;

// More people than this, and their comings and goings are no longer announced.
const ANNOUNCED_UP_TO = 12;

const PANELS = ['chat', 'people'];

export class Call {
  room;
  stage;
  controls;
  chat;
  #banner = new Banner();
  #listening = new AbortController();
  #joined = false;
  #invitable;
  #ended;
  #wakeLock;

  // invitable: whoever has the link can join, so offer to copy it.
  // ended(end) is called once, when a call that was joined is over.
  constructor({ options, invitable, ended, openSettings }) {
    this.#invitable = invitable;
    this.#ended = ended;
    this.room = new Room(roomOptions(options));
    this.stage = new Stage(this.room, $('#stage'), $('#audio'));
    this.people = new People(this.room, this.stage);
    this.controls = new Controls(this.room);
    this.chat = new Chat(this.room);
    this.#listenToRoom();
    this.#listenToPage(openSettings);
  }

  // join connects and then publishes the tracks. It throws what livekit-client
  // throws when the room cannot be joined.
  async join({ url, token, tracks, subscribe }) {
    try {
      await this.room.connect(url, token, { autoSubscribe: subscribe });
    } catch (error) {
      this.#close();
      throw error;
    }
    this.#joined = true;
    this.#showRoom();
    this.#update();
    this.#keepAwake();
    await Promise.all(tracks.map((track) => this.#publish(track)));
    this.#update();
  }

  leave() {
    return this.room.disconnect();
  }

  get reconnecting() {
    return this.#banner.visible;
  }

  async #publish(track) {
    const kind = track.kind === 'video' ? 'camera' : 'microphone';
    if (!this.controls.allowed(kind)) {
      track.stop();
      return;
    }
    try {
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
    room.on(RoomEvent.SignalReconnecting, () => this.#banner.show('Connection lost. Reconnecting…', { after: 500 }));
    room.on(RoomEvent.Reconnecting, () => this.#banner.show('Connection lost. Reconnecting…'));
    room.on(RoomEvent.Reconnected, () => {
      if (this.#banner.visible) toast('You are back in the call.', { code: 'reconnected' });
      this.#banner.hide();
    });
    room.on(RoomEvent.ParticipantConnected, (participant) => this.#announce(`${nameOf(participant)} joined`));
    room.on(RoomEvent.ParticipantDisconnected, (participant) => this.#announce(`${nameOf(participant)} left`));
    room.on(RoomEvent.AudioPlaybackStatusChanged, () => {
      $('#hear').hidden = room.canPlaybackAudio;
    });
    room.on(RoomEvent.RecordingStatusChanged, (recording) => {
      $('#recording').hidden = !recording;
      if (recording) toast('This call is being recorded.', { code: 'recording' });
    });
    room.on(RoomEvent.TrackSubscriptionFailed, (_sid, participant) => {
      toast(`Picture or sound of ${nameOf(participant)} cannot be received: this browser may not support its format.`, { bad: true, code: 'subscription-failed' });
    });
    room.on(RoomEvent.ParticipantPermissionsChanged, (before, participant) => {
      if (participant.isLocal) this.#permissionsChanged(before);
    });
    for (const event of [RoomEvent.ParticipantConnected, RoomEvent.ParticipantDisconnected, RoomEvent.Reconnected]) {
      room.on(event, () => this.#update());
    }
  }

  #listenToPage(openSettings) {
    const { signal } = this.#listening;
    const on = (selector, action) => $(selector).addEventListener('click', action, { signal });
    on('#leave', () => this.leave());
    on('#hear', () => this.room.startAudio());
    on('#invite', () => this.#copyLink());
    on('#settings-open', openSettings);
    on('#chat-toggle', () => this.#togglePanel('chat'));
    on('#people-toggle', () => this.#togglePanel('people'));
    for (const name of PANELS) on(`[data-close="${name}"]`, () => this.#showPanel(null, name));
    document.addEventListener('visibilitychange', () => this.#keepAwake(), { signal });
    listen({
      m: () => this.controls.toggle('microphone'),
      v: () => this.controls.toggle('camera'),
      s: () => !$('#share').hidden && this.controls.toggle('screen'),
      c: () => this.#togglePanel('chat'),
      p: () => this.#togglePanel('people'),
      ' ': () => this.controls.startTalking(),
      '?': openSettings,
      Escape: () => this.#showPanel(null) || this.stage.unpin(),
    }, signal);
  }

  #togglePanel(name) {
    if ($(`#${name}`).hidden) this.#showPanel(name);
    else this.#showPanel(null, name);
  }

  // showPanel opens one panel and closes the other; null closes both. It tells
  // whether anything was closed. Focus goes back to the button of the panel.
  #showPanel(open, from = PANELS.find((name) => !$(`#${name}`).hidden)) {
    for (const name of PANELS) {
      $(`#${name}`).hidden = name !== open;
      $(`#${name}-toggle`).setAttribute('aria-expanded', String(name === open));
    }
    $('#call').classList.toggle('with-panel', open !== null);
    if (open === 'chat') this.chat.opened();
    else if (open) $(`#${open} [data-close]`).focus();
    else if (from) $(`#${from}-toggle`).focus();
    return open === null && from !== undefined;
  }

  #showRoom() {
    $('#room-name').textContent = this.room.name;
    $('#invite').hidden = !this.#invitable;
    $('#recording').hidden = !this.room.isRecording;
    $('#hear').hidden = this.room.canPlaybackAudio;
    this.chat.permit(this.room.localParticipant.permissions?.canPublishData !== false);
  }

  #update() {
    const nobody = this.room.remoteParticipants.size === 0;
    const alone = $('#alone');
    alone.hidden = !nobody;
    alone.textContent = this.#invitable
      ? 'Nobody else is here yet. Copy the link and send it to whom you want to talk with.'
      : 'Nobody else is here yet.';
  }

  #announce(text) {
    if (this.room.remoteParticipants.size <= ANNOUNCED_UP_TO) toast(text);
  }

  #permissionsChanged(before) {
    const now = this.room.localParticipant.permissions;
    this.chat.permit(now?.canPublishData !== false);
    if (!before || before.canPublish === now?.canPublish) return;
    toast(now?.canPublish
      ? 'You may speak now: turn on your microphone or camera.'
      : 'You may only watch and listen now.', { code: 'permissions' });
  }

  async #copyLink() {
    const link = inviteLink(location, this.room.name);
    try {
      await navigator.clipboard.writeText(link);
      toast('Link copied. Whoever opens it can join.', { code: 'link-copied' });
    } catch {
      // No permission, or no secure context: then it is copied by hand.
      toast(link, { code: 'link' });
    }
  }

  // keepAwake stops a phone from going to sleep in the middle of a call. A
  // browser drops the lock whenever the page is hidden.
  async #keepAwake() {
    if (document.visibilityState !== 'visible' || !this.#joined) return;
    const lock = await navigator.wakeLock?.request('screen').catch(() => null);
    if (this.#joined) this.#wakeLock = lock;
    else lock?.release();
  }

  #disconnected(reason) {
    // While joining, connect throws; here would be the wrong place to tell it.
    if (!this.#joined) return;
    this.#close();
    this.#ended(ending(reason ?? DisconnectReason.UNKNOWN_REASON));
  }

  #close() {
    this.#joined = false;
    this.#listening.abort();
    this.#banner.hide();
    this.#showPanel(null, null);
    this.controls.close();
    this.chat.close();
    this.stage.close();
    this.#wakeLock?.release();
    $('#hear').hidden = true;
    $('#sharing').hidden = true;
    if (document.fullscreenElement) document.exitFullscreen().catch(() => {});
    document.title = 'Parlor';
  }
}

function roomOptions(options) {
  return {
    adaptiveStream: options.adaptive,
    dynacast: options.dynacast,
    singlePeerConnection: options.single,
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
