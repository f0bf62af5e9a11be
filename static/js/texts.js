// The texts of the page in the person's language. A language is one file in static/js/texts,
// and only the file in use is loaded. An element names its text in data-text, so that it
// follows when the language changes: also data-label, data-tip and data-placeholder.

import { $$ } from './dom.js';
import { preferences, remember } from './preferences.js';

// The languages by their own names.
export const languages = { en: 'English', de: 'Deutsch', es: 'Español', fr: 'Français', zh: '中文' };

const FALLBACK = 'en';

// Letters written from right to left, and the invisible characters that turn the direction.
const TURNING = /[\u0590-\u08ff\u200e\u200f\u202a-\u202e\u2066-\u2069\ufb1d-\ufefc]/;
const ISOLATE = '\u2068';
const END_OF_ISOLATE = '\u2069';

const attributes = [['label', 'aria-label'], ['tip', 'title'], ['placeholder', 'placeholder']];

let texts = {}; // of the language in use
let plural;
let list;
const values = new WeakMap(); // element → the values in its text

// wantedLanguage is the one asked for in the address, else the remembered choice, else the
// first language of the browser that the page has.
export function wantedLanguage({ asked = '', remembered = true } = {}) {
  const wishes = [asked, remembered ? preferences.language : '', ...(navigator.languages ?? [navigator.language])];
  return wishes.map((wish) => String(wish ?? '').toLowerCase().split('-')[0]).find((code) => Object.hasOwn(languages, code)) ?? FALLBACK;
}

async function catalogueOf(code) {
  const response = await fetch(`static/js/texts/${code}.json`);
  if (!response.ok) throw new Error(`${code}.json: ${response.status}`);
  return response.json();
}

// loadLanguage gets the texts of a language, and shows them.
export async function loadLanguage(code) {
  useLanguage(code, await catalogueOf(code));
}

// chooseLanguage remembers the person's choice; '' stands for the browser's language. If
// its texts cannot be had, all stays as it is, and the error is thrown.
export async function chooseLanguage(choice) {
  const code = choice || wantedLanguage({ remembered: false });
  const catalogue = await catalogueOf(code);
  remember({ language: choice });
  useLanguage(code, catalogue);
}

// useLanguage shows the given texts. Views that write texts by themselves listen to the
// event "language" of the document.
export function useLanguage(code, catalogue) {
  texts = catalogue;
  plural = new Intl.PluralRules(code);
  list = new Intl.ListFormat(code);
  document.documentElement.lang = code;
  document.documentElement.dir = texts['@direction'];
  translate(document);
  document.dispatchEvent(new Event('language'));
}

// t is the text of a key with its {placeholders} filled in. A text with plural forms is
// chosen by the value count. What strangers have written may be among the values: it is
// never looked at for placeholders.
export function t(key, given = {}) {
  let text = texts[key] ?? key;
  if (typeof text === 'object') text = text[plural.select(given.count)] ?? text.other;
  return text.replace(/\{(\w+)\}/g, (whole, name) => (Object.hasOwn(given, name) ? isolated(String(given[name])) : whole));
}

// isolated keeps a value that turns the direction of writing from turning its sentence.
function isolated(value) {
  return TURNING.test(value) ? ISOLATE + value + END_OF_ISOLATE : value;
}

// listed joins names as the language does.
export const listed = (names) => list.format(names.map(isolated));

// say sets an element's text, which follows when the language changes.
export function say(node, key, given) {
  node.dataset.text = key;
  values.set(node, given);
  node.textContent = t(key, given);
}

// unsaid empties an element whose text was said.
export function unsaid(node) {
  delete node.dataset.text;
  node.textContent = '';
}

// translate fills in the texts that the elements below root name.
export function translate(root) {
  for (const node of $$('[data-text]', root)) node.textContent = t(node.dataset.text, values.get(node));
  for (const [name, attribute] of attributes) {
    for (const node of $$(`[data-${name}]`, root)) node.setAttribute(attribute, t(node.dataset[name]));
  }
}
