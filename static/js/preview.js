// The camera and microphone before a call. They are opened for the lobby's preview and
// then handed to the call, so that joining does not open them again.

import { treatOpened, treatPicture } from './background.js';
import { deviceProblem } from './messages.js';
import { captureOptions } from './devices.js';

const { createLocalAudioTrack, createLocalTracks, createLocalVideoTrack, VideoPreset } = window.LivekitClient;

// videoResolution is 16:9 of the given height at 30 frames a second.
export function videoResolution(height) {
  return new VideoPreset(Math.round((height * 16) / 9), height, 0, 30).resolution;
}

export class Preview {
  // camera and microphone are the open tracks, or null.
  camera = null;
  microphone = null;
  // problems holds, by kind, the reason why a device could not be opened.
  problems = { camera: null, microphone: null };
  #resolution;
  #changed;
  #queue = Promise.resolve(); // one change at a time, in the order of the clicks

  // changed is called whenever one of the above changes.
  constructor({ resolution, changed }) {
    this.#resolution = videoResolution(resolution);
    this.#changed = changed;
    document.addEventListener('background-lost', ({ detail: { track, problem } }) => {
      if (track === this.camera) this.#enqueue(async () => this.#lose(track, problem));
    });
  }

  // open opens the wanted devices, with one question to the person if possible.
  open({ video, audio }) {
    return this.#enqueue(async () => {
      if (video && audio && !this.camera && !this.microphone && await this.#openBoth()) return;
      // One of the two may be missing: open them separately to find out.
      if (video && !this.camera) await this.#openOne('camera');
      if (audio && !this.microphone) await this.#openOne('microphone');
    });
  }

  // toggle turns one on or off. Turning off releases the device.
  toggle(kind) {
    return this.#enqueue(async () => {
      if (this[kind]) this.#close(kind);
      else await this.#openOne(kind);
    });
  }

  // use changes to another device of the open kind.
  use(kind, deviceId) {
    return this.#enqueue(async () => {
      try {
        await this[kind]?.setDeviceId({ exact: deviceId });
        this.problems[kind] = null;
      } catch (error) {
        this.problems[kind] = deviceProblem(kind, error);
      }
    });
  }

  // treat applies another choice of background to the open camera.
  treat() {
    return this.#enqueue(async () => {
      try {
        await treatPicture(this.camera);
        if (this.camera) this.problems.camera = null;
      } catch (error) {
        if (error.bare) this.#lose(this.camera, error.problem);
        else this.problems.camera = error.problem;
      }
    });
  }

  // release returns the open tracks and gives them up. It waits for pending changes, each of
  // which ends: what loads a background has a limit of time.
  async release() {
    await this.#enqueue(async () => {});
    const tracks = [this.microphone, this.camera].filter(Boolean);
    this.camera = null;
    this.microphone = null;
    this.#changed();
    return tracks;
  }

  // adopt takes back tracks that release returned and that were not used.
  adopt(tracks) {
    return this.#enqueue(async () => {
      for (const track of tracks) this.#keep(track.kind === 'video' ? 'camera' : 'microphone', track);
    });
  }

  close() {
    return this.#enqueue(async () => {
      this.#close('camera');
      this.#close('microphone');
    });
  }

  #enqueue(task) {
    this.#queue = this.#queue.then(task).catch((error) => console.error(error)).then(() => this.#changed());
    return this.#queue;
  }

  async #openBoth() {
    let tracks;
    try {
      tracks = await createLocalTracks({
        video: { ...captureOptions('videoinput'), resolution: this.#resolution },
        audio: captureOptions('audioinput'),
      });
    } catch {
      return false;
    }
    const [camera, microphone] = ['video', 'audio'].map((kind) => tracks.find((track) => track.kind === kind));
    this.#keep('microphone', microphone);
    await this.#show(camera);
    return true;
  }

  async #openOne(kind) {
    try {
      if (!navigator.mediaDevices) throw new DOMException('', 'SecurityError');
      if (kind === 'camera') await this.#show(await createLocalVideoTrack({ ...captureOptions('videoinput'), resolution: this.#resolution }));
      else this.#keep(kind, await createLocalAudioTrack(captureOptions('audioinput')));
    } catch (error) {
      this.problems[kind] = deviceProblem(kind, error);
    }
  }

  // show keeps a camera that was opened, once its picture is treated as the person wants.
  async #show(camera) {
    try {
      await treatOpened(camera);
      this.#keep('camera', camera);
    } catch (error) {
      this.problems.camera = deviceProblem('camera', error);
    }
  }

  // lose closes a camera whose background can no longer be covered.
  #lose(track, problem) {
    if (!track || this.camera !== track) return;
    this.#close('camera');
    this.problems.camera = problem;
  }

  #keep(kind, track) {
    this[kind] = track;
    this.problems[kind] = null;
    // The device was unplugged, or the browser took it away.
    track.mediaStreamTrack.addEventListener('ended', () => {
      if (this[kind] !== track || track.mediaStreamTrack.readyState !== 'ended') return;
      this.#close(kind);
      this.problems[kind] = deviceProblem(kind, new DOMException('', 'NotFoundError'));
      this.#changed();
    });
  }

  #close(kind) {
    this[kind]?.stop();
    this[kind]?.detach();
    this[kind] = null;
    this.problems[kind] = null;
  }
}
