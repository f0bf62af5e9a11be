// Functions for the DOM that all parts of the page use.

export const $ = (selector, root = document) => root.querySelector(selector);
export const $$ = (selector, root = document) => [...root.querySelectorAll(selector)];

// element makes an element with properties (class, data and aria names as attributes) and
// children. Text is always set as text, never as markup.
export function element(tag, properties = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name in node && !name.includes('-')) node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

// icon refers to one of the symbols in index.html.
export function icon(name, className = 'icon') {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('class', className);
  svg.setAttribute('aria-hidden', 'true');
  const use = document.createElementNS('http://www.w3.org/2000/svg', 'use');
  use.setAttribute('href', `#i-${name}`);
  svg.append(use);
  return svg;
}

// setIcon changes the symbol of an icon inside node.
export function setIcon(node, name) {
  $('use', node).setAttribute('href', `#i-${name}`);
}

// setSwitch shows the state of a toggle button: in its look, for assistive technology,
// and in its tooltip.
export function setSwitch(button, on, { onIcon, offIcon, label }) {
  button.setAttribute('aria-pressed', String(on));
  button.classList.toggle('off', !on);
  setIcon(button, on ? onIcon : offIcon);
  button.setAttribute('aria-label', label);
  button.title = label;
}

// hue is a person's colour, which is the same on every screen.
export function hue(text) {
  let hash = 2166136261; // FNV-1a; its last step separates even "p1" and "p2"
  for (const char of `${text}\n`) hash = Math.imul(hash ^ char.codePointAt(0), 16777619) >>> 0;
  return hash % 360;
}

// initials are two letters at most, by code point so that no emoji is cut.
export function initials(name) {
  const words = name.trim().split(/\s+/).filter(Boolean);
  const letters = words.length > 1 ? [words[0], words.at(-1)] : words;
  return letters.map((word) => [...word][0]).join('').toUpperCase() || '?';
}
