// Who is here: the count in the top bar, and the list behind it.

import { $, element, hue, icon, initials } from './dom.js';
import { nameOf } from './tile.js';

const { RoomEvent, Track } = window.LivekitClient;

export class People {
  #room;
  #stage;
  #due = false;

  constructor(room, stage) {
    this.#room = room;
    this.#stage = stage;
    const events = [
      RoomEvent.Connected, RoomEvent.ParticipantConnected, RoomEvent.ParticipantDisconnected, RoomEvent.ParticipantNameChanged,
      RoomEvent.TrackPublished, RoomEvent.TrackUnpublished, RoomEvent.TrackMuted, RoomEvent.TrackUnmuted,
      RoomEvent.LocalTrackPublished, RoomEvent.LocalTrackUnpublished, RoomEvent.Reconnected,
    ];
    for (const event of events) room.on(event, () => this.update());
    this.update();
  }

  update() {
    if (this.#due) return;
    this.#due = true;
    queueMicrotask(() => {
      this.#due = false;
      this.#show();
    });
  }

  #show() {
    const { people } = this.#stage;
    $('#count').textContent = String(people.length);
    document.title = `${this.#room.name || 'Call'} (${people.length}) – Parlor`;
    $('#people-list').replaceChildren(...people.map((participant) => this.#row(participant)));
  }

  #row(participant) {
    const avatar = element('span', { className: 'avatar', 'aria-hidden': 'true', textContent: initials(nameOf(participant)) });
    avatar.style.setProperty('--hue', hue(participant.identity));
    const row = element('li', {}, avatar,
      element('span', { className: 'people-name', textContent: nameOf(participant) + (participant.isLocal ? ' (you)' : '') }));
    const on = (source) => {
      const publication = participant.getTrackPublication(source);
      return Boolean(publication) && !publication.isMuted;
    };
    if (on(Track.Source.ScreenShare)) row.append(icon('screen'), element('span', { className: 'sr', textContent: 'shares a screen' }));
    for (const [source, noun, name] of [[Track.Source.Microphone, 'microphone', 'mic'], [Track.Source.Camera, 'camera', 'cam']]) {
      const state = on(source);
      row.append(icon(state ? name : `${name}-off`, state ? 'icon' : 'icon dim'), element('span', { className: 'sr', textContent: `${noun} ${state ? 'on' : 'off'}` }));
    }
    return row;
  }
}
