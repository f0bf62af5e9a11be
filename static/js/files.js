// Files in the chat: byte streams on the topic of the chat, as other LiveKit apps send
// them. A file that comes is kept in memory and only saved by a click. It is never opened.

import { element, icon } from './dom.js';
import { Shares, drop, read } from './streams.js';
import { t } from './texts.js';

const LARGEST = 25 * 1024 * 1024; // bytes of one file
const MOST_KEPT = 100 * 1024 * 1024; // bytes of all files that came
const PART = 256 * 1024; // bytes read and sent at once, and of a block
const MOST_FILES_KEPT = 200; // an empty one has no bytes to be counted
const MOST_ARRIVING = 8; // files at the same moment
const MOST_OF_ONE = 2; // of them from one sender
const SILENCE = 30_000; // ms without a part, after which a file is given up

export class FileError extends Error {}

export class Files {
  #room;
  #kept = []; // {blob, lose()}, the oldest first
  #arriving = new Shares(MOST_OF_ONE, MOST_ARRIVING);

  constructor(room) {
    this.#room = room;
  }

  // send sends a file to all, or to those identities. FileError: it is too large.
  async send(file, { topic, destinationIdentities, attributes }) {
    if (file.size > LARGEST) throw tooLarge();
    const stream = await this.#room.localParticipant.streamBytes({
      name: file.name, mimeType: 'application/octet-stream', totalSize: file.size, topic, destinationIdentities, attributes,
    });
    for (let at = 0; at < file.size; at += PART) {
      await stream.write(new Uint8Array(await file.slice(at, at + PART).arrayBuffer()));
    }
    await stream.close();
    return stream.info;
  }

  // line returns what the chat shows of a file that comes: node.
  line(name) {
    const plain = safeName(name);
    const note = element('span', { className: 'muted small' });
    const node = element('div', { className: 'chat-file' }, icon('file'), element('span', { className: 'file-name', textContent: plain }), note);
    return { name: plain, note, node };
  }

  // receive takes in a file from that sender. Its line gets a button when all of it is
  // there.
  receive(reader, identity, { name, note, node }) {
    note.textContent = t('file.coming');
    this.#read(reader, identity, note).then((blob) => {
      note.textContent = sizeText(blob.size);
      node.append(this.#button(name, blob, node));
    }, (error) => {
      note.textContent = error instanceof FileError ? error.message : t('file.broken');
    });
  }

  close() {
    this.#kept = [];
  }

  async #read(reader, identity, note) {
    const { size } = reader.info; // the sender's word
    if (size > LARGEST) {
      drop(reader);
      throw tooLarge();
    }
    if (!this.#arriving.take(identity, 1)) {
      drop(reader);
      throw new FileError(t('file.too-many'));
    }
    const blocks = new Blocks();
    try {
      await read(reader, (part) => {
        if (blocks.size + part.byteLength > LARGEST) throw tooLarge();
        blocks.add(part);
        note.textContent = t('file.coming-size', { size: sizeText(blocks.size) });
      }, SILENCE);
    } finally {
      this.#arriving.give(identity, 1);
    }
    if (size && size !== blocks.size) throw new Error('the file has another size than its sender said');
    return blocks.blob();
  }

  #button(name, blob, node) {
    const save = element('button', { type: 'button', className: 'chip', 'aria-label': t('file.save-name', { name }), textContent: t('file.save') });
    save.addEventListener('click', () => {
      const url = URL.createObjectURL(blob);
      element('a', { href: url, download: name }).click();
      setTimeout(() => URL.revokeObjectURL(url), 60_000);
    });
    this.#kept.push({ blob, lose: () => {
      save.remove();
      node.append(element('span', { className: 'muted small', textContent: t('file.gone') }));
    } });
    let sum = this.#kept.reduce((all, { blob: { size } }) => all + size, 0);
    while (sum > MOST_KEPT || this.#kept.length > MOST_FILES_KEPT) {
      const oldest = this.#kept.shift();
      sum -= oldest.blob.size;
      oldest.lose();
    }
    return save;
  }
}

// Blocks gathers the parts of a file. It copies them into blocks of one size: a part is a
// view of its whole packet, which may be much larger than the part.
class Blocks {
  size = 0; // bytes
  #full = [];
  #block = null; // the one that is being filled
  #filled = 0; // bytes of it

  add(part) {
    for (let at = 0; at < part.byteLength;) {
      this.#block ??= new Uint8Array(PART);
      const fits = part.subarray(at, at + PART - this.#filled);
      this.#block.set(fits, this.#filled);
      this.#filled += fits.byteLength;
      at += fits.byteLength;
      if (this.#filled === PART) {
        this.#full.push(this.#block);
        this.#block = null;
        this.#filled = 0;
      }
    }
    this.size += part.byteLength;
  }

  // blob is the file. Its type is not the sender's, so that no browser shows it as a page.
  blob() {
    const rest = this.#block ? [this.#block.subarray(0, this.#filled)] : [];
    return new Blob([...this.#full, ...rest], { type: 'application/octet-stream' });
  }
}

function tooLarge() {
  return new FileError(t('file.too-large', { limit: sizeText(LARGEST) }));
}

// safeName has no folders and no invisible characters, which can make a name look as if
// it ended otherwise.
function safeName(name) {
  const plain = String(name).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, '').replace(/[/\\:*?"<>|]/g, '_').replace(/^[. ]+/, '').slice(-120);
  return plain || t('file');
}

// sizeText is a number of bytes as people read it.
export function sizeText(bytes) {
  const [value, unit] = bytes >= 1e6 ? [bytes / 1e6, 'megabyte'] : bytes >= 1e3 ? [bytes / 1e3, 'kilobyte'] : [bytes, 'byte'];
  return value.toLocaleString(document.documentElement.lang, { style: 'unit', unit, maximumFractionDigits: value < 10 ? 1 : 0 });
}
