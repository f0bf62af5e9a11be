// The small window above all others (Document Picture-in-Picture): the stage with the buttons
// for microphone, camera and leaving, and what the person must know: that the call is recorded,
// that the connection is lost, that the others are not heard. Where the browser has no such
// window, a tile can float its video.

import { $, $$, element, icon } from './dom.js';
import { listen } from './keys.js';
import { t } from './texts.js';

const SIZE = { width: 400, height: 320 };
const BUTTONS = ['mic', 'cam', 'leave'];
const NOTES = ['banner', 'recording', 'hear'];

export const canFloat = () => 'documentPictureInPicture' in window;

export class Floating {
  #window = null;
  #opening = false;
  #opened = new AbortController(); // ends what belongs to the present window
  #keys;
  #moved;
  #listening = new AbortController();

  // keys: what the keys do in the small window, too. moved() is called when the stage has
  // gone to the other window.
  constructor({ keys, moved }) {
    this.#keys = keys;
    this.#moved = moved;
    const { signal } = this.#listening;
    $('#float').hidden = !canFloat();
    $('#float').addEventListener('click', () => (this.#window ? this.#window.close() : this.open()), { signal });
    $('#unfloat').addEventListener('click', () => this.#window?.close(), { signal });
    this.#openByItself(() => this.open());
  }

  close() {
    this.#openByItself(null);
    this.#listening.abort();
    this.#window?.close();
    this.#back();
  }

  async open() {
    if (!canFloat() || this.#window || this.#opening) return;
    this.#opening = true;
    try {
      const opened = await window.documentPictureInPicture.requestWindow(SIZE);
      if (this.#listening.signal.aborted) opened.close();
      else this.#fill(opened);
    } catch {
      // Only a click may open it, and the browser may refuse.
    } finally {
      this.#opening = false;
    }
  }

  #fill(opened) {
    this.#window = opened;
    this.#opened = new AbortController();
    const { document: small } = opened;
    small.documentElement.lang = document.documentElement.lang;
    small.documentElement.dir = document.documentElement.dir;
    small.title = document.title;
    for (const sheet of $$('link[rel="stylesheet"]')) small.head.append(element('link', { rel: 'stylesheet', href: sheet.href }));
    small.body.className = 'floating';
    const buttons = BUTTONS.map((id) => this.#twin($(`#${id}`)));
    const nav = element('nav', { className: 'controls', 'aria-label': t('call.controls') }, ...buttons);
    const notes = NOTES.map((id) => this.#note($(`#${id}`)));
    small.body.append($('.sprite').cloneNode(true), ...notes, $('#stage'), nav);
    opened.addEventListener('pagehide', () => this.#back(), { once: true });
    listen(this.#keys, this.#opened.signal, opened);
    $('#float').setAttribute('aria-pressed', 'true');
    $('#floating').hidden = false;
    this.#resume();
  }

  // twin is a button that looks like one of the page, and presses it.
  #twin(button) {
    const twin = element('button', { type: 'button', 'data-for': button.id }, icon('mic'));
    const follow = () => {
      for (const name of ['class', 'title', 'disabled', 'aria-pressed', 'aria-busy']) {
        if (button.hasAttribute(name)) twin.setAttribute(name, button.getAttribute(name));
        else twin.removeAttribute(name);
      }
      twin.setAttribute('aria-label', button.getAttribute('aria-label') ?? button.textContent.trim());
      twin.replaceChildren($('.icon', button).cloneNode(true));
    };
    twin.addEventListener('click', () => button.click());
    this.#follow(button, follow);
    return twin;
  }

  // note is a copy of what the page shows now and then. If it is a button, it presses it.
  #note(original) {
    const copy = element(original.localName, { 'data-for': original.id });
    const follow = () => {
      copy.className = original.className;
      copy.hidden = original.hidden;
      copy.replaceChildren(...[...original.childNodes].map((child) => child.cloneNode(true)));
    };
    if (original.hasAttribute('role')) copy.setAttribute('role', original.getAttribute('role'));
    copy.addEventListener('click', () => original.click());
    this.#follow(original, follow);
    return copy;
  }

  // follow calls changed now, and whenever the node changes while the window is open.
  #follow(node, changed) {
    const observer = new MutationObserver(changed);
    observer.observe(node, { attributes: true, childList: true, subtree: true, characterData: true });
    this.#opened.signal.addEventListener('abort', () => observer.disconnect(), { once: true });
    changed();
  }

  // back takes the stage back into the page.
  #back() {
    this.#opened.abort();
    const stage = this.#window && $('#stage', this.#window.document);
    this.#window = null;
    // The focus is not taken from what the person does in the page.
    const idle = document.activeElement === document.body || $('#floating').contains(document.activeElement);
    $('#float').setAttribute('aria-pressed', 'false');
    $('#floating').hidden = true;
    if (!stage) return;
    $('#floating').before(stage);
    if (idle && !this.#listening.signal.aborted) $('#float').focus();
    this.#resume();
  }

  // resume goes on with the videos, which stop when they are moved.
  #resume() {
    this.#moved();
    const stage = $('#stage') ?? $('#stage', this.#window.document);
    for (const video of $$('video', stage)) if (video.srcObject) video.play().catch(() => {});
  }

  // openByItself lets the browser ask for the window when the person leaves the tab.
  #openByItself(action) {
    try {
      navigator.mediaSession?.setActionHandler('enterpictureinpicture', action);
    } catch {
      // This browser does not ask.
    }
  }
}
