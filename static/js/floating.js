// The small window above all others (Document Picture-in-Picture): the stage with the buttons
// for microphone, camera and leaving. Where the browser has none, a tile can float its video.

import { $, $$, element, icon } from './dom.js';
import { listen } from './keys.js';
import { t } from './texts.js';

const SIZE = { width: 400, height: 320 };
const BUTTONS = ['mic', 'cam', 'leave'];

export const canFloat = () => 'documentPictureInPicture' in window;

export class Floating {
  #window = null;
  #opening = false;
  #watching;
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
    $('#float').addEventListener('click', () => this.open(), { signal });
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
    const { document: small } = opened;
    small.documentElement.lang = document.documentElement.lang;
    small.documentElement.dir = document.documentElement.dir;
    small.title = document.title;
    for (const sheet of $$('link[rel="stylesheet"]')) small.head.append(element('link', { rel: 'stylesheet', href: sheet.href }));
    small.body.className = 'floating';
    const buttons = BUTTONS.map((id) => this.#twin($(`#${id}`)));
    const nav = element('nav', { className: 'controls', 'aria-label': t('call.controls') }, ...buttons);
    small.body.append($('.sprite').cloneNode(true), $('#stage'), nav);
    opened.addEventListener('pagehide', () => this.#back(), { once: true });
    listen(this.#keys, this.#listening.signal, opened);
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
    this.#watching ??= [];
    const observer = new MutationObserver(follow);
    observer.observe(button, { attributes: true, childList: true, subtree: true, characterData: true });
    this.#watching.push(observer);
    follow();
    return twin;
  }

  // back takes the stage back into the page.
  #back() {
    for (const observer of this.#watching ?? []) observer.disconnect();
    this.#watching = undefined;
    const stage = this.#window && $('#stage', this.#window.document);
    this.#window = null;
    $('#floating').hidden = true;
    if (!stage) return;
    $('#floating').before(stage);
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
