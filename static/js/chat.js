// Text chat in the form of other LiveKit apps: text streams on the topic lk.chat. Chat
// packets and the older JSON data messages are accepted too.

import { $, $$, element, hue, icon } from './dom.js';
import { Files } from './files.js';
import { nameable } from './moderation.js';
import { toast } from './notices.js';
import { Shares, TooMuch, drop, idOf, ofServer, readText } from './streams.js';
import { t } from './texts.js';
import { nameOf } from './tile.js';
import { watch } from './watch.js';

const { RoomEvent } = window.LivekitClient;

const TOPIC = 'lk.chat';
const PRIVATE = 'parlor.private'; // attribute of a message to one person, for the receiver to know
const OLD_TOPIC = 'lk-chat-topic';
const LONGEST = 16_000; // characters shown of one message
const MOST_BYTES = 256 * 1024; // of one incoming message
const MOST_UNDERWAY = 4 * MOST_BYTES; // characters of one sender's messages that have not ended
const SKEW = 24 * 60 * 60 * 1000; // ms that a sender's clock may differ
const SHOWN = 500; // messages
const KEPT_TOPIC = 'parlor.chat'; // the server tells that the room keeps its chat now, or no more

export class Chat {
  #room;
  #moderation;
  #log = $('#chat-log'); // scrolls
  #list = $('#chat-log ol');
  #form = $('#chat-form');
  #text = $('#chat-text');
  #to = $('#chat-to');
  #names = new Map(); // identity → name of each person that a message can go to
  #files;
  #underway = new Shares(MOST_UNDERWAY);
  #sending = false; // a file
  #allowed = true;
  #watch;
  #items = new Map(); // key → {item, node, text, edited, deleted}; item is null if it was deleted unseen
  #unread = 0;
  #kept = false; // by the room, for those who come later
  #asked = 0; // how often the room was asked what it keeps
  #recalled = false; // what the room keeps was shown once
  #last = { identity: null, to: undefined, time: 0 };
  #listening = new AbortController();

  constructor(room, moderation) {
    this.#room = room;
    this.#moderation = moderation;
    this.#files = new Files(room);
    this.#list.replaceChildren();
    this.#showNotes();
    this.#showUnread();
    room.registerByteStreamHandler(TOPIC, (reader, { identity }) => this.#readFile(reader, identity));
    room.registerTextStreamHandler(TOPIC, (reader, { identity }) => this.#readStream(reader, identity));
    room.on(RoomEvent.ChatMessage, (message, participant) => {
      // The person's own messages come back as events too, but are shown when they are
      // sent.
      if (participant && !participant.isLocal) this.#show({ ...message, text: message.message, identity: participant.identity });
    });
    room.on(RoomEvent.DataReceived, (payload, participant, _kind, topic, encryption, sender) => {
      if (topic === KEPT_TOPIC && ofServer(sender, encryption)) this.#told(payload);
      if (topic === OLD_TOPIC && participant && this.#readable(encryption)) this.#readOld(payload, participant.identity);
    });
    const { signal } = this.#listening;
    this.#form.addEventListener('submit', (event) => {
      event.preventDefault();
      this.#send();
    }, { signal });
    this.#text.addEventListener('keydown', (event) => {
      if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.#send();
    }, { signal });
    this.#text.addEventListener('input', () => this.#grow(), { signal });
    this.#to.replaceChildren();
    this.#to.addEventListener('change', () => this.#update(), { signal });
    $('#chat-attach').addEventListener('click', () => $('#chat-file').click(), { signal });
    $('#chat-file').addEventListener('change', () => this.#sendFile(), { signal });
    document.addEventListener('language', () => this.#update(), { signal });
    this.#watch = watch(room, () => this.#update());
  }

  get open() {
    return !$('#chat').hidden;
  }

  // opened is called when the panel is shown.
  opened() {
    this.#update();
    this.#unread = 0;
    this.#showUnread();
    this.#log.scrollTop = this.#log.scrollHeight;
    this.#text.focus();
  }

  // told takes what the server says of what is kept: a message was deleted, or the room keeps
  // its chat now, or no more.
  #told(payload) {
    try {
      const { deleted } = JSON.parse(new TextDecoder().decode(payload));
      if (deleted) {
        this.#deleted(deleted);
        return;
      }
    } catch {
      // A server that says it otherwise: what is kept tells.
    }
    this.recall();
  }

