// The stage: a tile per person who may be seen or heard, and one per shared
// screen, arranged to fit the window.

import { grid, spotlight } from './layout.js';
import { Tile } from './tile.js';
import { watch } from './watch.js';

const { Track } = window.LivekitClient;

const keyOf = (participant, source) => `${source}:${participant.identity}`;

// maySpeak: people who can only watch get no tile, they are in the list.
const maySpeak = (participant) =>
  participant.permissions?.canPublish !== false || participant.trackPublications.size > 0;

export class Stage {
  #room;
  #node;
  #audio;
  #tiles = new Map(); // by keyOf, in the order shown
  #sounds = new Map(); // remote audio track → the element that plays it
  #screens = []; // keys of shared screens, the newest last
  #pinned = null;
  #resizing;
  #watch;

  constructor(room, node, audio) {
    this.#room = room;
    this.#node = node;
    this.#audio = audio;
    this.#resizing = new ResizeObserver(() => this.#arrange());
    this.#resizing.observe(node);
    this.#watch = watch(room, () => this.#sync());
  }

  // update brings the tiles in line with the room.
  update() {
    this.#watch.update();
  }

  // unpin goes back to the plain arrangement and tells whether anything was pinned.
  unpin() {
    const was = this.#pinned !== null;
    this.#pinned = null;
    if (was) this.update();
    return was;
  }

  close() {
    this.#watch.end();
    this.#resizing.disconnect();
    for (const tile of this.#tiles.values()) tile.remove();
    this.#tiles.clear();
    for (const [track, audio] of this.#sounds) track.detach(audio);
    this.#sounds.clear();
    this.#audio.replaceChildren();
  }

  // people are the participants in a stable order: who came first, then oneself.
  get people() {
    const remote = [...this.#room.remoteParticipants.values()];
    const since = (participant) => participant.joinedAt?.getTime() ?? 0;
    remote.sort((a, b) => since(a) - since(b) || (a.identity < b.identity ? -1 : 1));
    return [...remote, this.#room.localParticipant];
  }

  #sync() {
    const wanted = new Map();
    this.#syncAudio();
    for (const participant of this.people) {
      if (participant.getTrackPublication(Track.Source.ScreenShare)) {
        wanted.set(keyOf(participant, Track.Source.ScreenShare), [participant, Track.Source.ScreenShare]);
      }
    }
    for (const participant of this.people) {
      if (maySpeak(participant)) wanted.set(keyOf(participant, Track.Source.Camera), [participant, Track.Source.Camera]);
    }

    for (const [key, tile] of this.#tiles) {
      // A participant who came back under the same identity is a new object.
      if (wanted.get(key)?.[0] === tile.participant) continue;
      tile.remove();
      this.#tiles.delete(key);
    }
    const ordered = new Map();
    for (const [key, [participant, source]] of wanted) {
      ordered.set(key, this.#tiles.get(key) ?? this.#add(key, participant, source));
    }
    this.#tiles = ordered;
    this.#followScreens();
    for (const [key, tile] of ordered) tile.update({ pinned: key === this.#pinned });
    this.#arrange();
  }

  #add(key, participant, source) {
    const tile = new Tile(participant, source, {
      pinClicked: () => {
        this.#pinned = this.#pinned === key ? null : key;
        this.update();
      },
    });
    this.#node.append(tile.node);
    return tile;
  }

  // followScreens keeps the screens in the order in which they were started.
  #followScreens() {
    const now = [...this.#tiles].filter(([, tile]) => tile.isScreen && !tile.participant.isLocal).map(([key]) => key);
    this.#screens = this.#screens.filter((key) => now.includes(key));
    for (const key of now) if (!this.#screens.includes(key)) this.#screens.push(key);
    if (this.#pinned && !this.#tiles.has(this.#pinned)) this.#pinned = null;
  }

  #arrange() {
    const { clientWidth: width, clientHeight: height } = this.#node;
    if (width === 0 || height === 0) return;
    const space = { width, height, gap: width < 600 ? 6 : 10 };
    const large = this.#pinned ?? this.#screens.at(-1);
    const order = [...this.#tiles.keys()];
    if (large) {
      order.splice(order.indexOf(large), 1);
      order.unshift(large);
    }
    const boxes = large ? spotlight(order.length - 1, space) : grid(order.length, space);
    order.forEach((key, index) => this.#tiles.get(key).place(boxes[index], key === large));
    this.#node.dataset.tiles = String(order.length);
  }

  // syncAudio lets every remote sound be heard: it needs an element, not a place.
  #syncAudio() {
    const wanted = new Map();
    for (const participant of this.#room.remoteParticipants.values()) {
      for (const { audioTrack } of participant.audioTrackPublications.values()) {
        if (audioTrack) wanted.set(audioTrack, participant);
      }
    }
    for (const [track, audio] of this.#sounds) {
      if (wanted.has(track)) continue;
      track.detach(audio);
      audio.remove();
      this.#sounds.delete(track);
    }
    for (const [track, participant] of wanted) {
      if (this.#sounds.has(track)) continue;
      const audio = track.attach();
      audio.dataset.identity = participant.identity;
      this.#audio.append(audio);
      this.#sounds.set(track, audio);
    }
  }
}
