// The waiting room, for hosts: who waits to be let in. The server forgets them when it
// restarts; the pages of those that wait then knock again by themselves.

import { dismiss, toast } from './notices.js';
import { play } from './sounds.js';
import { t } from './texts.js';

const ASKED_EVERY = 3000; // ms
const LOOKED_EVERY = 10; // times asked: another host may have switched the waiting room on

export class Knocks {
  on = false; // the room has a waiting room
  list = []; // {id, name}
  #moderation;
  #changed;
  #asked = 0;
  #timer;
  #ended = false;

  // changed() is called when the list is another.
  constructor(moderation, changed) {
    this.#moderation = moderation;
    this.#changed = changed;
    this.#tick();
  }

  end() {
    this.#ended = true;
    clearTimeout(this.#timer);
  }

  async #tick() {
    try {
      if (this.#moderation.allowed) await this.look();
      else if (this.list.length > 0) this.#drop(() => false);
    } catch {
      // The next time may do.
    }
    if (!this.#ended) this.#timer = setTimeout(() => this.#tick(), ASKED_EVERY);
  }

  async look() {
    if (this.#asked++ % LOOKED_EVERY === 0) this.on = (await this.#moderation.state()).waiting_room;
    const list = this.on ? (await this.#moderation.knocks()).knocks : [];
    if (this.#ended) return;
    const known = new Set(this.list.map(({ id }) => id));
    this.list = list;
    const fresh = list.filter(({ id }) => !known.has(id));
    if (list.length === 0) dismiss('knock');
    for (const { id, name } of fresh) {
      toast(t('people.knocks', { name: name || t('people.nameless') }), {
        code: 'knock', action: { label: t('people.admit'), run: () => this.decide(id, 'admit').catch(() => this.#changed()) },
      });
    }
    if (fresh.length > 0) play('knock');
    this.#changed();
  }

  // decide answers one who waits: admit or refuse.
  async decide(id, how) {
    await this.#moderation.decide(id, how);
    this.#drop((one) => one.id !== id);
  }

  async admitAll() {
    await this.#moderation.admitAll();
    this.#drop(() => false);
  }

  // switch turns the waiting room on or off. Off lets in those that wait.
  async switch(on) {
    await this.#moderation.waitingRoom(on);
    this.on = on;
    if (!on) this.#drop(() => false);
  }

  #drop(stays) {
    this.list = this.list.filter(stays);
    if (this.list.length === 0) dismiss('knock');
    this.#changed();
  }
}
