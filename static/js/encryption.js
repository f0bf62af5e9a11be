// End-to-end encryption: a passphrase after the hash of the address, which no server ever
// gets, makes the key of all sound, pictures and messages of the call.

const { ExternalE2EEKeyProvider } = window.LivekitClient;

const WORKER = 'static/vendor/livekit-client-2.23.0.e2ee.worker.js';

export class Encryption {
  options; // for the Room of livekit-client; undefined without a passphrase
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

  // begin is called before the room is joined: nothing leaves in the clear.
  async begin(room) {
    if (!this.on) return;
    await this.#keys.setKey(this.#passphrase);
    await room.setE2EEEnabled(true);
  }

  close() {
    this.#worker?.terminate();
  }
}
