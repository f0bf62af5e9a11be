// Text chat in the form of other LiveKit apps: text streams on the topic lk.chat. Chat
// packets and the older JSON data messages are accepted too.

import { $, element, hue } from './dom.js';
import { toast } from './notices.js';
import { t, translate } from './texts.js';
import { nameOf } from './tile.js';

const { RoomEvent } = window.LivekitClient;

const TOPIC = 'lk.chat';
const OLD_TOPIC = 'lk-chat-topic';
const LONGEST = 16_000; // characters shown of one message
const MOST_BYTES = 256 * 1024; // of one incoming message; a longer one is cut
const KEPT = 500; // messages

export class Chat {
  #room;
  #log = $('#chat-log'); // scrolls
  #list = $('#chat-log ol');
  #form = $('#chat-form');
  #text = $('#chat-text');
  #items = new Map(); // message id → list item, for edits
  #unread = 0;
  #last = { identity: null, time: 0 };
  #listening = new AbortController();

  constructor(room) {
    this.#room = room;
    this.#list.replaceChildren();
    $('#chat-empty').hidden = false;
    this.#showUnread();
    room.registerTextStreamHandler(TOPIC, (reader, { identity }) => this.#readStream(reader, identity));
    room.on(RoomEvent.ChatMessage, (message, participant) => {
      // The person's own messages come back as events too, but are shown when they are
      // sent.
      if (participant && !participant.isLocal) this.#show({ ...message, text: message.message, identity: participant.identity });
    });
    room.on(RoomEvent.DataReceived, (payload, participant, _kind, topic, encryption) => {
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
  }

  get open() {
    return !$('#chat').hidden;
  }

  // opened is called when the panel is shown.
  opened() {
    this.#unread = 0;
    this.#showUnread();
    this.#log.scrollTop = this.#log.scrollHeight;
    this.#text.focus();
  }

  // permit sets whether the person may send.
  permit(allowed) {
    this.#text.disabled = !allowed;
    $('button', this.#form).disabled = !allowed;
    this.#text.dataset.placeholder = allowed ? 'chat.to-all' : 'chat.only-read';
    translate(this.#form);
  }

  close() {
    this.#room.unregisterTextStreamHandler(TOPIC);
    this.#listening.abort();
  }

  async #send() {
    const text = this.#text.value.trim();
    if (text === '') return;
    this.#text.value = '';
    this.#grow();
    try {
      const { id, timestamp } = await this.#room.localParticipant.sendText(text, { topic: TOPIC });
      this.#show({ id, timestamp, text, identity: this.#room.localParticipant.identity });
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

  async #readStream(reader, identity) {
    if (identity === this.#room.localParticipant.identity || !this.#readable(reader.info.encryptionType)) return;
    const { id, timestamp, size } = reader.info;
    const text = size > MOST_BYTES ? t('chat.too-long') : await reader.readAll().catch(() => null);
    if (text !== null) this.#show({ id, timestamp, text, identity });
  }

  #readOld(payload, identity) {
    try {
      const { id, timestamp, message, ignoreLegacy } = JSON.parse(new TextDecoder().decode(payload));
      if (!ignoreLegacy && typeof message === 'string') this.#show({ id, timestamp, text: message, identity });
    } catch {
      // The data is not a chat message: another app uses the topic.
    }
  }

  #show({ id, timestamp, text, identity, editTimestamp }) {
    const shown = text.length > LONGEST ? `${text.slice(0, LONGEST)}…` : text;
    const known = id && this.#items.get(id);
    if (known?.identity === identity) {
      if (editTimestamp) $('.chat-text', known.item).replaceChildren(...linked(shown));
      return;
    }
    const atEnd = this.#log.scrollHeight - this.#log.scrollTop - this.#log.clientHeight < 60;
    const item = this.#item(shown, identity, timestamp || Date.now());
    this.#list.append(item);
    if (id) this.#items.set(id, { item, identity });
    this.#forgetOldest();
    $('#chat-empty').hidden = true;
    const own = identity === this.#room.localParticipant.identity;
    if (atEnd || own) this.#log.scrollTop = this.#log.scrollHeight;
    if (!this.open && !own) this.#notify(identity, shown);
  }

  #item(text, identity, timestamp) {
    const participant = this.#room.getParticipantByIdentity(identity);
    const own = identity === this.#room.localParticipant.identity;
    const item = element('li', { className: own ? 'own' : '', 'data-identity': identity });
    // Consecutive messages of one person have one heading.
    const follows = this.#last.identity === identity && timestamp - this.#last.time < 120_000;
    if (!follows) {
      const name = own ? t('chat.you') : participant ? nameOf(participant) : identity;
      const heading = element('div', { className: 'chat-head' }, element('b', { textContent: name }), ' ', element('time', {
        dateTime: new Date(timestamp).toISOString(),
        textContent: new Date(timestamp).toLocaleTimeString(document.documentElement.lang, { hour: '2-digit', minute: '2-digit' }),
      }));
      heading.style.setProperty('--hue', hue(identity));
      item.append(heading);
    }
    item.append(element('div', { className: 'chat-text' }, ...linked(text)));
    this.#last = { identity, time: timestamp };
    return item;
  }

  #forgetOldest() {
    while (this.#list.children.length > KEPT) this.#list.firstElementChild.remove();
    for (const id of this.#items.keys()) {
      if (this.#items.size <= KEPT) break;
      this.#items.delete(id);
    }
  }

  #notify(identity, text) {
    this.#unread++;
    this.#showUnread();
    const participant = this.#room.getParticipantByIdentity(identity);
    toast(t('said', { name: participant ? nameOf(participant) : identity, text: text.length > 120 ? `${text.slice(0, 120)}…` : text }), { code: 'chat' });
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
