// The participants: their number in the top bar, and the list of them. Moderators find
// their actions in the same list.

import { shownName } from './breakouts.js';
import { $, element, hue, icon, initials } from './dom.js';
import { handOf } from './hands.js';
import { Knocks } from './knocks.js';
import { Camera, isSending, Microphone, spotlighted } from './moderation.js';
import { ask, toast } from './notices.js';
import { Quality } from './quality.js';
import { t } from './texts.js';
import { nameOf } from './tile.js';
import { watch } from './watch.js';

const { Track } = window.LivekitClient;

const MEASURED_EVERY = 2000; // ms
const ASKED_EVERY = 5000; // ms, for what other hosts have done

export class People {
  #room;
  #stage;
  #watch;
  #moderation;
  #knocks = null; // null: the person lets nobody in
  #shown = ''; // present content of the list
  #open = null; // identity of the person whose actions are shown
  #sure = null; // key of the action that waits for a second click
  #write;
  #divide;
  #volumes = new Map(); // identity → 0…1, of the people that this person has made quieter
  #details = null; // {identity, quality, lines} of the person whose numbers are shown
  #measuring;
  #state = null; // the server's state of the room, for moderators
  #hosts = new Set(); // identities, for moderators
  #ran = null; // {room, runs}: whether the person ran the room when that was last known
  #asking;
  #listening = new AbortController();

