// The stage: a tile for each visible or audible person, and one for each shared screen,
// arranged to fit the window. If there are more tiles than fit, they go to further pages.
// People who speak, show video or raise a hand come to the first page.

import { $ } from './dom.js';
import { handOf } from './hands.js';
import { beside, capacity, grid, spotlight } from './layout.js';
import { isSending, spotlighted } from './moderation.js';
import { preferences } from './preferences.js';
import { Tile } from './tile.js';
import { watch } from './watch.js';

const { Track } = window.LivekitClient;

// A person counts as a speaker for this long after the last word.
const SPEAKS_FOR = 20_000; // ms

const keyOf = (participant, source) => `${source}:${participant.identity}`;

// maySpeak: people who can only watch have no tile, but are in the list.
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
  #order = []; // keys in the order of their places, on all pages
  #page = 0;
  #pages = 1;
  #resizing;
  #watch;
  #listening = new AbortController();

  constructor(room, node, audio) {
    this.#room = room;
    this.#node = node;
    this.#audio = audio;
    this.#resizing = new ResizeObserver(() => this.#arrange());
    this.#resizing.observe(node);
    this.#watch = watch(room, () => this.#sync());
    const { signal } = this.#listening;
    $('#page-before').addEventListener('click', () => this.turn(-1), { signal });
    $('#page-after').addEventListener('click', () => this.turn(1), { signal });
  }

  // turn shows the next page, or the former with -1, and reports whether there is one.
  turn(by) {
    const to = Math.max(0, Math.min(this.#pages - 1, this.#page + by));
    if (to === this.#page) return false;
    this.#page = to;
    this.#arrange();
    return true;
  }

  // react shows a reaction on the participant's tile for that many ms.
  react(participant, emoji, ms) {
    this.#tiles.get(keyOf(participant, Track.Source.Camera))?.react(emoji, ms);
  }

  // update updates the tiles from the room.
  update() {
    this.#watch.update();
  }

  // unpin returns to the plain arrangement, and reports whether a tile was pinned.
  unpin() {
    const was = this.#pinned !== null;
    this.#pinned = null;
    if (was) this.update();
    return was;
  }

  close() {
    this.#watch.end();
    this.#listening.abort();
    this.#resizing.disconnect();
    for (const tile of this.#tiles.values()) tile.remove();
    this.#tiles.clear();
    for (const [track, audio] of this.#sounds) track.detach(audio);
    this.#sounds.clear();
    this.#audio.replaceChildren();
  }

  // people are the participants in a stable order: in order of joining, and the person
  // itself last.
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
      if (this.#hasPlace(participant)) wanted.set(keyOf(participant, Track.Source.Camera), [participant, Track.Source.Camera]);
    }

    for (const [key, tile] of this.#tiles) {
      // A participant who returned under the same identity is a new object.
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

  // hasPlace reports whether the participant has a tile. The person's own tile can be
  // hidden while others are in the call.
  #hasPlace(participant) {
    if (participant.isLocal && preferences.hideSelf && this.#room.remoteParticipants.size > 0) return false;
    return maySpeak(participant);
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
    const large = this.#pinned ?? this.#spotlight ?? this.#screens.at(-1);
    const room = large ? capacity(beside(space)) : capacity(space);
    this.#keepOrder(large, room);
    this.#pages = Math.max(1, Math.ceil(this.#order.length / room));
    this.#page = Math.min(this.#page, this.#pages - 1);
    const shown = this.#order.slice(this.#page * room, (this.#page + 1) * room);
    if (large) shown.unshift(large);
    const boxes = large ? spotlight(shown.length - 1, space) : grid(shown.length, space);
    for (const [key, tile] of this.#tiles) if (!shown.includes(key)) tile.hide();
    shown.forEach((key, index) => this.#tiles.get(key).place(boxes[index], key === large));
    this.#node.dataset.tiles = String(this.#tiles.size);
    this.#showPages();
  }

  // spotlight is the key of the tile that is shown large for all, undefined if there is none.
  get #spotlight() {
    const identity = spotlighted(this.#room);
    const keys = [Track.Source.ScreenShare, Track.Source.Camera].map((source) => keyOf({ identity }, source));
    return identity ? keys.find((key) => this.#tiles.has(key)) : undefined;
  }

  // keepOrder puts the most important people on the first page, which has that many
  // places. All others keep their places, because moving faces are hard to follow.
  #keepOrder(large, places) {
    const keys = [...this.#tiles.keys()].filter((key) => key !== large);
    const here = new Set(keys);
    const kept = this.#order.filter((key) => here.delete(key));
    // While all fit on one page, the order is that of joining.
    this.#order = keys.length <= places ? keys : [...kept, ...here];
    if (keys.length <= places) return;
    const wanted = keys.map((key, index) => ({ key, index, rank: this.#rank(key), first: this.#order.indexOf(key) < places }))
      .sort((a, b) => b.rank - a.rank || Number(b.first) - Number(a.first) || a.index - b.index)
      .slice(0, places).map(({ key }) => key);
    const coming = wanted.filter((key) => this.#order.indexOf(key) >= places);
    for (let place = 0; place < places && coming.length > 0; place++) {
      if (wanted.includes(this.#order[place])) continue;
      const key = coming.shift();
      const from = this.#order.indexOf(key);
      [this.#order[place], this.#order[from]] = [key, this.#order[place]];
    }
  }

  #rank(key) {
    const { participant, isScreen } = this.#tiles.get(key);
    if (isScreen) return 16;
    if (participant.isLocal) return 8; // the person's own tile stays on the first page
    const spoke = participant.isSpeaking ? Date.now() : participant.lastSpokeAt?.getTime() ?? 0;
    return (Date.now() - spoke < SPEAKS_FOR ? 4 : 0) + (handOf(participant) ? 2 : 0) + (isSending(participant, Track.Source.Camera) ? 1 : 0);
  }

  #showPages() {
    $('#pages').hidden = this.#pages < 2;
    $('#page-now').textContent = `${this.#page + 1} / ${this.#pages}`;
    $('#page-before').disabled = this.#page === 0;
    $('#page-after').disabled = this.#page === this.#pages - 1;
  }

  // syncAudio plays every remote audio track: it needs an element, but no place.
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
