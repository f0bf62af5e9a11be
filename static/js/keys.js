// The keyboard shortcuts of the call. They do not interfere with typing or with the
// browser's own shortcuts, and can be turned off.

import { preferences } from './preferences.js';

const typing = (target) => target.closest?.('input, textarea, select, [contenteditable]');

// listen calls actions[key] for keys pressed in a window until the signal aborts. Space has an effect
// only where it would not press a button.
export function listen(actions, signal, target = window) {
  target.addEventListener('keydown', (event) => {
    if (target.document.querySelector('dialog[open]')) return; // it has the keys of its window
    if (event.key === 'Escape') {
      if (!event.defaultPrevented && actions.Escape?.()) event.preventDefault();
      return;
    }
    if (!preferences.shortcuts || event.ctrlKey || event.metaKey || event.altKey || event.isComposing) return;
    if (typing(event.target)) return;
    const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (key === ' ' && event.target.closest?.('button, a, summary, [tabindex]')) return;
    if (event.repeat && key !== ' ') return;
    const action = actions[key];
    if (!action) return;
    event.preventDefault();
    if (!event.repeat) action();
  }, { signal });
}
