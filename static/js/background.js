// The background of the person's own picture: blurred, or replaced by a picture. The library
// that finds the person in the picture is loaded when it is first used, and works in a worker.

import { $$, element } from './dom.js';
import { problemOf } from './messages.js';
import { toast } from './notices.js';
import { preferences, remember } from './preferences.js';
import { t } from './texts.js';

const LIBRARY = new URL('../background-3.2.0/', import.meta.url).href;
const KEY = 'parlor.background'; // of the picture in the browser's store
const SIZE = { width: 1280, height: 720 }; // of the picture, at most
const RADIUS = { slight: 5, blur: 15 }; // px
const RATE = 24; // pictures per second, where the browser hands out no frames
const LOADED_WITHIN = 15_000; // ms; a worker whose script does not load never answers
const TREATED_WITHIN = 10_000; // ms, for one frame
const GIVEN_UP_AFTER = 30; // frames in a row that could not be treated
const LATE = 10; // so many failures is a frame that was not treated in time

let loading;
let picture = null; // data URL, if the browser refuses to store it
let able; // whether the browser can treat pictures, once that is known
let queue = Promise.resolve(); // one change at a time, in the order of the choices

// effects holds the library's processors by their kind for as long as the page lives: each has
// a worker and a WebGL context, which it does not give back.
const effects = new Map();

// BackgroundError says why the choice of a background could not be applied. bare: a camera that
// had a background has none any more.
class BackgroundError extends Error {
  constructor(reason, { code = 'background-failed', key = 'background.failed', bare = false } = {}) {
    super(reason);
    this.bare = bare;
    this.problem = problemOf(code, key, { reason });
  }
}

// bareProblem tells that the camera is off, because it would show what is behind the person.
const bareProblem = (error) => problemOf('background-lost', 'background.lost', { reason: error.message });

// within rejects if the promise is not settled in that many ms.
function within(ms, promise) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(Object.assign(new Error(t('background.slow')), { late: true })), ms);
  });
  return Promise.race([promise, late]).finally(() => clearTimeout(timer));
}

// library loads the library once.
function library() {
  loading ??= new Promise((resolve, reject) => {
    const failed = () => {
      loading = undefined;
      reject(new Error(t('background.unsupported')));
    };
    document.head.append(element('script', { src: `${LIBRARY}twilio-video-processors.min.js`, onload: () => resolve(window.Twilio.VideoProcessors), onerror: failed }));
  });
  return loading;
}

function possible() {
  able ??= typeof OffscreenCanvas !== 'undefined' && typeof Worker !== 'undefined' && Boolean(document.createElement('canvas').getContext('webgl2'));
  return able;
}

function keptPicture() {
  try {
    return localStorage.getItem(KEY) ?? picture;
  } catch {
    return picture;
  }
}

function keepPicture(source) {
  picture = source;
  localStorage.setItem(KEY, source);
}

const effectOf = (kind) => (kind === 'picture' ? 'picture' : 'blur');

// loadEffect returns the page's one processor of that kind, set as wanted.
async function loadEffect(kind, source) {
  if (!possible()) throw new Error(t('background.unsupported'));
  const { GaussianBlurBackgroundProcessor, VirtualBackgroundProcessor } = await library();
  const setting = kind === 'picture' ? { backgroundImage: await loadImage(source) } : { blurFilterRadius: RADIUS[kind] };
  const present = effects.get(effectOf(kind));
  if (present) return Object.assign(present, setting);
  const Effect = kind === 'picture' ? VirtualBackgroundProcessor : GaussianBlurBackgroundProcessor;
  const made = new Effect({ assetsPath: LIBRARY, ...(kind === 'picture' && { fitType: 'Cover' }), ...setting });
  await made.loadModel();
  effects.set(effectOf(kind), made);
  return made;
}

function blank() {
  const canvas = document.createElement('canvas');
  canvas.getContext('2d');
  return canvas.captureStream(0).getVideoTracks()[0];
}

