// Short messages: toasts that go away by themselves, and the banner that stays
// for as long as something is wrong.

import { $, $$, element, icon } from './dom.js';

const SHOWN_FOR = 6000; // ms
const AT_ONCE = 2;

// toast says something in passing. code names the message for tests. With an action it
// has a button of that label, which calls run.
export function toast(text, { bad = false, code = '', action } = {}) {
  const holder = $('#toasts');
  const node = element('div', { className: `toast${bad ? ' bad' : ''}`, 'data-code': code });
  if (bad) node.append(icon('warn'));
  node.append(element('span', { textContent: text }));
  if (action) {
    const button = element('button', { type: 'button', className: 'chip', textContent: action.label });
    button.addEventListener('click', () => {
      node.remove();
      action.run();
    });
    node.append(button);
  }
  const close = element('button', { type: 'button', className: 'plain', 'aria-label': 'Dismiss' }, icon('close'));
  close.addEventListener('click', () => node.remove());
  node.append(close);
  holder.append(node);
  while (holder.children.length > AT_ONCE) holder.firstElementChild.remove();
  setTimeout(() => node.remove(), bad || action ? 2 * SHOWN_FOR : SHOWN_FOR);
}

// dismiss takes away the toasts with that code.
export function dismiss(code) {
  for (const node of $$('.toast', $('#toasts'))) if (node.dataset.code === code) node.remove();
}

// Banner shows one line across the top of the call.
export class Banner {
  #timer;

  // show waits a moment when told to, so that a hiccup does not flash.
  show(text, { after = 0 } = {}) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      $('#banner-text').textContent = text;
      $('#banner').hidden = false;
    }, after);
  }

  hide() {
    clearTimeout(this.#timer);
    $('#banner').hidden = true;
    $('#banner-text').textContent = '';
  }

  get visible() {
    return !$('#banner').hidden;
  }
}
