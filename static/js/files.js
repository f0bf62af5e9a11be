// Files in the chat: byte streams on the topic of the chat, as other LiveKit apps send
// them. A file that comes is kept in memory and only saved by a click. It is never opened.

import { element, icon } from './dom.js';
import { t } from './texts.js';

const LARGEST = 25 * 1024 * 1024; // bytes of one file
const MOST_KEPT = 100 * 1024 * 1024; // bytes of all files that came
const PART = 256 * 1024; // bytes read and sent at once
const MOST_ARRIVING = 4; // files at the same moment

export class FileError extends Error {}

export class Files {
  #room;
  #kept = []; // {blob, lose()}, the oldest first
  #arriving = 0;

  constructor(room) {
    this.#room = room;
  }

  // send sends a file to all, or to those identities. FileError: it is too large.
  async send(file, { topic, destinationIdentities, attributes }) {
    if (file.size > LARGEST) throw new FileError(t('file.too-large', { limit: sizeText(LARGEST) }));
    const stream = await this.#room.localParticipant.streamBytes({
      name: file.name, mimeType: 'application/octet-stream', totalSize: file.size, topic, destinationIdentities, attributes,
    });
    for (let at = 0; at < file.size; at += PART) {
      await stream.write(new Uint8Array(await file.slice(at, at + PART).arrayBuffer()));
    }
    await stream.close();
    return stream.info;
  }

  // receive returns an element about the file that comes, which gets a button when all of
  // it is there.
  receive(reader) {
    const name = safeName(reader.info.name);
    const note = element('span', { className: 'muted small' });
    const node = element('div', { className: 'chat-file' }, icon('file'), element('span', { className: 'file-name', textContent: name }), note);
    this.#read(reader, note).then((blob) => {
      note.textContent = sizeText(blob.size);
      node.append(this.#button(name, blob, node));
    }, (error) => {
      note.textContent = error instanceof FileError ? error.message : t('file.broken');
    });
    note.textContent = t('file.coming');
    return node;
  }

  close() {
    this.#kept = [];
  }

  async #read(reader, note) {
    // Only what comes is counted: the size in the header is the sender's word. The rest of a
    // file that is refused is read and dropped, for otherwise it would be kept unread.
    let refused = reader.info.size > LARGEST || this.#arriving >= MOST_ARRIVING;
    let parts = [];
    let size = 0;
    this.#arriving++;
    try {
      for await (const part of reader) {
        size += part.byteLength;
        refused ||= size > LARGEST;
        if (refused) {
          parts = [];
          note.textContent = t('file.too-large', { limit: sizeText(LARGEST) });
          continue;
        }
        parts.push(part);
        note.textContent = t('file.coming-size', { size: sizeText(size) });
      }
    } catch (error) {
      if (!refused) throw error;
    } finally {
      this.#arriving--;
    }
    if (refused) throw new FileError(t('file.too-large', { limit: sizeText(LARGEST) }));
    // The type is not the sender's, so that no browser shows the file as a page.
    return new Blob(parts, { type: 'application/octet-stream' });
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
    while (sum > MOST_KEPT) {
      const oldest = this.#kept.shift();
      sum -= oldest.blob.size;
      oldest.lose();
    }
    return save;
  }
}

// safeName has no folders and no invisible characters, which can make a name look as if
// it ended otherwise.
export function safeName(name) {
  const plain = String(name).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, '').replace(/[/\\:*?"<>|]/g, '_').replace(/^[. ]+/, '').slice(-120);
  return plain || t('file');
}

// sizeText is a number of bytes as people read it.
export function sizeText(bytes) {
  const [value, unit] = bytes >= 1e6 ? [bytes / 1e6, 'megabyte'] : bytes >= 1e3 ? [bytes / 1e3, 'kilobyte'] : [bytes, 'byte'];
  return value.toLocaleString(document.documentElement.lang, { style: 'unit', unit, maximumFractionDigits: value < 10 ? 1 : 0 });
}
