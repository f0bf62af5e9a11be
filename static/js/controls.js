// The buttons of the call: microphone, camera, screen, and their keys.

import { $, setSwitch } from './dom.js';
import { deviceProblem } from './messages.js';
import { toast } from './notices.js';
import { preferences, remember } from './preferences.js';

const { RoomEvent, Track } = window.LivekitClient;

const sources = {
  microphone: { source: Track.Source.Microphone, number: 2, button: '#mic', onIcon: 'mic', offIcon: 'mic-off', key: 'M' },
  camera: { source: Track.Source.Camera, number: 1, button: '#cam', onIcon: 'cam', offIcon: 'cam-off', key: 'V' },
  screen: { source: Track.Source.ScreenShare, number: 3, button: '#share', onIcon: 'screen', offIcon: 'screen', key: 'S' },
};

export class Controls {
  #room;
  #busy = new Set(); // kinds that are being switched
  #talking = false; // the space bar holds the microphone open
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
    this.update();
  }

  close() {
    this.#listening.abort();
  }

  // isOn tells whether one's own microphone, camera or screen is being sent.
  isOn(kind) {
    const publication = this.#room.localParticipant.getTrackPublication(sources[kind].source);
    return Boolean(publication) && !publication.isMuted;
  }

  // allowed tells whether the token lets one send it.
  allowed(kind) {
    const { permissions } = this.#room.localParticipant;
    if (!permissions) return true;
    const only = permissions.canPublishSources ?? [];
    return permissions.canPublish && (only.length === 0 || only.includes(sources[kind].number));
  }

  toggle(kind) {
    return this.set(kind, !this.isOn(kind));
  }

  async set(kind, on) {
    if (this.#busy.has(kind) || on === this.isOn(kind) || !this.allowed(kind)) return;
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
      case 'camera': return localParticipant.setCameraEnabled(on);
      default: return localParticipant.setScreenShareEnabled(on, {
        audio: true, contentHint: 'detail', selfBrowserSurface: 'exclude', surfaceSwitching: 'include', systemAudio: 'include',
      });
    }
  }

  // startTalking is for the space bar: it opens a closed microphone until the
  // bar is let go.
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
    for (const [kind, { button, onIcon, offIcon, key }] of Object.entries(sources)) {
      const node = $(button);
      const on = this.isOn(kind);
      const verb = kind === 'screen' ? (on ? 'Stop sharing the screen' : 'Share the screen') : `Turn ${kind} ${on ? 'off' : 'on'}`;
      const allowed = this.allowed(kind);
      const label = allowed ? `${verb}${preferences.shortcuts ? ` (${key})` : ''}` : `Your ${kind} is not allowed in this room`;
      setSwitch(node, on, { onIcon, offIcon, label });
      node.disabled = !allowed;
      node.setAttribute('aria-busy', String(this.#busy.has(kind)));
    }
    // Phones cannot share their screen from a browser.
    $('#share').hidden = !navigator.mediaDevices?.getDisplayMedia;
    $('#sharing').hidden = !this.isOn('screen');
  }

  #mutedByOther(publication, participant) {
    if (!participant.isLocal) return;
    const kind = Object.keys(sources).find((name) => sources[name].source === publication.source);
    if (kind && !this.#busy.has(kind)) toast(`Your ${kind} was turned off by somebody who runs this room.`, { code: 'muted-by-moderator' });
  }
}
