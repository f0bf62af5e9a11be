// Short messages: toasts, which disappear by themselves, and the banner, which stays
// while a problem lasts.

import { $, $$, element, icon } from './dom.js';
import { say, t, unsaid } from './texts.js';

const SHOWN_FOR = 6000; // ms
const AT_ONCE = 2;

// toast shows a short message. code names the message for tests. With an action the toast
// has a button with the action's label, which calls run.
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
  const close = element('button', { type: 'button', className: 'plain', 'aria-label': t('dismiss') }, icon('close'));
  close.addEventListener('click', () => node.remove());
  node.append(close);
  holder.append(node);
  while (holder.children.length > AT_ONCE) holder.firstElementChild.remove();
  setTimeout(() => node.remove(), bad || action ? 2 * SHOWN_FOR : SHOWN_FOR);
}

// dismiss removes the toasts with that code.
export function dismiss(code) {
  for (const node of $$('.toast', $('#toasts'))) if (node.dataset.code === code) node.remove();
}

// ask opens a window that asks for a text, and returns it trimmed; '' = cancelled.
export function ask(label, value) {
  const dialog = $('#ask');
  $('#ask-label').textContent = label;
  $('#ask-text').value = value;
  dialog.returnValue = '';
  dialog.showModal();
  $('#ask-text').select();
  $('[data-close="ask"]').onclick = () => dialog.close('');
  return new Promise((resolve) => {
    dialog.addEventListener('close', () => resolve(dialog.returnValue === 'ok' ? $('#ask-text').value.trim() : ''), { once: true });
  });
}

// Banner shows one line at the top of the call.
export class Banner {
  #timer;

  // show says the text of a key. It can wait for a moment, so that a short problem does not flash.
  show(key, { after = 0 } = {}) {
    clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      say($('#banner-text'), key);
      $('#banner').hidden = false;
    }, after);
  }

  hide() {
    clearTimeout(this.#timer);
    $('#banner').hidden = true;
    unsaid($('#banner-text'));
  }

  get visible() {
    return !$('#banner').hidden;
  }
}
