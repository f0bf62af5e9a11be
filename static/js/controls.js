// The buttons of the call for microphone, camera and screen, and their keys.

import { treatOpened, treatPicture } from './background.js';
import { $, setSwitch } from './dom.js';
import { deviceProblem } from './messages.js';
import { ASK_TOPIC } from './moderation.js';
import { dismiss, toast } from './notices.js';
import { preferences, remember } from './preferences.js';
import { ofServer } from './streams.js';
import { t } from './texts.js';
import { nameOf } from './tile.js';

const { RoomEvent, Track } = window.LivekitClient;

// The topic on which the server sends the list of sources that it keeps muted.
const HOLD_TOPIC = 'parlor.hold';

const sources = {
  microphone: { source: Track.Source.Microphone, number: 2, button: '#mic', visible: 'call.mic', onIcon: 'mic', offIcon: 'mic-off', key: 'M' },
  camera: { source: Track.Source.Camera, number: 1, button: '#cam', visible: 'call.cam', onIcon: 'cam', offIcon: 'cam-off', key: 'V' },
  screen: { source: Track.Source.ScreenShare, number: 3, button: '#share', visible: 'call.share', onIcon: 'screen', offIcon: 'screen', key: 'S' },
};

export class Controls {
  #room;
  #busy = new Set(); // kinds that are being switched
  #darkening = 0; // times that the camera is being turned off because of a problem
  #talking = false; // the space bar keeps the microphone on
  #held = []; // sources that the server keeps muted
  #listening = new AbortController();

