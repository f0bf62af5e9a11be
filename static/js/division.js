// The host's window of breakout rooms: makes them, assigns people, sends them out, tells them
// something, visits a room, and calls all back. What it shows is the server's, so that another
// host, or the same one after a reload, goes on from there.

import { asksForHelp, clock } from './breakouts.js';
import { $, element, icon } from './dom.js';
import { toast } from './notices.js';
import { t } from './texts.js';

const LOOKED_EVERY = 3; // seconds, while it is open
const MOST = 50; // rooms
const MOST_ASSIGNED = 500; // people
const MOST_TRIES = 5; // of a change, while other hosts change the rooms, too
const LIMITS = [0, 5, 10, 15, 20, 30, 45, 60]; // minutes; 0 = none

export class Division {
  #moderation;
  #hooks;
  #now = null; // as the server told it
  #until = 0; // performance.now(); 0 = no limit
  #shown = '';
  #count = 2;
  #limit = 0; // minutes
  #message = '';
  #changing = Promise.resolve();
  #timer;
  #root = $('#breakouts-body');
  #listening = new AbortController();

  // hooks: here() is the name of the room that the host is in; visit(room, people) goes to one.
  constructor(moderation, hooks) {
    this.#moderation = moderation;
    this.#hooks = hooks;
    const { signal } = this.#listening;
    $('[data-close="breakouts"]').addEventListener('click', () => $('#breakouts').close(), { signal });
    $('#breakouts').addEventListener('close', () => clearInterval(this.#timer), { signal });
    this.#root.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#submitted(event.target);
    }, { signal });
    this.#root.addEventListener('click', ({ target }) => this.#clicked(target.closest('button[data-do]')), { signal });
    this.#root.addEventListener('change', ({ target }) => this.#changed(target), { signal });
    this.#root.addEventListener('input', ({ target }) => {
      if (target.name === 'text') this.#message = target.value;
    }, { signal });
    document.addEventListener('language', () => this.#draw(), { signal });
  }

  close() {
    clearInterval(this.#timer);
    this.#listening.abort();
    if ($('#breakouts').open) $('#breakouts').close();
  }

  async open() {
    this.#shown = '';
    this.#take(await this.#moderation.division());
    if (!$('#breakouts').open) $('#breakouts').showModal();
    clearInterval(this.#timer);
    let seconds = 0;
    this.#timer = setInterval(() => {
      this.#tick();
      if (++seconds % LOOKED_EVERY === 0) this.look();
    }, 1000);
  }

  async look() {
    if (!$('#breakouts').open) return;
    const now = await this.#moderation.division().catch(() => null); // the next time may do
    if (now) this.#take(now);
  }

  #take(now) {
    this.#now = now;
    this.#until = now.seconds_left === null ? 0 : performance.now() + 1000 * now.seconds_left;
    this.#draw();
    this.#tick();
  }

  #tick() {
    $('#breakouts-left').textContent = this.#until ? t('breakouts.left', { time: clock(Math.max(0, Math.ceil((this.#until - performance.now()) / 1000))) }) : '';
  }

  // draw draws what has changed, and leaves the focus where it was.
  #draw() {
    if (!this.#now || this.#listening.signal.aborted) return;
    const { seconds_left: _, ...state } = this.#now;
    const say = JSON.stringify([document.documentElement.lang, state, this.#hooks.here()]);
    if (say === this.#shown) return;
    this.#shown = say;
    const had = this.#root.contains(document.activeElement) ? document.activeElement.dataset.key : undefined;
    this.#root.replaceChildren(...(this.#now.breakouts.length === 0 ? this.#start() : this.#rooms()));
    if (had) (this.#root.querySelector(`[data-key="${CSS.escape(had)}"]`) ?? $('[data-close="breakouts"]')).focus();
  }

  #start() {
    const count = element('input', { type: 'number', name: 'count', min: 1, max: MOST, value: this.#count, required: true, 'data-key': 'count' });
    return [element('form', { 'data-form': 'make', className: 'breakouts-row' },
      element('label', { className: 'field' }, element('span', { textContent: t('breakouts.count') }), count),
      element('button', { type: 'submit', className: 'primary', textContent: t('breakouts.make'), 'data-key': 'make' }))];
  }

  #rooms() {
    const { open, breakouts } = this.#now;
    const everybody = this.#everybody();
    const limit = element('select', { name: 'limit', 'data-key': 'limit' }, ...LIMITS.map((minutes) => element('option', {
      value: String(minutes), textContent: minutes ? t('breakouts.minutes', { count: minutes }) : t('breakouts.no-limit'), selected: minutes === this.#limit,
    })));
    const send = this.#button('send', '', t(open ? 'breakouts.set-limit' : 'breakouts.send'), open ? 'secondary' : 'primary');
    return [
      element('ul', { className: 'breakouts-rooms' }, ...breakouts.map((one, index) => this.#roomRow(one, index))),
      element('div', { className: 'actions breakouts-row' },
        breakouts.length < MOST ? this.#button('add', '', t('breakouts.add')) : '', this.#button('random', '', t('breakouts.random'))),
      element('h3', { textContent: t('people') }),
      element('ul', { className: 'breakouts-people' }, ...everybody.map((one) => this.#personRow(one))),
      element('div', { className: 'breakouts-row' }, element('label', { className: 'field' }, element('span', { textContent: t('breakouts.limit') }), limit), send),
      ...(open ? [
        element('form', { 'data-form': 'tell', className: 'breakouts-row' },
          element('label', { className: 'field' }, element('span', { textContent: t('breakouts.message') }),
            element('input', { type: 'text', name: 'text', maxLength: 300, required: true, autocomplete: 'off', value: this.#message, 'data-key': 'text' })),
          element('button', { type: 'submit', className: 'secondary', textContent: t('breakouts.tell'), 'data-key': 'tell' })),
        element('div', { className: 'breakouts-row' }, this.#button('back', '', t('breakouts.back'), 'primary')),
      ] : [element('div', { className: 'actions breakouts-row' }, this.#button('end', '', t('breakouts.end'), 'chip risky'))]),
    ];
  }

  #roomRow({ room, title, people, assigned }, index) {
    const here = this.#hooks.here() === room;
    const name = element('input', {
      type: 'text', name: 'title', maxLength: 60, required: true, value: title, autocomplete: 'off',
      'aria-label': t('breakouts.title', { number: index + 1 }), 'data-room': room, 'data-key': `title ${room}`,
    });
    const node = element('li', { 'data-room': room }, name, element('span', { className: 'muted small', textContent: String(this.#now.open ? people.length : assigned.length) }, element('span', { className: 'sr', textContent: t('people') })));
    if (people.some(asksForHelp)) node.append(icon('hand', 'icon hand-mark'), element('span', { className: 'sr', textContent: t('breakouts.help-asked') }));
    if (here) node.append(element('span', { className: 'muted small', textContent: t('breakouts.here') }));
    else if (this.#now.open) node.append(named(this.#button('visit', room, t('breakouts.visit')), t('breakouts.visit-room', { room: title })));
    if (!this.#now.open) {
      const drop = this.#button('drop', room, '', 'plain');
      drop.append(icon('close'));
      node.append(named(drop, t('breakouts.drop', { room: title })));
    }
    return node;
  }

  #personRow({ identity, name, room, host }) {
    const shown = name || identity;
    const assigned = this.#now.breakouts.find((one) => one.assigned.includes(identity))?.room ?? '';
    const choice = element('select', { name: 'assigned', 'aria-label': t('breakouts.of', { name: shown }), 'data-identity': identity, 'data-key': `assigned ${identity}` },
      element('option', { value: '', textContent: t('breakouts.nowhere') }),
      ...this.#now.breakouts.map((one) => element('option', { value: one.room, textContent: one.title, selected: one.room === assigned })));
    const node = element('li', { 'data-identity': identity }, element('span', { className: 'people-name', textContent: shown }));
    if (host) node.append(element('span', { className: 'people-host', textContent: t('people.host') }));
    if (this.#now.open && room !== assigned) {
      const where = this.#now.breakouts.find((one) => one.room === room)?.title ?? t('breakouts.nowhere');
      node.append(element('span', { className: 'muted small', textContent: where }));
    }
    node.append(choice);
    return node;
  }

  #button(action, room, label, className = 'chip') {
    return element('button', { type: 'button', className, textContent: label, 'data-do': action, 'data-room': room, 'data-key': `${action} ${room}` });
  }

  // everybody is who is in any of the rooms, with the name of the room; '' = the main room.
  #everybody() {
    const { in_main: here, breakouts } = this.#now;
    return [...here.map((one) => ({ ...one, room: '' })), ...breakouts.flatMap(({ room, people }) => people.map((one) => ({ ...one, room })))]
      .sort((a, b) => (a.name || a.identity).localeCompare(b.name || b.identity));
  }

  async #submitted(form) {
    if (form.dataset.form === 'make') {
      this.#count = Number(form.elements.count.value);
      await this.#divide(() => Array.from({ length: this.#count }, (_, index) => ({ title: t('breakouts.room', { number: index + 1 }) })));
      return;
    }
    await this.#try(async () => {
      await this.#moderation.tell(form.elements.text.value.trim());
      this.#message = '';
      form.reset();
      form.elements.text.value = '';
      toast(t('breakouts.told'), { code: 'breakout-told' });
    });
  }

  async #clicked(node) {
    if (!node) return;
    const { do: action, room } = node.dataset;
    const run = {
      add: () => this.#divide((list) => [...list, { title: t('breakouts.room', { number: this.#now.breakouts.length + 1 }) }]),
      drop: () => this.#divide((list) => list.filter((one) => one.room !== room)),
      random: () => this.#assignAtRandom(),
      send: () => this.#try(async () => this.#take(await this.#moderation.sendOut(60 * this.#limit))),
      back: () => this.#try(async () => this.#take(await this.#moderation.callBack())),
      end: () => this.#divide(() => []),
      visit: async () => {
        $('#breakouts').close();
        await this.#hooks.visit(room, this.#now.breakouts.find((one) => one.room === room)?.people ?? []);
      },
    }[action];
    node.disabled = true;
    await run();
    node.disabled = false;
  }

  async #changed({ name, value, dataset }) {
    if (name === 'limit') this.#limit = Number(value);
    else if (name === 'title' && value.trim()) await this.#divide((list) => list.map((one) => (one.room === dataset.room ? { ...one, title: value.trim() } : one)));
    else if (name === 'assigned') await this.#assign(new Map([[dataset.identity, value]]));
  }

  // assign puts people into rooms, by identity; '' = into none.
  #assign(rooms) {
    return this.#divide((list) => list.map((one) => ({
      ...one, assigned: [...one.assigned.filter((identity) => !rooms.has(identity)), ...[...rooms].filter(([, room]) => room === one.room).map(([identity]) => identity)],
    })));
  }

  // assignAtRandom spreads those who are not hosts and in no room, so that the rooms are as full
  // as each other. Of more people than can be assigned it leaves some in the main room.
  #assignAtRandom() {
    const taken = new Set(this.#now.breakouts.flatMap(({ assigned }) => assigned));
    const free = this.#everybody().filter(({ identity, host }) => !host && !taken.has(identity)).map(({ identity }) => identity);
    for (let last = free.length - 1; last > 0; last--) {
      const other = Math.floor(Math.random() * (last + 1));
      [free[last], free[other]] = [free[other], free[last]];
    }
    const room = Math.max(0, MOST_ASSIGNED - taken.size);
    if (free.length > room) {
      free.length = room;
      toast(t('breakouts.most', { count: MOST_ASSIGNED }), { code: 'breakout-most' });
    }
    const sizes = this.#now.breakouts.map(({ room, assigned }) => ({ room, size: assigned.length }));
    return this.#assign(new Map(free.map((identity) => {
      const least = sizes.reduce((a, b) => (b.size < a.size ? b : a));
      least.size++;
      return [identity, least.room];
    })));
  }

  // divide changes the rooms: change(list) is given them, and returns them, as the server takes
  // them. One change comes after the other, so that none undoes another; if another host has
  // changed them meanwhile it is made to those that there are now.
  #divide(change) {
    this.#changing = this.#changing.then(() => this.#try(async () => {
      for (let tries = 1; ; tries++) {
        const list = change(this.#now.breakouts.map(({ room, title, assigned }) => ({ room, title, assigned })));
        try {
          this.#take(await this.#moderation.divide(list, this.#now.etag));
          return;
        } catch (error) {
          if (error.status !== 412 || tries === MOST_TRIES) throw error;
        }
        this.#take(await this.#moderation.division());
      }
    }));
    return this.#changing;
  }

  async #try(act) {
    try {
      await act();
    } catch (error) {
      this.#shown = ''; // what was chosen is not so
      this.#draw();
      toast(t('people.failed', { reason: error.message }), { bad: true, code: 'breakout-failed' });
    }
  }
}

function named(node, label) {
  node.setAttribute('aria-label', label);
  return node;
}
