// Breakout rooms, for everybody: in which one the person is, how long it lasts, the way back,
// and asking for help. The server is asked whenever the person comes to a room, and when it
// says that something has changed. What hosts do about them is in division.js, which is only
// loaded when a host opens it.

import { $, setSwitch } from './dom.js';
import { dismiss, toast } from './notices.js';
import { play } from './sounds.js';
import { ofServer } from './streams.js';
import { t } from './texts.js';
import { watch } from './watch.js';

const { RoomEvent } = window.LivekitClient;

const TOPIC = 'parlor.breakout'; // the server tells that something has changed
const HELP = 'parlor.help'; // attribute of who asks for help
const LOOKED_EVERY = 4000; // ms, by hosts, for those who ask for help
const HELP_EVERY = 60_000; // ms between two calls for help of one person that a host is told of
const SOON = 60; // seconds before the end at which people are told

const titles = new WeakMap(); // room → {name, title} of a breakout room

// shownName is what people call the room that they are in.
export function shownName(room) {
  const known = titles.get(room);
  return known?.name === room.name && known.title ? known.title : room.name;
}

export class Breakouts {
  #room;
  #moderation;
  #named; // called when the room has another shown name
  #now = null; // what the server said: {open, here, mine}
  #until = 0; // when people are called back, performance.now(); 0 = no limit
  #warned = false;
  #asked = 0; // how often the server was asked
  #looking; // a promise, of the newest time
  #going = false;
  #helped = new Map(); // identity → {value, at}: the call for help that was shown last, and when, performance.now()
  #division = null; // the host's window
  #watch;
  #timer;
  #listening = new AbortController();

  constructor(room, moderation, named) {
    this.#room = room;
    this.#moderation = moderation;
    this.#named = named;
    const { signal } = this.#listening;
    room.on(RoomEvent.DataReceived, (_payload, _participant, _kind, topic, encryption, sender) => {
      if (topic === TOPIC && ofServer(sender, encryption)) this.look();
    });
    $('#breakout-go').addEventListener('click', () => this.#go(this.#now?.here ? '' : this.#now?.mine?.room ?? ''), { signal });
    $('#breakout-help').addEventListener('click', () => this.#askForHelp(!this.#asking), { signal });
    document.addEventListener('language', () => this.#draw(), { signal });
    this.#watch = watch(room, () => this.#draw());
    this.#timer = setInterval(() => this.#lookForHelp(), LOOKED_EVERY);
  }

  close() {
    this.#listening.abort();
    this.#watch.end();
    clearInterval(this.#timer);
    this.#division?.close();
    $('#breakout').hidden = true;
  }

  // look asks the server how the room is divided, and ends when that is shown.
  look() {
    this.#looking = this.#ask();
    return this.#looking;
  }

  async #ask() {
    const asked = ++this.#asked;
    const now = await this.#moderation.placement().catch(() => null); // another server, or not in the room yet
    if (this.#listening.signal.aborted) return undefined;
    if (asked !== this.#asked) return this.#looking; // what was asked later is newer
    const before = this.#now;
    this.#now = now;
    this.#until = now?.seconds_left === null || !now ? 0 : performance.now() + 1000 * now.seconds_left;
    if (!this.#until || this.#left > SOON) this.#warned = false;
    titles.set(this.#room, { name: this.#room.name, title: now?.here?.title ?? '' });
    this.#named();
    if (before?.here && !now?.here && this.#asking) this.#askForHelp(false); // who is back needs none
    if (now?.here && !now.open) await this.#go(''); // it has ended
    this.#division?.look();
    this.#draw();
    this.#lookForHelp();
    return undefined;
  }

  // inside reports whether the person is in a breakout room.
  get inside() {
    return Boolean(this.#now?.here);
  }

  // open shows the host's window.
  async open() {
    const { Division } = await import('./division.js');
    this.#division ??= new Division(this.#moderation, { here: () => this.#room.name, visit: (room, people) => this.#visit(room, people) });
    await this.#division.open();
  }

  get #left() {
    return this.#until ? Math.max(0, Math.ceil((this.#until - performance.now()) / 1000)) : 0;
  }

  get #asking() {
    return Boolean(this.#room.localParticipant.attributes?.[HELP]);
  }

  #draw() {
    const { open, here, mine } = this.#now ?? {};
    const shown = Boolean(here) || Boolean(open && mine);
    $('#breakout').hidden = !shown;
    if (!shown) return;
    const text = here ? t('breakouts.in', { room: here.title || this.#room.name }) : t('breakouts.are-open');
    if ($('#breakout-text').textContent !== text) $('#breakout-text').textContent = text;
    const left = this.#left;
    $('#breakout-left').textContent = this.#until ? t('breakouts.left', { time: clock(left) }) : '';
    if (here && this.#until && left <= SOON && left > 0 && !this.#warned) {
      this.#warned = true;
      toast(t('breakouts.minute'), { code: 'breakout-minute' });
    }
    $('#breakout-go').textContent = here ? t('breakouts.main-room') : t('breakouts.go', { room: mine.title });
    $('#breakout-help').hidden = !here || this.#moderation.allowed || this.#room.localParticipant.permissions?.canUpdateMetadata !== true;
    setSwitch($('#breakout-help'), this.#asking, { onIcon: 'hand', offIcon: 'hand', label: t(this.#asking ? 'breakouts.help-end' : 'breakouts.help') });
    $('#breakout-help span').textContent = t(this.#asking ? 'breakouts.help-asked' : 'breakouts.help');
  }

  async #go(to) {
    if (this.#going) return;
    this.#going = true;
    try {
      await this.#moderation.goTo(to);
    } catch (error) {
      toast(t('people.failed', { reason: error.message }), { bad: true, code: 'breakout-failed' });
    } finally {
      this.#going = false;
    }
  }

  async #visit(room, people) {
    await this.#go(room);
    for (const { identity } of people.filter(asksForHelp)) {
      await this.#moderation.helped(room, identity).catch(() => {}); // it may have gone
    }
  }

  async #askForHelp(wanted) {
    try {
      await this.#room.localParticipant.setAttributes({ [HELP]: wanted ? String(Date.now()) : '' });
    } catch (error) {
      toast(t('people.failed', { reason: error.message }), { bad: true, code: 'breakout-failed' });
    }
    this.#draw();
  }

  // lookForHelp has a host told of those who ask for help, in whatever room.
  async #lookForHelp() {
    if (!this.#now?.open || !this.#moderation.allowed) return;
    const { breakouts } = await this.#moderation.division().catch(() => ({ breakouts: [] })); // the next time may do
    if (this.#listening.signal.aborted) return;
    const asking = breakouts.flatMap(({ room, title, people }) => people.filter(asksForHelp).map((one) => ({ ...one, room, title, people })));
    for (const one of asking) {
      const before = this.#helped.get(one.identity);
      const at = performance.now();
      if (before && (before.value === one.attributes[HELP] || at - before.at < HELP_EVERY) || one.room === this.#room.name) continue;
      this.#helped.set(one.identity, { value: one.attributes[HELP], at });
      toast(t('breakouts.needs-help', { name: one.name || one.identity, room: one.title }), {
        code: 'breakout-help', action: { label: t('breakouts.visit'), run: () => this.#visit(one.room, one.people) },
      });
      play('knock');
    }
    if (asking.length === 0) dismiss('breakout-help');
  }
}

// asksForHelp tells it of one of the people that the server lists.
export const asksForHelp = ({ attributes }) => Boolean(attributes[HELP]);

// clock is a number of seconds as minutes and seconds.
export const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`;
