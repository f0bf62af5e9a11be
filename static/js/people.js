// Who is here: the count in the top bar, and the list behind it.

import { $, element, hue, icon, initials } from './dom.js';
import { nameOf } from './tile.js';
import { watch } from './watch.js';

const { Track } = window.LivekitClient;

export class People {
  #room;
  #stage;
  #watch;
  #shown = ''; // what the list says now

  constructor(room, stage) {
    this.#room = room;
    this.#stage = stage;
    this.#watch = watch(room, () => this.#show());
  }

  close() {
    this.#watch.end();
  }

  #show() {
    const people = this.#stage.people.map(describe);
    const say = JSON.stringify([this.#room.name, people]);
    if (say === this.#shown) return;
    this.#shown = say;
    $('#count').textContent = String(people.length);
    document.title = `${this.#room.name || 'Call'} (${people.length}) – Parlor`;
    $('#people-list').replaceChildren(...people.map(row));
  }
}

// describe is all that the list says of a participant.
function describe(participant) {
  const on = (source) => {
    const publication = participant.getTrackPublication(source);
    return Boolean(publication) && !publication.isMuted;
  };
  return {
    identity: participant.identity,
    name: nameOf(participant),
    local: participant.isLocal,
    screen: on(Track.Source.ScreenShare),
    microphone: on(Track.Source.Microphone),
    camera: on(Track.Source.Camera),
  };
}

function row(person) {
  const avatar = element('span', { className: 'avatar', 'aria-hidden': 'true', textContent: initials(person.name) });
  avatar.style.setProperty('--hue', hue(person.identity));
  const node = element('li', {}, avatar,
    element('span', { className: 'people-name', textContent: person.name + (person.local ? ' (you)' : '') }));
  if (person.screen) node.append(icon('screen'), element('span', { className: 'sr', textContent: 'shares a screen' }));
  for (const [noun, name] of [['microphone', 'mic'], ['camera', 'cam']]) {
    const on = person[noun];
    node.append(icon(on ? name : `${name}-off`, on ? 'icon' : 'icon dim'), element('span', { className: 'sr', textContent: `${noun} ${on ? 'on' : 'off'}` }));
  }
  return node;
}
