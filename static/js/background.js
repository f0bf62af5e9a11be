// The background of the person's own picture: blurred, or replaced by a picture. The library
// that finds the person in the picture is loaded when it is first used, and works in a worker.

import { $$, element } from './dom.js';
import { toast } from './notices.js';
import { preferences, remember } from './preferences.js';
import { t } from './texts.js';

const LIBRARY = new URL('../background-3.2.0/', import.meta.url).href;
const KEY = 'parlor.background'; // of the picture in the browser's store
const SIZE = { width: 1280, height: 720 }; // of the picture, at most
const RADIUS = { slight: 5, blur: 15 }; // px
const RATE = 24; // pictures per second, where the browser hands out no frames

let loading;
let picture = null; // data URL, if the browser refuses to store it

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

const possible = () => typeof OffscreenCanvas !== 'undefined' && typeof Worker !== 'undefined' && Boolean(document.createElement('canvas').getContext('webgl2'));

function keptPicture() {
  try {
    return localStorage.getItem(KEY) ?? picture;
  } catch {
    return picture;
  }
}

// Background is a processor of livekit-client for the person's camera. A frame that cannot be
// treated is dropped: what is behind the person is never sent by mistake.
class Background {
  name = 'parlor-background';
  processedTrack;
  kind;
  source; // of the picture
  #processor;
  #end = () => {};

  constructor(kind, source) {
    this.kind = kind;
    this.source = source;
  }

  async init({ track }) {
    this.#processor ??= await this.#make();
    this.#run(track);
  }

  async restart({ track }) {
    this.#end();
    this.#run(track);
  }

  async destroy() {
    this.#end();
  }

  async #make() {
    const { GaussianBlurBackgroundProcessor, VirtualBackgroundProcessor } = await library();
    const options = { assetsPath: LIBRARY };
    const made = this.kind === 'picture'
      ? new VirtualBackgroundProcessor({ ...options, backgroundImage: await loadImage(this.source), fitType: 'Cover' })
      : new GaussianBlurBackgroundProcessor({ ...options, blurFilterRadius: RADIUS[this.kind] });
    await made.loadModel();
    return made;
  }

  #run(track) {
    const canvas = document.createElement('canvas');
    canvas.getContext('2d');
    const draw = async (input, width, height) => {
      if (canvas.width !== width) canvas.width = width;
      if (canvas.height !== height) canvas.height = height;
      await this.#processor.processFrame(input, canvas);
    };
    if (window.MediaStreamTrackProcessor && window.MediaStreamTrackGenerator) this.#runFrames(track, canvas, draw);
    else this.#runVideo(track, canvas, draw);
  }

  #runFrames(track, canvas, draw) {
    const ended = new AbortController();
    const generator = new window.MediaStreamTrackGenerator({ kind: 'video' });
    let drawn = false; // the library draws nothing for the first frame
    const treat = new TransformStream({
      async transform(frame, output) {
        const { timestamp } = frame;
        try {
          await draw(frame, frame.displayWidth, frame.displayHeight);
          if (drawn) output.enqueue(new VideoFrame(canvas, { timestamp }));
          drawn = true;
        } catch (error) {
          console.warn('background:', error);
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
      await draw(video, video.videoWidth, video.videoHeight).catch((error) => console.warn('background:', error));
      busy = false;
    }, 1000 / RATE);
    video.play().catch(() => {}); // a muted video may play
    [this.processedTrack] = canvas.captureStream(RATE).getVideoTracks();
    this.#end = () => {
      clearInterval(timer);
      video.srcObject = null;
      this.processedTrack.stop();
    };
  }
}

// backgroundProcessor is what the person's camera passes through; undefined = nothing.
export function backgroundProcessor() {
  const kind = preferences.background;
  const source = kind === 'picture' ? keptPicture() : null;
  if (!(kind in RADIUS) && !source || !possible()) return undefined;
  return new Background(kind, source);
}

// treatPicture applies the person's choice to a camera that is open. If that fails, the choice
// is taken back, and the person is told.
export async function treatPicture(track) {
  if (!track) return;
  const wanted = backgroundProcessor();
  const now = track.getProcessor();
  if (wanted?.kind === now?.kind && wanted?.source === now?.source) return;
  try {
    if (wanted) await track.setProcessor(wanted);
    else await track.stopProcessor();
  } catch (error) {
    remember({ background: 'none' });
    document.dispatchEvent(new Event('background'));
    await track.stopProcessor().catch(() => {});
    toast(t('background.failed', { reason: error.message }), { bad: true, code: 'background-failed' });
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
    picture = canvas.toDataURL('image/jpeg', 0.8);
    localStorage.setItem(KEY, picture);
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