// Background is a processor of livekit-client for the person's camera. A frame that cannot be
// treated is dropped: what is behind the person is never sent by mistake. If many in a row
// cannot be treated, the event background-lost on the document tells it: detail = { track, problem }.
class Background {
  name = 'parlor-background';
  processedTrack = blank(); // until there is a picture; without one, the untreated is sent
  kind;
  source; // of the picture
  #effect;
  #camera; // LocalVideoTrack
  #failures = 0; // in a row
  #over = false;
  #end = () => {};

  constructor(kind, source) {
    this.kind = kind;
    this.source = source;
  }

  async init({ track, localTrack }) {
    this.#camera = localTrack;
    await this.become(this);
    this.#run(track);
  }

  async restart({ track }) {
    this.#end();
    try {
      await this.become(this);
      if (!this.#over) this.#run(track);
    } catch (error) {
      this.#lost(error);
    }
  }

  async destroy() {
    this.#over = true;
    this.#end();
  }

  // become changes to another choice that needs the same effect.
  async become({ kind, source }) {
    this.#effect = await within(LOADED_WITHIN, loadEffect(kind, source));
    this.kind = kind;
    this.source = source;
    this.#failures = 0;
  }

  #run(track) {
    if (track.readyState === 'ended') return; // it is restarted when the camera is turned on
    const canvas = document.createElement('canvas');
    canvas.getContext('2d');
    let drawn = false; // the library draws nothing for the first frame, or what was before
    const draw = async (input, width, height) => {
      const before = drawn ? null : document.createElement('canvas');
      const output = before ?? canvas;
      if (output.width !== width) output.width = width;
      if (output.height !== height) output.height = height;
      try {
        await within(TREATED_WITHIN, this.#effect.processFrame(input, output));
      } catch (error) {
        this.#failed(error);
        return false;
      }
      this.#failures = 0;
      drawn = true;
      return !before;
    };
    if (window.MediaStreamTrackProcessor && window.MediaStreamTrackGenerator) this.#runFrames(track, canvas, draw);
    else this.#runVideo(track, canvas, draw);
  }

  #runFrames(track, canvas, draw) {
    const ended = new AbortController();
    const generator = new window.MediaStreamTrackGenerator({ kind: 'video' });
    const treat = new TransformStream({
      async transform(frame, output) {
        const { timestamp } = frame;
        try {
          if (await draw(frame, frame.displayWidth, frame.displayHeight)) output.enqueue(new VideoFrame(canvas, { timestamp }));
        } finally {
          frame.close();
        }
      },
    });
    new window.MediaStreamTrackProcessor({ track }).readable
      .pipeThrough(treat, { signal: ended.signal })
      .pipeTo(generator.writable, { signal: ended.signal }).catch(() => {}); // it was ended
    this.#end = () => ended.abort();
    this.processedTrack = generator;
  }

