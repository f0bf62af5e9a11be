// Raised hands and reactions. A raised hand is an attribute of the participant, so that
// participants who join later see it too. A reaction is data, and disappears after a
// moment.

import { $, $$ } from './dom.js';
import { toast } from './notices.js';
import { preferences } from './preferences.js';
import { t } from './texts.js';
import { nameOf } from './tile.js';

const { RoomEvent } = window.LivekitClient;

const HAND = 'parlor.hand';
const REACTION_TOPIC = 'parlor.reaction';
const REACTIONS = ['👍', '👏', '❤️', '😂', '😮', '🎉'];
const SHOWN_FOR = 4000; // ms
const PACE = 500; // ms between two reactions of one person

// handOf is the time at which the participant raised a hand, in ms; 0 = it is down.
export function handOf(participant) {
  const since = Number(participant.attributes?.[HAND]);
  return Number.isSafeInteger(since) && since > 0 ? since : 0;
}

export class Hands {
  #room;
  #stage;
  #last = new Map(); // identity → time of the last shown reaction
  #listening = new AbortController();

  constructor(room, stage) {
    this.#room = room;
    this.#stage = stage;
    const { signal } = this.#listening;
    $('#hand').addEventListener('click', () => this.toggle(), { signal });
    for (const button of $$('#reactions button')) button.addEventListener('click', () => this.react(button.textContent), { signal });
    room.on(RoomEvent.DataReceived, (payload, participant, _kind, topic) => {
      if (topic === REACTION_TOPIC && participant) this.#show(participant, new TextDecoder().decode(payload));
    });
    room.on(RoomEvent.ParticipantAttributesChanged, (changed, participant) => {
      if (!(HAND in changed)) return;
      if (!participant.isLocal && handOf(participant)) toast(t('hand.raised', { name: nameOf(participant) }), { code: 'hand' });
      this.update();
    });
    for (const event of [RoomEvent.Connected, RoomEvent.ParticipantPermissionsChanged, RoomEvent.Moved]) room.on(event, () => this.update());
    document.addEventListener('language', () => this.update(), { signal });
    this.update();
  }

  close() {
    this.#listening.abort();
    this.#last.clear();
  }

  async toggle() {
    const { localParticipant } = this.#room;
    if ($('#hand').hidden) return;
    try {
      await localParticipant.setAttributes({ [HAND]: handOf(localParticipant) ? '' : String(Date.now()) });
    } catch (error) {
      toast(t('hand.failed', { reason: error.message }), { bad: true, code: 'hand-failed' });
    }
    this.update();
  }

  async react(emoji) {
    const { localParticipant } = this.#room;
    this.#show(localParticipant, emoji);
    await localParticipant.publishData(new TextEncoder().encode(emoji), { reliable: true, topic: REACTION_TOPIC }).catch(() => {
      toast(t('hand.reaction-failed'), { bad: true, code: 'reaction-failed' });
    });
  }

  update() {
    const { permissions } = this.#room.localParticipant;
    $('#hand').hidden = permissions?.canUpdateMetadata !== true;
    $('#reactions').hidden = permissions?.canPublishData === false;
    const up = handOf(this.#room.localParticipant) > 0;
    $('#hand').setAttribute('aria-pressed', String(up));
    const what = t(up ? 'hand.lower' : 'hand.raise');
    const label = t('control.label', { label: t('call.hand'), what: preferences.shortcuts ? t('control.with-key', { what, key: 'H' }) : what });
    $('#hand').setAttribute('aria-label', label);
    $('#hand').title = label;
  }

  #show(participant, emoji) {
    if (!REACTIONS.includes(emoji)) return; // only reactions that this page can send
    const now = performance.now();
    if (now - (this.#last.get(participant.identity) ?? -PACE) < PACE) return;
    this.#last.set(participant.identity, now);
    this.#stage.react(participant, emoji, SHOWN_FOR);
    $('#reaction-said').textContent = t('said', { name: nameOf(participant), text: emoji });
  }
}
