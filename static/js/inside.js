// Who is in the room already: shown in the lobby, to those whom the server tells. Those are
// the ones whom the room would let in now; to others the lobby looks as if nobody had asked.

import { $ } from './dom.js';
import { admitted } from './invitation.js';
import { listed, say, t } from './texts.js';
import { newIdentity, readToken, requestToken } from './token.js';

const ASKED_EVERY = 10_000; // ms
const TYPED_FOR = 600; // ms without a key until another room is asked for
const NAMED = 3; // names in the sentence
const LONGEST = 40; // characters of a name

// Answers that the next question would get, too.
const FINAL = new Set([400, 401, 403, 404, 410]);

export class Inside {
  #options;
  #open = false;
  #timer;
  #turn = 0; // of the question whose answer counts
  #answer = null;
  #development = {}; // the token that a server in dev mode gave for a room

  constructor(options) {
    this.#options = options;
    $('#room').addEventListener('input', () => {
      if (!this.#open) return;
      this.#show(null);
      this.#ask(TYPED_FOR);
    });
    document.addEventListener('language', () => this.#draw());
    document.addEventListener('visibilitychange', () => {
      if (this.#open && !document.hidden) this.#ask(0);
    });
  }

  // open begins to look, close ends it.
  open() {
    this.#open = true;
    this.#ask(0);
  }

  close() {
    this.#open = false;
    this.#turn++;
    clearTimeout(this.#timer);
    this.#show(null);
  }

  #ask(wait) {
    clearTimeout(this.#timer);
    const turn = ++this.#turn;
    this.#timer = setTimeout(() => this.#look(turn), wait);
  }

  async #look(turn) {
    if (!document.hidden) {
      const { answer, final } = await this.#fetch().catch(({ status }) => ({ answer: null, final: FINAL.has(status) }));
      if (turn !== this.#turn) return;
      this.#show(answer);
      if (final) return;
    }
    this.#timer = setTimeout(() => this.#look(turn), ASKED_EVERY);
  }

  // fetch asks with what the person would join with.
  async #fetch() {
    const { token, invite } = this.#options;
    if (token) return ofRoom(readToken(token)?.room, token);
    if (invite) {
      const before = admitted(invite);
      return before ? ofRoom(before.room, before.token) : { answer: await ask('v1/admissions/lobby', { body: { secret: invite } }) };
    }
    const room = $('#room').value.trim();
    if (room && this.#development.room !== room) {
      const identity = this.#options.identity || newIdentity('lobby');
      this.#development = { room, ...await requestToken({ room, identity, name: '' }) };
    }
    return ofRoom(room, this.#development.token);
  }

  #show(answer) {
    this.#answer = answer;
    this.#draw();
  }

  #draw() {
    const { people = null, names = [], recorded = false } = this.#answer ?? {};
    $('#inside').hidden = people === null;
    $('#inside-recorded').hidden = !recorded;
    if (people === null) return;
    const [key, given] = sentence(people, names);
    if ($('#inside-text').textContent !== t(key, given)) say($('#inside-text'), key, given); // the same is not read out again
  }
}

// sentence is the key and the values of the text that tells who is there.
function sentence(people, names) {
  if (people === 0) return ['lobby.nobody'];
  if (names.length === 0) return ['lobby.people', { count: people }];
  const told = names.slice(0, people > NAMED + 1 ? NAMED : NAMED + 1).map(short);
  const others = people - told.length;
  if (others > 0) told.push(t('lobby.others', { count: others }));
  return ['lobby.named', { count: people, names: listed(told) }];
}

function short(name) {
  const characters = [...name];
  return characters.length > LONGEST ? `${characters.slice(0, LONGEST - 1).join('')}…` : name;
}

// ofRoom asks with a token; a token of no room, or a room without a name, gets no answer.
async function ofRoom(room, token) {
  if (!room || !token) return { answer: null, final: true };
  return { answer: await ask(`v1/rooms/${encodeURIComponent(room)}/lobby`, { token }) };
}

async function ask(path, { body, token }) {
  const response = await fetch(path, {
    method: body ? 'POST' : 'GET',
    headers: { ...(body && { 'Content-Type': 'application/json' }), ...(token && { Authorization: `Bearer ${token}` }) },
    body: body && JSON.stringify(body),
    signal: AbortSignal.timeout(10_000),
  });
  if (!response.ok) throw Object.assign(new Error(path), { status: response.status });
  return response.json();
}
