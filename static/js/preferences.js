// A person's former choices. A browser may refuse storage (private windows, embedded
// pages); then the choices last until the page is closed.

const KEY = 'parlor';
const defaults = {
  name: '', language: '', audio: true, video: true, shortcuts: true, hideSelf: false, captions: true, sounds: true, noise: true, background: 'none',
  videoinput: '', audioinput: '', audiooutput: '',
};

function load() {
  try {
    return { ...defaults, ...JSON.parse(localStorage.getItem(KEY) ?? '{}') };
  } catch {
    return { ...defaults };
  }
}

export const preferences = load();

export function remember(changes) {
  Object.assign(preferences, changes);
  try {
    localStorage.setItem(KEY, JSON.stringify(preferences));
  } catch {
    // Storage is refused: see above.
  }
}
