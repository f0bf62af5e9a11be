// Data streams of other participants. What the client library has received of a stream
// waits in memory until it is read, so every stream is read to its end, also one that
// nobody wants.

// TooMuch: a stream is longer than it may be, or its sender has too much underway.
export class TooMuch extends Error {}

// keepApart makes a stream its sender's. The client library tells streams by their ids alone,
// so that anybody could add to another's stream that is under way, end it, or keep it out: in
// the library each id has its sender in it. idOf is the id that the sender gave.
export function keepApart(room) {
  const streams = room.incomingDataStreamManager;
  const take = streams.handleDataStreamPacket;
  streams.handleDataStreamPacket = function (packet, encryption) {
    const { value } = packet.value;
    // What comes before the room is joined comes here a second time.
    if (this.isConnected) value.streamId = JSON.stringify([packet.participantIdentity, value.streamId]);
    return take.call(this, packet, encryption);
  };
}

// ofServer tells whether data is the server's. A participant's data has an identity, also after
// it left; but that of a hidden one who encrypts it has none, and the server encrypts nothing.
export const ofServer = (sender, encryption) => !sender && !encryption;

export const idOf = ({ id }) => JSON.parse(id)[1];

// Shares bounds what all senders, and each of them, have underway at the same moment.
export class Shares {
  #mostOfOne;
  #mostOfAll;
  #taken = new Map(); // identity → amount
  #sum = 0;

  constructor(mostOfOne, mostOfAll = Infinity) {
    this.#mostOfOne = mostOfOne;
    this.#mostOfAll = mostOfAll;
  }

  // take tells whether the sender may have that much more, and counts it if so.
  take(identity, amount) {
    const taken = (this.#taken.get(identity) ?? 0) + amount;
    if (taken > this.#mostOfOne || this.#sum + amount > this.#mostOfAll) return false;
    this.#taken.set(identity, taken);
    this.#sum += amount;
    return true;
  }

  // give ends what take has counted.
  give(identity, amount) {
    const left = (this.#taken.get(identity) ?? 0) - amount;
    if (left > 0) this.#taken.set(identity, left);
    else this.#taken.delete(identity);
    this.#sum -= amount;
  }
}

// read calls take with each chunk of a stream, until its end. It rejects as soon as take
// throws, the stream breaks, or nothing comes for so many ms of silence. What comes after
// that is dropped.
export function read(reader, take, silence) {
  // The library's own comparison with the size in the header would end the reading of a
  // stream that goes on beyond it.
  reader.totalByteSize = undefined;
  return new Promise((resolve, reject) => {
    let timer;
    const end = (settle, value) => {
      clearTimeout(timer);
      take = null; // what it has gathered is not kept while the rest is dropped
      settle(value);
    };
    const wait = () => {
      clearTimeout(timer);
      if (silence) timer = setTimeout(() => end(reject, new Error('the stream is silent')), silence);
    };
    const readAll = async () => {
      for await (const chunk of reader) {
        if (!take) continue;
        wait();
        try {
          take(chunk);
        } catch (error) {
          end(reject, error);
        }
      }
    };
    wait();
    readAll().then(() => end(resolve), (error) => end(reject, error));
  });
}

// readText returns the text of a stream. show is called with what there is of it, each
// time that more has come. TooMuch: it has more than that many characters, or its sender
// has no share left.
export async function readText(reader, identity, shares, most, show = () => {}) {
  let text = '';
  try {
    await read(reader, (chunk) => {
      if (text.length + chunk.length > most || !shares.take(identity, chunk.length)) throw new TooMuch();
      text += chunk;
      show(text);
    });
    return text;
  } finally {
    shares.give(identity, text.length);
  }
}

// drop reads a stream and keeps nothing.
export function drop(reader) {
  read(reader, () => {}).catch(() => {});
}
