// Captions: what agents and other participants send as transcription, in text streams on
// the topic lk.transcription or in the older transcription packets.

import { $, element } from './dom.js';
import { preferences } from './preferences.js';
import { Shares, drop, idOf, readText } from './streams.js';
import { t } from './texts.js';
import { nameOf } from './tile.js';

const { RoomEvent } = window.LivekitClient;

const TOPIC = 'lk.transcription';
const SHOWN_FOR = 8000; // ms after the last word
const AT_ONCE = 2; // segments
const LONGEST = 300; // characters shown of a segment, its last ones
const MOST_CHARACTERS = 20_000; // of one stream; the rest is dropped
const MOST_UNDERWAY = 5 * MOST_CHARACTERS; // of one sender's streams that have not ended

export class Captions {
  #room;
  #underway = new Shares(MOST_UNDERWAY);
  #segments = new Map(); // sender and segment id → {node, timer}, in the order shown

  constructor(room) {
    this.#room = room;
    room.registerTextStreamHandler(TOPIC, (reader, { identity }) => this.#read(reader, identity));
    room.on(RoomEvent.TranscriptionReceived, (segments, participant, publication) => {
      if (!participant || room.isE2EEEnabled) return; // these packets are not encrypted
      for (const { id, text } of segments) this.#show(participant.identity, id, publication?.trackSid, text);
    });
    this.update();
  }

  close() {
    this.#room.unregisterTextStreamHandler(TOPIC);
    for (const key of this.#segments.keys()) this.#remove(key);
  }

  update() {
    $('#captions').hidden = !preferences.captions;
  }

  async #read(reader, identity) {
    const { info } = reader;
    if (this.#room.isE2EEEnabled && !info.encryptionType) {
      drop(reader);
      return;
    }
    const segment = info.attributes?.['lk.segment_id'] || idOf(info);
    const track = info.attributes?.['lk.transcribed_track_id'];
    try {
      await readText(reader, identity, this.#underway, MOST_CHARACTERS, (text) => this.#show(identity, segment, track, text));
    } catch {
      // The sender left in the middle of a sentence, or says too much: what came is shown.
    }
  }

  // show names the speaker: an agent may write down what the owner of a track says, and
  // everybody else only speaks for themselves.
  #show(identity, segment, track, text) {
    if (typeof text !== 'string' || text.trim() === '') return;
    const sender = this.#room.getParticipantByIdentity(identity);
    if (!sender) return;
    const speaker = (sender.isAgent && track && this.#ownerOf(track)) || sender;
    const key = JSON.stringify([identity, segment]);
    let shown = this.#segments.get(key);
    if (!shown) {
      shown = { node: element('p') };
      this.#segments.set(key, shown);
      $('#captions').append(shown.node);
    }
    shown.node.dataset.identity = speaker.identity;
    shown.node.textContent = t('said', { name: nameOf(speaker), text: text.length > LONGEST ? `…${text.slice(-LONGEST)}` : text });
    clearTimeout(shown.timer);
    shown.timer = setTimeout(() => this.#remove(key), SHOWN_FOR);
    for (const oldest of this.#segments.keys()) {
      if (this.#segments.size <= AT_ONCE) break;
      this.#remove(oldest);
    }
  }

  #ownerOf(track) {
    const { localParticipant, remoteParticipants } = this.#room;
    return [localParticipant, ...remoteParticipants.values()].find((participant) => participant.trackPublications.has(track));
  }

  #remove(key) {
    const { node, timer } = this.#segments.get(key);
    clearTimeout(timer);
    node.remove();
    this.#segments.delete(key);
  }
}