  constructor(room) {
    this.#room = room;
    const { signal } = this.#listening;
    for (const kind of Object.keys(sources)) {
      $(sources[kind].button).addEventListener('click', () => this.toggle(kind), { signal });
    }
    $('#sharing-stop').addEventListener('click', () => this.toggle('screen'), { signal });
    addEventListener('keyup', (event) => event.code === 'Space' && this.#stopTalking(), { signal });
    addEventListener('blur', () => this.#stopTalking(), { signal });
    const events = [
      RoomEvent.Connected, RoomEvent.Reconnected, RoomEvent.LocalTrackPublished, RoomEvent.LocalTrackUnpublished,
      RoomEvent.TrackMuted, RoomEvent.TrackUnmuted, RoomEvent.ParticipantPermissionsChanged,
    ];
    for (const event of events) room.on(event, () => this.update());
    room.on(RoomEvent.TrackMuted, (publication, participant) => this.#mutedByOther(publication, participant));
    room.on(RoomEvent.DataReceived, (payload, participant, _kind, topic, encryption, sender) => {
      if (topic === HOLD_TOPIC && ofServer(sender, encryption)) this.#holdChanged(payload);
      if (topic === ASK_TOPIC && participant) this.#asked(participant);
    });
    room.on(RoomEvent.Moved, () => this.#setHeld([])); // the hold applies to the former room
    document.addEventListener('language', () => this.update(), { signal });
    this.update();
  }

  close() {
    this.#listening.abort();
  }

  // isOn reports whether the person's microphone, camera or screen is being sent.
  isOn(kind) {
    const publication = this.#room.localParticipant.getTrackPublication(sources[kind].source);
    return Boolean(publication) && !publication.isMuted;
  }

  // allowed reports whether the token permits a source.
  allowed(kind) {
    const { permissions } = this.#room.localParticipant;
    if (!permissions) return true;
    const only = permissions.canPublishSources ?? [];
    return permissions.canPublish && (only.length === 0 || only.includes(sources[kind].number));
  }

  // isHeld reports whether a moderator keeps the source muted.
  isHeld(kind) {
    return this.#held.includes(kind === 'screen' ? 'screen_share' : kind);
  }

  #holdChanged(payload) {
    try {
      const { held } = JSON.parse(new TextDecoder().decode(payload));
      if (Array.isArray(held)) this.#setHeld(held);
    } catch {
      // Malformed data is not from the server.
    }
  }

  #setHeld(held) {
    const before = Object.keys(sources).filter((kind) => this.isHeld(kind));
    this.#held = held;
    for (const kind of Object.keys(sources)) {
      if (this.isHeld(kind) === before.includes(kind)) continue;
      dismiss('held');
      dismiss('muted-by-moderator');
      if (this.isHeld(kind)) toast(t(`control.held.${kind}`), { code: 'held' });
      else toast(t(`control.released.${kind}`), { code: 'released' });
    }
    this.update();
  }

  // asked offers the person to turn the microphone on. It never turns it on by itself.
  #asked(participant) {
    if (this.isOn('microphone') || !this.allowed('microphone') || this.isHeld('microphone')) return;
    dismiss('asked-to-unmute');
    toast(t('control.asked', { name: nameOf(participant) }), {
      code: 'asked-to-unmute', action: { label: t('control.unmute'), run: () => this.set('microphone', true) },
    });
  }

  toggle(kind) {
    return this.set(kind, !this.isOn(kind));
  }

  async set(kind, on) {
    if (this.#busy.has(kind) || on === this.isOn(kind) || !this.allowed(kind)) return;
    if (on && this.isHeld(kind)) {
      toast(t(`control.held.${kind}`), { code: 'held' });
      return;
    }
    this.#busy.add(kind);
    this.update();
    try {
      await this.#switch(kind, on);
      if (kind !== 'screen' && !this.#talking) remember({ [kind === 'microphone' ? 'audio' : 'video']: on });
    } catch (error) {
      const { code, text } = deviceProblem(kind, error);
      toast(text, { bad: true, code });
    } finally {
      this.#busy.delete(kind);
      this.update();
    }
  }

  #switch(kind, on) {
    const { localParticipant } = this.#room;
    switch (kind) {
      case 'microphone': return localParticipant.setMicrophoneEnabled(on);
      case 'camera': return on && !localParticipant.getTrackPublication(Track.Source.Camera) ? this.#openCamera() : localParticipant.setCameraEnabled(on);
      default: return localParticipant.setScreenShareEnabled(on, {
        audio: true, contentHint: 'detail', selfBrowserSurface: 'exclude', surfaceSwitching: 'include', systemAudio: 'include',
      });
    }
  }

  // openCamera publishes the camera, once its picture is treated as the person wants.
  async #openCamera() {
    const { localParticipant } = this.#room;
    const [camera] = await localParticipant.createTracks({ video: true });
    await treatOpened(camera);
    try {
      await localParticipant.publishTrack(camera, { source: Track.Source.Camera });
    } catch (error) {
      camera.stop();
      throw error;
    }
    await this.treatPicture(camera); // the choice may have changed meanwhile
  }

  // treatPicture applies the person's choice of background to an open camera.
  async treatPicture(camera) {
    try {
      await treatPicture(camera);
    } catch (error) {
      if (error.bare) await this.darken(error.problem, camera);
      else toast(error.problem.text, { bad: true, code: error.problem.code });
    }
  }

  // darken turns the camera off because of a problem, which it tells.
  async darken({ code, text }, camera) {
    dismiss(code);
    toast(text, { bad: true, code });
    this.#darkening += 1;
    try {
      await camera.mute();
    } finally {
      this.#darkening -= 1;
      this.update();
    }
  }

  // startTalking is for the space bar: it turns a muted microphone on until the bar is
  // released.
  async startTalking() {
    if (this.#talking || this.isOn('microphone')) return;
    this.#talking = true;
    await this.set('microphone', true);
    if (!this.#talking) await this.set('microphone', false);
  }

  async #stopTalking() {
    if (!this.#talking) return;
    await this.set('microphone', false);
    this.#talking = false;
  }

  update() {
    for (const [kind, { button, visible, onIcon, offIcon, key }] of Object.entries(sources)) {
      const node = $(button);
      const on = this.isOn(kind);
      const allowed = this.allowed(kind);
      let what = t(on ? `device.off.${kind}` : `device.on.${kind}`);
      if (this.isHeld(kind) && !on) what = t('control.held');
      else if (!allowed) what = t('control.not-allowed');
      else if (preferences.shortcuts) what = t('control.with-key', { what, key });
      // The name contains the visible label, because voice control uses the label (WCAG
      // 2.5.3).
      setSwitch(node, on, { onIcon, offIcon, label: t('control.label', { label: t(visible), what }) });
      node.disabled = !allowed;
      node.setAttribute('aria-busy', String(this.#busy.has(kind)));
    }
    // Browsers on phones cannot share the screen.
    $('#share').hidden = !navigator.mediaDevices?.getDisplayMedia;
    $('#sharing').hidden = !this.isOn('screen');
  }

  #mutedByOther(publication, participant) {
    if (!participant.isLocal) return;
    const kind = Object.keys(sources).find((name) => sources[name].source === publication.source);
    if (kind === 'camera' && this.#darkening > 0) return;
    if (kind && !this.#busy.has(kind) && !this.isHeld(kind)) toast(t(`control.muted.${kind}`), { code: 'muted-by-moderator' });
  }
}