  // write(participant) is called for a private message to the participant, divide() to divide
  // the room. invited: the person came by an invitation, so a host lets in those that wait.
  constructor(room, stage, { moderation, write, divide, invited }) {
    this.#room = room;
    this.#write = write;
    this.#divide = divide;
    this.#stage = stage;
    this.#moderation = moderation;
    this.#watch = watch(room, () => this.#show());
    if (invited) this.#knocks = new Knocks(this.#moderation, () => this.#show());
    this.#measuring = setInterval(() => this.#measure(), MEASURED_EVERY);
    this.#asking = setInterval(() => this.#askAgain(), ASKED_EVERY);
    $('#people-list').addEventListener('input', ({ target }) => this.#setVolume(target), { signal: this.#listening.signal });
    $('#people-list').addEventListener('click', (event) => this.#clicked(event.target.closest('button')), { signal: this.#listening.signal });
    $('#people-knocks').addEventListener('click', (event) => this.#clicked(event.target.closest('button')), { signal: this.#listening.signal });
    $('#people-room').addEventListener('click', (event) => this.#clicked(event.target.closest('button')), { signal: this.#listening.signal });
  }

  close() {
    this.#listening.abort();
    this.#knocks?.end();
    clearInterval(this.#measuring);
    clearInterval(this.#asking);
    this.#watch.end();
  }

  // runs reports whether the person runs the room.
  get runs() {
    return this.#moderation.allowed;
  }

  // opened is called when the panel is shown. It asks the server for its state of the
  // room.
  opened() {
    if (this.#moderation.allowed) this.#ask();
  }

  async #ask() {
    try {
      await this.#look();
    } catch (error) {
      this.#failed(error);
    }
    this.#show();
  }

  async #look() {
    const [{ locked, hold, keep_chat: kept, waiting_room: waits }, hosts] = await Promise.all([this.#moderation.state(), this.#moderation.hosts()]);
    if (this.#knocks) this.#knocks.on = waits;
    this.#state = { locked, held: Boolean(hold), kept };
    this.#hosts = hosts;
  }

  #askAgain() {
    if (this.runs && !$('#people').hidden) this.#look().then(() => this.#show(), () => {}); // the next time may do
  }

  // notice tells the person that it was made host, or is none any more. A move to another
  // room is told by itself, and while there is no token nothing is known.
  #notice() {
    if (!this.#moderation.known) return;
    const { runs } = this;
    const room = this.#room.name;
    const before = this.#ran;
    this.#ran = { room, runs };
    if (before?.room !== room || before.runs === runs) return;
    toast(t(runs ? 'people.made-host' : 'people.unmade-host'), { code: 'host' });
    if (runs && !$('#people').hidden) this.#ask();
  }

  #show() {
    this.#notice();
    const { runs } = this;
    const people = this.#stage.people.map((participant) => describe(participant, runs && this.#hosts.has(participant.identity))).sort((a, b) => (a.hand || Infinity) - (b.hand || Infinity) || 0);
    this.#keepVolumes();
    const say = JSON.stringify([document.documentElement.lang, shownName(this.#room), people, runs, this.#open, this.#sure, this.#state, this.#knocks?.on, this.#knocks?.list, this.#details?.identity, spotlighted(this.#room)]);
    if (say === this.#shown) return;
    this.#shown = say;
    $('#count').textContent = String(people.length);
    document.title = t('call.title', { room: shownName(this.#room) || t('call'), count: people.length });
    keepFocus($('#people'), () => {
      $('#people-list').replaceChildren(...people.map((person) => this.#row(person, runs)));
      $('#people-knocks').replaceChildren(...this.#ofKnocks());
      $('#people-room').replaceChildren(...(runs ? this.#ofRoom() : []));
    });
    $('#people-room').hidden = !runs;
    $('#people-knocks').hidden = !this.#knocks?.list.length;
  }

  #ofKnocks() {
    const list = this.#knocks?.list ?? [];
    const answer = (action, { id }, who) => {
      const node = this.#action(action, id, t(`people.${action}`));
      node.setAttribute('aria-label', t(`people.${action}-who`, { name: who }));
      return node;
    };
    const rows = list.map((one) => {
      const who = one.name || t('people.nameless');
      return element('div', { className: 'knock', role: 'group', 'aria-label': who },
        element('span', { className: 'people-name', textContent: who }), answer('admit', one, who), answer('refuse', one, who));
    });
    if (list.length > 1) rows.push(this.#action('admit-all', '', t('people.admit-all')));
    return list.length > 0 ? [element('h3', { textContent: t('people.waiting') }), ...rows] : [];
  }

  #row(person, runs) {
    const node = row(person);
    const open = this.#open === person.identity;
    const more = button('more', person.identity, icon('more'));
    more.className = 'plain';
    more.setAttribute('aria-expanded', String(open));
    more.setAttribute('aria-label', t('people.actions', { name: person.name }));
    node.append(more);
    if (!open) return node;
    if (!person.local) node.append(this.#volume(person));
    node.append(element('div', { className: 'actions', role: 'group', 'aria-label': person.name },
      ...(person.local ? [] : [this.#action('write', person.identity, t('people.write'))]),
      this.#action('details', person.identity, t('people.details')), ...(runs ? this.#ofPerson(person) : [])));
    if (this.#details?.identity === person.identity) node.append(this.#details.list);
    return node;
  }

  #volume({ identity, name }) {
    const slider = element('input', {
      type: 'range', min: 0, max: 100, value: Math.round(100 * (this.#volumes.get(identity) ?? 1)),
      'aria-label': t('people.volume', { name }), 'data-action': 'volume', 'data-identity': identity,
    });
    return element('div', { className: 'volume' }, icon('volume'), slider);
  }

  #setVolume({ dataset, value }) {
    if (dataset.action !== 'volume') return;
    this.#volumes.set(dataset.identity, value / 100);
    this.#keepVolumes();
  }

  // keepVolumes sets the volumes also of people who have come back.
  #keepVolumes() {
    for (const [identity, volume] of this.#volumes) {
      const participant = this.#room.remoteParticipants.get(identity);
      if (participant && (participant.getVolume() ?? 1) !== volume) participant.setVolume(volume);
    }
  }

  #toggleDetails(identity) {
    this.#details = this.#details?.identity === identity ? null
      : { identity, quality: new Quality(), list: element('ul', { className: 'details' }, element('li', { textContent: t('quality.measuring') })) };
    return this.#measure();
  }

  async #measure() {
    const details = this.#details;
    const participant = details && this.#room.getParticipantByIdentity(details.identity);
    if (!participant || $('#people').hidden) return;
    const lines = await details.quality.measure(participant);
    if (lines.length > 0) details.list.replaceChildren(...lines.map((line) => element('li', { textContent: line })));
  }

  #ofPerson(person) {
    const action = (name, risky = false) => this.#action(name, person.identity, t(`people.${name}`), risky);
    const forAll = spotlighted(this.#room) === person.identity ? 'spotlight-end' : 'spotlight';
    if (person.local) return [action('rename'), action(forAll)];
    const { elsewhere } = this.#moderation;
    return [
      person.microphone ? action('mute') : person.hasMicrophone ? action('ask') : null,
      person.camera ? action('stop-camera') : null,
      person.hand ? action('lower-hand') : null,
      person.maySpeak ? action('only-watch') : action('let-speak'),
      action('rename'),
      action(forAll),
      elsewhere ? this.#action('move', person.identity, t('people.move', { room: elsewhere })) : null,
      person.host ? action('unmake-host') : action('make-host', true),
      action('remove', true),
      action('ban', true),
    ].filter(Boolean);
  }

  #ofRoom() {
    const action = (name, label = `people.${name}`, risky = false) => this.#action(name, '', t(label), risky);
    const { locked, held, kept } = this.#state ?? {};
    return [
      action('mute-all'),
      held ? action('release') : action('hold'),
      locked ? action('unlock') : action('lock'),
      ...(this.#room.isE2EEEnabled ? [] : [kept ? action('keep-chat-end', undefined, true) : action('keep-chat')]),
      ...(this.#knocks ? [action(this.#knocks.on ? 'waiting-room-end' : 'waiting-room')] : []),
      action('divide', 'breakouts'),
      ...(this.#moderation.mayClose ? [action('close', 'people.end', true)] : []),
    ];
  }

  // A risky action needs two clicks.
  #action(name, identity, label, risky) {
    const node = button(name, identity, this.#sure === `${name}:${identity}` ? t('people.sure', { action: label }) : label);
    node.className = `chip${risky ? ' risky' : ''}`;
    node.dataset.risky = String(Boolean(risky));
    return node;
  }

  async #clicked(node) {
    if (!node?.dataset.action) return;
    const { action, identity, risky } = node.dataset;
    if (action === 'more') {
      this.#open = this.#open === identity ? null : identity;
      this.#sure = null;
      this.#show();
      return;
    }
    const key = `${action}:${identity}`;
    if (risky === 'true' && this.#sure !== key) {
      this.#sure = key;
      this.#show();
      return;
    }
    this.#sure = null;
    try {
      await this.#do(action, this.#room.getParticipantByIdentity(identity), identity);
    } catch (error) {
      this.#failed(error);
    }
    this.#show();
  }

  async #do(action, participant, id) {
    const moderation = this.#moderation;
    const ofRoom = {
      'mute-all': () => moderation.muteAll(false),
      hold: () => moderation.muteAll(true),
      release: () => moderation.release(),
      lock: () => moderation.lock(true),
      unlock: () => moderation.lock(false),
      'keep-chat': () => moderation.keepChat(true),
      'keep-chat-end': () => moderation.keepChat(false),
      close: () => moderation.close(),
      divide: () => this.#divide(),
    }[action];
    if (ofRoom) {
      await ofRoom();
      if (action !== 'close' && action !== 'divide') await this.#ask();
      return;
    }
    const ofKnock = {
      admit: () => this.#knocks.decide(id, 'admit'),
      refuse: () => this.#knocks.decide(id, 'refuse'),
      'admit-all': () => this.#knocks.admitAll(),
      'waiting-room': () => this.#knocks.switch(true),
      'waiting-room-end': () => this.#knocks.switch(false),
    }[action];
    if (ofKnock) {
      await ofKnock();
      return;
    }
    if (!participant) return; // the participant has left meanwhile
    const done = {
      mute: () => moderation.turnOff(participant, Microphone),
      'stop-camera': () => moderation.turnOff(participant, Camera),
      write: () => this.#write(participant),
      details: () => this.#toggleDetails(participant.identity),
      rename: () => this.#rename(participant),
      spotlight: () => moderation.spotlight(participant.identity),
      'spotlight-end': () => moderation.spotlight(''),
      move: () => moderation.move(participant),
      ask: () => moderation.ask(participant).then(() => toast(t('people.asked', { name: nameOf(participant) }), { code: 'asked' })),
      'lower-hand': () => moderation.lowerHand(participant),
      'only-watch': () => moderation.letSpeak(participant, false),
      'let-speak': () => moderation.letSpeak(participant, true),
      'make-host': () => moderation.makeHost(participant, true).then(() => this.#look()),
      'unmake-host': () => moderation.makeHost(participant, false).then(() => this.#look()),
      remove: () => moderation.remove(participant),
      ban: () => moderation.ban(participant),
    }[action];
    await done();
    if (action === 'remove' || action === 'ban') this.#open = null;
  }

  async #rename(participant) {
    const name = await ask(t('people.rename-to', { name: nameOf(participant) }), nameOf(participant));
    if (name) await this.#moderation.rename(participant, name);
  }

  #failed(error) {
    toast(t('people.failed', { reason: error.message }), { bad: true, code: 'moderation-failed' });
  }
}

// describe is the text of the list about a participant.
function describe(participant, host) {
  return {
    identity: participant.identity,
    name: nameOf(participant),
    local: participant.isLocal,
    host,
    hand: handOf(participant),
    screen: isSending(participant, Track.Source.ScreenShare),
    microphone: isSending(participant, Microphone),
    hasMicrophone: Boolean(participant.getTrackPublication(Microphone)),
    camera: isSending(participant, Camera),
    maySpeak: participant.permissions?.canPublish !== false,
  };
}

function row(person) {
  const avatar = element('span', { className: 'avatar', 'aria-hidden': 'true', textContent: initials(person.name) });
  avatar.style.setProperty('--hue', hue(person.identity));
  const node = element('li', { 'data-identity': person.identity }, avatar,
    element('span', { className: 'people-name', textContent: person.local ? t('people.you', { name: person.name }) : person.name }));
  if (person.host) node.append(element('span', { className: 'people-host', textContent: t('people.host') }));
  if (person.hand) node.append(icon('hand', 'icon hand-mark'), element('span', { className: 'sr', textContent: t('people.raised') }));
  if (person.screen) node.append(icon('screen'), element('span', { className: 'sr', textContent: t('people.shares') }));
  for (const [noun, name] of [['microphone', 'mic'], ['camera', 'cam']]) {
    const on = person[noun];
    node.append(icon(on ? name : `${name}-off`, on ? 'icon' : 'icon dim'), element('span', { className: 'sr', textContent: t(on ? `people.on.${noun}` : `people.off.${noun}`) }));
  }
  return node;
}

function button(action, identity, content) {
  return element('button', { type: 'button', 'data-action': action, 'data-identity': identity }, content);
}

// keepFocus draws the list and returns the focus to the button that had it, or to another
// one of the same person.
function keepFocus(root, draw) {
  const had = root.contains(document.activeElement) ? document.activeElement.dataset : null;
  draw();
  if (!had?.action) return;
  const same = (action) => root.querySelector(`[data-action="${action}"][data-identity="${CSS.escape(had.identity)}"]`);
  (same(had.action) ?? same('more') ?? root.querySelector('[data-close]')).focus();
}