  // deleted shows that a message was deleted. One that comes later is not shown.
  #deleted({ identity, id, to }) {
    const key = keyOf(identity, id, to);
    const item = this.#items.get(key)?.item ?? null;
    this.#items.set(key, { item, deleted: true });
    this.#forgetOldest();
    if (!item) return;
    $('.chat-text', item).replaceChildren(element('i', { className: 'muted', textContent: t('chat.deleted') }));
    $('.chat-delete', item)?.remove();
  }

  // recall shows what the room has kept and this page does not show yet: before all else the
  // first time, and at the end when the connection was lost, or in another room.
  async recall() {
    if (this.#room.isE2EEEnabled) return; // what the server has is nothing that this call can trust
    const asked = ++this.#asked;
    const since = performance.now();
    const { kept, messages, deleted } = await keptBy(this.#room).catch(() => ({ kept: this.#kept, messages: [] })); // messages come as they are sent, too
    if (asked !== this.#asked || this.#listening.signal.aborted) return;
    if (this.#recalled && kept !== this.#kept) toast(t(kept ? 'chat.kept' : 'chat.kept-end'), { code: 'chat-kept' });
    this.#kept = kept;
    const first = !this.#recalled;
    const live = first ? [...this.#list.children] : [];
    const last = this.#last;
    this.#recalled = true;
    if (live.length > 0) {
      this.#list.replaceChildren();
      this.#last = { identity: null, to: undefined, time: 0 };
    }
    for (const which of deleted ?? []) this.#deleted(which);
    for (const { id, identity, name, text, sent_at: at } of messages) {
      if ((this.#items.get(keyOf(identity, id))?.edited ?? 0) > since) continue; // what came meanwhile is newer
      this.#show({ id, text, identity, name, timestamp: Date.parse(at), old: true });
    }
    if (live.length > 0) {
      this.#list.append(...live);
      this.#last = last;
    }
    this.#showNotes();
    if (first) this.#log.scrollTop = this.#log.scrollHeight; // later somebody may be reading further up
  }

  #showNotes() {
    $('#chat-kept').hidden = !this.#kept;
    $('#chat-empty').hidden = this.#kept || this.#list.children.length > 0;
  }

  // permit sets whether the person may send.
  permit(allowed) {
    this.#allowed = allowed;
    this.#update();
  }

  // address makes the next messages go to the participant alone.
  address(participant) {
    this.#update();
    this.#to.value = participant.identity;
    this.#update();
    this.#text.focus();
  }

  close() {
    this.#room.unregisterTextStreamHandler(TOPIC);
    this.#room.unregisterByteStreamHandler(TOPIC);
    this.#watch.end();
    this.#files.close();
    this.#listening.abort();
  }

  // update shows to whom messages go. A person who was chosen and has left stays chosen, so
  // that what was meant for one does not go to all.
  #update() {
    if (!this.open) return;
    this.#list.classList.toggle('deletable', this.#kept && this.#moderation.allowed);
    const chosen = this.#to.value;
    const people = [...this.#room.remoteParticipants.values()].map((participant) => [participant.identity, nameOf(participant)]);
    const here = new Map(people);
    if (chosen && !here.has(chosen)) people.push([chosen, t('chat.gone', { name: this.#names.get(chosen) ?? chosen })]);
    const options = [['', t('chat.everyone')], ...people];
    const shown = $$('option', this.#to).map(({ value, textContent }) => [value, textContent]);
    if (JSON.stringify(options) !== JSON.stringify(shown)) {
      this.#to.replaceChildren(...options.map(([value, textContent]) => element('option', { value, textContent })));
      this.#to.value = chosen;
    }
    for (const [identity, name] of here) this.#names.set(identity, name);
    for (const node of [this.#text, this.#to, ...$$('button', this.#form)]) node.disabled = !this.#allowed;
    $('#chat-attach').disabled ||= this.#sending;
    const name = this.#names.get(chosen) ?? chosen;
    this.#text.placeholder = !this.#allowed ? t('chat.only-read') : chosen ? t('chat.to-one', { name }) : t('chat.to-all');
    this.#form.classList.toggle('private', chosen !== '');
  }

  // receivers are the options for what is sent now. It returns null, and says so, if it is
  // for a person who has left.
  #receivers() {
    const to = this.#to.value;
    if (!to) return { topic: TOPIC };
    if (this.#room.remoteParticipants.has(to)) return { topic: TOPIC, destinationIdentities: [to], attributes: { [PRIVATE]: '1' } };
    toast(t('chat.gone-not-sent', { name: this.#names.get(to) ?? to }), { bad: true, code: 'chat-failed' });
    return null;
  }

  async #sendFile() {
    const input = $('#chat-file');
    const [file] = input.files;
    const receivers = file && this.#receivers();
    input.value = '';
    if (!receivers) return;
    this.#sending = true;
    this.#update();
    try {
      const { id } = await this.#files.send(file, receivers);
      this.#show({ id, text: t('file.said', { name: t('chat.you'), file: file.name }), identity: this.#room.localParticipant.identity, to: receivers.destinationIdentities?.[0] });
    } catch (error) {
      toast(t('file.not-sent', { reason: error.message }), { bad: true, code: 'file-failed' });
    } finally {
      this.#sending = false;
      this.#update();
    }
  }

  #readFile(reader, identity) {
    const { timestamp, name, attributes, encryptionType } = reader.info;
    const id = idOf(reader.info);
    const line = this.#files.line(name);
    let shown = false;
    try {
      shown = this.#wanted(identity, encryptionType)
        && this.#show({ id, timestamp, identity, to: this.#privately(attributes), text: line.name, node: line.node });
    } finally {
      // No file arrives unseen.
      if (shown) this.#files.receive(reader, identity, line);
      else drop(reader);
    }
  }

  // privately is the person's own identity if the sender says that the message is for this
  // person alone.
  #privately(attributes) {
    return attributes?.[PRIVATE] ? this.#room.localParticipant.identity : undefined;
  }

  async #send() {
    const text = this.#text.value.trim();
    const receivers = text !== '' && this.#receivers();
    if (!receivers) return;
    this.#text.value = '';
    this.#grow();
    try {
      const { id, timestamp } = await this.#room.localParticipant.sendText(text, receivers);
      this.#show({ id, timestamp, text, identity: this.#room.localParticipant.identity, to: receivers.destinationIdentities?.[0] });
    } catch (error) {
      toast(t('chat.not-sent', { reason: error?.message ?? '' }), { bad: true, code: 'chat-failed' });
      if (this.#text.value === '') this.#text.value = text;
    }
  }

  // readable tells whether a message may be shown: in an encrypted call, only what came
  // encrypted.
  #readable(encryption) {
    return !this.#room.isE2EEEnabled || Boolean(encryption);
  }

  // wanted tells whether the stream of that sender may be shown.
  #wanted(identity, encryption) {
    return identity !== this.#room.localParticipant.identity && this.#readable(encryption);
  }

  async #readStream(reader, identity) {
    const { timestamp, size, attributes, encryptionType } = reader.info;
    const id = idOf(reader.info);
    let text = null;
    if (!this.#wanted(identity, encryptionType)) {
      drop(reader);
    } else if (size > MOST_BYTES) {
      drop(reader);
      text = t('chat.too-long');
    } else {
      text = await readText(reader, identity, this.#underway, MOST_BYTES).catch((error) => error instanceof TooMuch ? t('chat.too-long') : null);
    }
    // What an agent wrote in somebody's name is no edit of what that person wrote.
    const of = attributes?.['parlor.by'] ? `${attributes['parlor.by']}/${id}` : id;
    if (text !== null) this.#show({ id: of, timestamp, text, identity, to: this.#privately(attributes) });
  }

  #readOld(payload, identity) {
    try {
      const { id, timestamp, message, ignoreLegacy } = JSON.parse(new TextDecoder().decode(payload));
      if (!ignoreLegacy && typeof message === 'string') this.#show({ id, timestamp, text: message, identity });
    } catch {
      // The data is not a chat message: another app uses the topic.
    }
  }

  // show adds a message: a text, or a node for a file. to is the one person that it is for.
  // old: the room has kept it. A text under the id of one that its sender sent before is its
  // new text, and without a text it is deleted, as in what the room keeps: streams do not tell
  // which they are. It returns whether there is a new line.
  #show({ id, timestamp, text, identity, name, to, node, old = false }) {
    const shown = text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text;
    const known = id && this.#items.get(keyOf(identity, id, to));
    if (known) {
      if (node || known.deleted || known.node) return false;
      if (text === '') this.#deleted({ identity, id, to });
      else if (shown !== known.text) $('.chat-text', known.item).replaceChildren(...linked(shown));
      Object.assign(known, { text: shown, edited: performance.now() });
      return false;
    }
    if (text === '' && !node) return false;
    const atEnd = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 60;
    const item = this.#item(node ? [node] : linked(shown), identity, old ? timestamp : plausible(timestamp), to, name, node ? '' : id);
    this.#list.append(item);
    if (id) this.#items.set(keyOf(identity, id, to), { item, node: Boolean(node), text: shown, edited: performance.now() });
    this.#forgetOldest();
    this.#showNotes();
    const own = identity === this.#room.localParticipant.identity;
    if (atEnd || own) this.#log.scrollTop = this.#log.scrollHeight;
    if (!this.open && !own && !old) this.#notify(identity, shown, Boolean(node));
    return true;
  }

  #item(content, identity, timestamp, to, before, id) {
    const participant = this.#room.getParticipantByIdentity(identity);
    const own = identity === this.#room.localParticipant.identity;
    const item = element('li', { className: own ? 'own' : '', 'data-identity': identity });
    // Consecutive messages of one person have one heading.
    const follows = this.#last.identity === identity && this.#last.to === to && timestamp - this.#last.time < 120_000;
    if (!follows) {
      const name = own ? t('chat.you') : participant ? nameOf(participant) : before || identity;
      const heading = element('div', { className: 'chat-head' }, element('b', { textContent: name }), ' ', element('time', {
        dateTime: new Date(timestamp).toISOString(),
        textContent: shownTime(new Date(timestamp)),
      }));
      heading.style.setProperty('--hue', hue(identity));
      if (to) heading.append(' ', element('span', { className: 'chat-private', textContent: own ? t('chat.private-to', { name: this.#names.get(to) ?? to }) : t('chat.private') }));
      item.append(heading);
    }
    item.append(element('div', { className: 'chat-text' }, ...content));
    // For hosts, who see it while the room keeps what is written to all.
    if (nameable(id) && nameable(identity) && !to) {
      const button = element('button', { type: 'button', className: 'plain chat-delete', 'data-label': 'chat.delete', 'aria-label': t('chat.delete') }, icon('close'));
      button.addEventListener('click', () => this.#delete(identity, id));
      item.append(button);
    }
    this.#last = { identity, to, time: timestamp };
    return item;
  }

  async #delete(identity, id) {
    try {
      await this.#moderation.deleteMessage(identity, id);
    } catch (error) {
      toast(t('people.failed', { reason: error.message }), { bad: true, code: 'moderation-failed' });
    }
  }

  #forgetOldest() {
    while (this.#list.children.length > SHOWN) this.#list.firstElementChild.remove();
    for (const key of this.#items.keys()) {
      if (this.#items.size <= SHOWN) break;
      this.#items.delete(key);
    }
  }

  #notify(identity, text, isFile) {
    this.#unread++;
    this.#showUnread();
    const participant = this.#room.getParticipantByIdentity(identity);
    const name = participant ? nameOf(participant) : identity;
    const start = text.length > 120 ? `${text.slice(0, 120)}…` : text;
    toast(isFile ? t('file.said', { name, file: start }) : t('said', { name, text: start }), { code: 'chat' });
  }

  #showUnread() {
    const badge = $('#unread');
    badge.hidden = this.#unread === 0;
    badge.textContent = this.#unread > 99 ? '99+' : String(this.#unread);
    badge.setAttribute('aria-label', t('chat.unread', { count: this.#unread }));
  }

  #grow() {
    this.#text.style.height = 'auto';
    this.#text.style.height = `${Math.min(this.#text.scrollHeight, 140)}px`;
  }
}

// keyOf tells a message: ids are of their senders, and one to a person alone is another.
const keyOf = (identity, id, to) => JSON.stringify([identity, id, to]);

// keptBy asks the server what the room keeps: {kept, messages, deleted}.
async function keptBy(room) {
  const response = await fetch(`v1/rooms/${encodeURIComponent(room.name)}/chat`, {
    headers: { Authorization: `Bearer ${room.engine?.token ?? ''}` },
    signal: AbortSignal.timeout(10_000),
  });
  if (!response.ok) throw new Error(`the server answered ${response.status}`);
  return response.json();
}

// shownTime is the time of day, with the day unless that is today.
function shownTime(at) {
  const day = at.toDateString() === new Date().toDateString() ? {} : { day: 'numeric', month: 'short' };
  return at.toLocaleString(document.documentElement.lang, { hour: '2-digit', minute: '2-digit', ...day });
}

// plausible is the sender's time of a message, or now if that cannot be its time.
function plausible(timestamp) {
  const now = Date.now();
  return typeof timestamp === 'number' && Math.abs(now - timestamp) < SKEW ? timestamp : now;
}

// linked splits text into nodes, with http(s) addresses as links. The text is never
// parsed as markup.
function linked(text) {
  const nodes = [];
  let at = 0;
  for (const match of text.matchAll(/https?:\/\/[^\s<>"']+[^\s<>"'.,;:!?)\]]/g)) {
    nodes.push(text.slice(at, match.index));
    nodes.push(element('a', { href: match[0], textContent: match[0], target: '_blank', rel: 'noopener noreferrer' }));
    at = match.index + match[0].length;
  }
  nodes.push(text.slice(at));
  return nodes;
}
