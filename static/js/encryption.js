// End-to-end encryption: the key for all audio, video and messages of the call is made of
// a passphrase after the hash of the address. The browser sends the hash to no server.

const { ExternalE2EEKeyProvider } = window.LivekitClient;

const WORKER = 'static/vendor/livekit-client-2.23.0.e2ee.worker.js';

export class Encryption {
  options; // options for the Room of livekit-client; undefined without a passphrase
  #keys;
  #worker;
  #passphrase;

  constructor(passphrase) {
    this.#passphrase = passphrase;
    if (!passphrase) return;
    this.#keys = new ExternalE2EEKeyProvider();
    this.#worker = new Worker(WORKER);
    this.options = { keyProvider: this.#keys, worker: this.#worker };
  }

  get on() {
    return Boolean(this.#passphrase);
  }

  // begin must be called before the room is joined, so that all data is encrypted.
  async begin(room) {
    if (!this.on) return;
    await this.#keys.setKey(this.#passphrase);
    await room.setE2EEEnabled(true);
  }

  close() {
    this.#worker?.terminate();
  }
}