  #runVideo(track, canvas, draw) {
    const video = element('video', { muted: true, playsInline: true, srcObject: new MediaStream([track]) });
    let busy = false;
    const timer = setInterval(async () => {
      if (busy || video.readyState < 2) return;
      busy = true;
      await draw(video, video.videoWidth, video.videoHeight);
      busy = false;
    }, 1000 / RATE);
    video.play().catch(() => {}); // a muted video may play
    const [treated] = canvas.captureStream(RATE).getVideoTracks();
    this.processedTrack = treated;
    this.#end = () => {
      clearInterval(timer);
      video.srcObject = null;
      treated.stop();
    };
  }

  #failed(error) {
    if (this.#over) return;
    this.#failures += error.late ? LATE : 1;
    if (this.#failures < GIVEN_UP_AFTER) return;
    this.#failures = 0;
    if (effects.get(effectOf(this.kind)) === this.#effect) effects.delete(effectOf(this.kind));
    this.#lost(error);
  }

  #lost(error) {
    document.dispatchEvent(new CustomEvent('background-lost', { detail: { track: this.#camera, problem: bareProblem(error) } }));
  }
}

// wantedBackground is what the person's camera passes through; undefined = nothing.
function wantedBackground() {
  const kind = preferences.background;
  if (kind === 'picture') return new Background(kind, keptPicture());
  return kind in RADIUS ? new Background(kind, null) : undefined;
}

// treatPicture applies the person's choice to a camera that is open, after the changes before
// it. If that fails, it goes back to the choice before, and throws a BackgroundError.
export function treatPicture(track) {
  const done = queue.then(() => apply(track));
  queue = done.catch(() => {}); // the error is the caller's
  return done;
}

async function apply(track) {
  if (!track) return;
  const wanted = wantedBackground();
  const now = track.getProcessor();
  if (wanted?.kind === now?.kind && wanted?.source === now?.source) return;
  try {
    if (!wanted) await track.stopProcessor();
    else if (now && effectOf(now.kind) === effectOf(wanted.kind)) await now.become(wanted);
    else await track.setProcessor(wanted);
  } catch (error) {
    const kept = track.getProcessor();
    remember({ background: kept?.kind ?? 'none' });
    try {
      if (kept?.source) keepPicture(kept.source);
    } catch {
      // The store refuses it: it lasts until the page is closed.
    }
    document.dispatchEvent(new Event('background'));
    if (now && !kept) throw new BackgroundError(error.message, { code: 'background-lost', key: 'background.lost', bare: true });
    throw new BackgroundError(error.message);
  }
}

// treatOpened treats a camera that was opened just now, before anybody sees its picture. If that
// fails, it closes the camera, which is opened again only if the person wants it.
export async function treatOpened(track) {
  try {
    await treatPicture(track);
  } catch (error) {
    track.stop();
    remember({ video: false });
    throw new BackgroundError(error.message, { key: 'background.unopened' });
  }
}

async function loadImage(source) {
  const image = element('img', { src: source });
  await image.decode();
  return image;
}

// keep scales a picture from a file down, and stores it.
async function keep(file) {
  const url = URL.createObjectURL(file);
  try {
    const image = await loadImage(url);
    const scale = Math.min(1, Math.max(SIZE.width / image.naturalWidth, SIZE.height / image.naturalHeight));
    const canvas = element('canvas', { width: Math.max(1, Math.round(image.naturalWidth * scale)), height: Math.max(1, Math.round(image.naturalHeight * scale)) });
    canvas.getContext('2d').drawImage(image, 0, 0, canvas.width, canvas.height);
    keepPicture(canvas.toDataURL('image/jpeg', 0.8));
  } catch (error) {
    if (!picture) throw error; // else only the store refuses it
  } finally {
    URL.revokeObjectURL(url);
  }
}

// offerBackgrounds fills every select[data-background]. changed() is called for a person's choice.
export function offerBackgrounds(changed) {
  const selects = $$('select[data-background]');
  const fill = () => {
    const kinds = ['none', 'slight', 'blur', ...(keptPicture() ? ['picture'] : []), 'choose'];
    for (const select of selects) {
      select.closest('label').hidden = !possible();
      select.replaceChildren(...kinds.map((kind) => element('option', { value: kind, textContent: t(`background.${kind}`) })));
      select.value = preferences.background;
    }
  };
  const choose = (background) => {
    remember({ background });
    fill();
    changed();
  };
  const input = element('input', { type: 'file', accept: 'image/*' });
  input.addEventListener('change', async () => {
    try {
      await keep(input.files[0]);
      choose('picture');
    } catch (error) {
      toast(t('background.failed', { reason: error.message }), { bad: true, code: 'background-failed' });
    }
    input.value = '';
  });
  for (const select of selects) {
    select.addEventListener('change', () => {
      if (select.value !== 'choose') {
        choose(select.value);
        return;
      }
      fill(); // nothing is chosen until there is a picture
      input.click();
    });
  }
  for (const type of ['language', 'background']) document.addEventListener(type, fill);
  fill();
}
