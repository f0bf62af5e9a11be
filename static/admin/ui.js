// What the screens are made of. Whatever others have written becomes text, never markup:
// element() sets text, and the page's policy lets no string become HTML.

import { $, element } from '../js/dom.js';

export { $, element };

let role = 'none';
const ranks = { none: 0, look: 1, moderate: 2, all: 3 };

export function setRole(name) {
  role = name;
}

export const may = (least) => ranks[role] >= ranks[least];

// button is null for those who may not; the screens leave null out.
export function button(label, act, { least = 'look', kind = '', name = '' } = {}) {
  if (!may(least)) return null;
  const node = element('button', { type: 'button', className: kind }, label);
  if (name) node.setAttribute('aria-label', `${label}: ${name}`);
  node.addEventListener('click', async () => {
    node.disabled = true;
    try {
      await act(node);
    } catch (error) {
      if (error.name !== 'AbortError') toast(error.message, true);
    } finally {
      node.disabled = false;
    }
  });
  return node;
}

export const actions = (...nodes) => element('div', { className: 'actions' }, ...nodes.filter(Boolean));

export function toast(text, bad = false) {
  const node = element('p', { className: bad ? 'toast bad' : 'toast' }, text);
  $('#toasts').append(node);
  setTimeout(() => node.remove(), bad ? 9000 : 4000);
}

// ask shows a dialog, and returns what was filled in; null if it was given up. confirmed is
// called in the event of the click that confirms: only there a browser surely lets a page open
// a tab.
export function ask({ title, text = '', fields = [], confirm = 'OK', bad = false, figure, confirmed }) {
  const form = element('form', {}, element('h2', { id: 'ask-title' }, title));
  if (text) form.append(element('p', {}, text));
  for (const field of fields) form.append(fieldOf(field));
  if (figure) form.append(figure);
  const no = element('button', { type: 'button' }, 'Cancel');
  const yes = element('button', { type: 'submit', className: bad ? 'bad' : 'primary' }, confirm);
  form.append(actions(no, yes));
  const dialog = element('dialog', { 'aria-labelledby': 'ask-title' }, form);
  document.body.append(dialog);
  return new Promise((done) => {
    let answer = null;
    no.addEventListener('click', () => dialog.close());
    form.addEventListener('submit', (event) => {
      event.preventDefault();
      answer = {};
      for (const field of fields) {
        const input = form.elements.namedItem(field.name);
        answer[field.name] = field.type === 'checkbox' ? input.checked : input.value;
      }
      confirmed?.();
      dialog.close();
    });
    dialog.addEventListener('close', () => {
      dialog.remove();
      done(answer);
    });
    dialog.showModal();
  });
}

export function fieldOf({ name, label, type = 'text', value = '', options, hint = '', required = false, min, step }) {
  if (type === 'checkbox') {
    return element('label', { className: 'check' }, element('input', { type, name, checked: Boolean(value) }), label);
  }
  let input;
  if (options) {
    input = element('select', { name }, ...options.map(([key, text]) => element('option', { value: key, selected: key === value }, text)));
  } else if (type === 'textarea') {
    input = element('textarea', { name, value, rows: 4 });
  } else {
    input = element('input', { type, name, value, required, placeholder: hint, autocomplete: 'off', spellcheck: false, ...(min !== undefined && { min }), ...(step !== undefined && { step }) });
  }
  return element('label', {}, label, input);
}

// table draws rows; a column says how a row's cell looks.
export function table(caption, columns, rows, empty) {
  if (rows.length === 0) return element('p', { className: 'empty' }, empty);
  const head = element('tr', {}, ...columns.map((column) => element('th', { scope: 'col', className: column.kind ?? '' }, column.head)));
  const body = rows.map((row) => element('tr', {}, ...columns.map((column, at) => {
    const content = column.cell(row);
    const nodes = (Array.isArray(content) ? content : [content]).filter((node) => node !== null && node !== undefined && node !== '');
    return at === 0 && column.kind !== 'num' ? element('th', { scope: 'row' }, ...nodes) : element('td', { className: column.kind ?? '' }, ...nodes);
  })));
  return element('div', { className: 'scroll', tabIndex: 0, role: 'region', 'aria-label': caption },
    element('table', {}, element('caption', { className: 'sr' }, caption), element('thead', {}, head), element('tbody', {}, ...body)));
}

// redraw replaces what is in place, and leaves the focus where it was: on what bears the
// same name.
export function redraw(place, ...nodes) {
  const named = (node) => `${node.tagName} ${node.getAttribute('aria-label') ?? node.textContent}`;
  const focused = place.contains(document.activeElement) ? named(document.activeElement) : null;
  place.replaceChildren(...nodes);
  if (!focused) return;
  for (const node of place.querySelectorAll('button, a[href], [tabindex]')) {
    if (named(node) === focused) {
      node.focus({ preventScroll: true });
      return;
    }
  }
}

// pager goes through pages by cursors; load(cursor) draws one and returns the next cursor.
export function pager(load) {
  const before = [];
  let now = '';
  let next = '';
  const back = button('Previous', () => show(before.pop()));
  const on = button('Next', () => {
    before.push(now);
    return show(next);
  });
  const where = element('span', { className: 'quiet small', role: 'status' });
  async function show(cursor) {
    now = cursor;
    next = await load(cursor) ?? '';
    where.textContent = before.length > 0 || next ? `Page ${before.length + 1}` : '';
    node.hidden = before.length === 0 && !next;
    // After the click's own end, which enables its button again.
    setTimeout(() => {
      back.disabled = before.length === 0;
      on.disabled = !next;
    });
  }
  const node = element('nav', { className: 'pager', 'aria-label': 'Pages' }, back, on, where);
  return {
    node,
    first() {
      before.length = 0;
      return show('');
    },
    again: () => show(now),
  };
}

export const tag = (text, state = '') => element('span', { className: `tag ${state}` }, text);

export function facts(pairs) {
  return element('dl', { className: 'facts' }, ...pairs.filter(([, value]) => value !== null && value !== undefined && value !== '' && value.length !== 0)
    .flatMap(([name, value]) => [element('dt', {}, name), element('dd', {}, ...(Array.isArray(value) ? value : [value]))]));
}

export function section(title, ...content) {
  return element('section', {}, element('h2', {}, title), ...content.filter(Boolean));
}

// Times, sizes and rates, as people read them.

const clock = new Intl.DateTimeFormat(undefined, { timeStyle: 'medium' });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: 'medium', timeStyle: 'medium' });

export function time(text, { short = false } = {}) {
  if (!text) return '';
  const at = new Date(text);
  const today = at.toDateString() === new Date().toDateString();
  return element('time', { dateTime: text, title: full.format(at) }, short || today ? clock.format(at) : full.format(at));
}

export function duration(seconds) {
  const whole = Math.max(0, Math.round(seconds));
  const [d, h, m, s] = [Math.floor(whole / 86400), Math.floor(whole / 3600) % 24, Math.floor(whole / 60) % 60, whole % 60];
  if (d > 0) return `${d} d ${h} h`;
  if (h > 0) return `${h} h ${m} min`;
  if (m > 0) return `${m} min ${s} s`;
  return `${s} s`;
}

export const since = (text) => (text ? duration((Date.now() - new Date(text)) / 1000) : '');
export const until = (text) => (text ? duration((new Date(text) - Date.now()) / 1000) : '');

export function bytes(n) {
  if (n === null || n === undefined || n < 0) return '–';
  for (const [unit, size] of [['TB', 1e12], ['GB', 1e9], ['MB', 1e6], ['kB', 1e3]]) {
    if (n >= size) return `${(n / size).toFixed(n >= 100 * size ? 0 : 1)} ${unit}`;
  }
  return `${n} B`;
}

export function rate(bits) {
  if (bits === null || bits === undefined) return '–';
  for (const [unit, size] of [['Gbit/s', 1e9], ['Mbit/s', 1e6], ['kbit/s', 1e3]]) {
    if (bits >= size) return `${(bits / size).toFixed(bits >= 100 * size ? 0 : 1)} ${unit}`;
  }
  return `${Math.round(bits)} bit/s`;
}

export const percent = (share, digits = 1) => (share === null || share === undefined ? '–' : `${(share * 100).toFixed(digits)} %`);

// save hands the reader a file. In CSV a cell that a spreadsheet would calculate is quoted.
export function save(name, type, text) {
  const link = element('a', { href: URL.createObjectURL(new Blob([text], { type })), download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(link.href), 60_000);
}

export function csv(rows, columns) {
  const cell = (value) => {
    let text = value === null || value === undefined ? '' : String(typeof value === 'object' ? JSON.stringify(value) : value);
    if (/^[=+\-@\t\r]/.test(text) && typeof value !== 'number') text = `'${text}`;
    return /[",\n\r]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  return [columns, ...rows.map((row) => columns.map((column) => row[column]))].map((line) => line.map(cell).join(',')).join('\r\n') + '\r\n';
}

// exports are the buttons that hand out a list as a file.
export function exports(name, columns, gather) {
  return [
    button('CSV', async () => save(`${name}.csv`, 'text/csv', csv(await gather(), columns)), { name }),
    button('JSON', async () => save(`${name}.json`, 'application/json', JSON.stringify(await gather(), null, 1)), { name }),
  ];
}

export const roomLink = (name) => element('a', { href: `#/room/${encodeURIComponent(name)}` }, name);

// eventItem is a line of the event log.
export function eventItem(event) {
  const of = [];
  if (event.room) of.push(roomLink(event.room));
  const who = event.event?.participant?.identity;
  if (who) of.push(of.length ? ' · ' : '', who);
  const track = event.event?.track;
  if (track?.source ?? track?.sid) of.push(` · ${(track.source ?? track.sid).toLowerCase()}`);
  const why = event.event?.room?.endReason ?? event.event?.participant?.disconnectReason;
  if (why) of.push(` · ${why.toLowerCase().replaceAll('_', ' ')}`);
  const body = element('details', {}, element('summary', {}, `#${event.seq}`));
  body.addEventListener('toggle', () => {
    if (body.open && body.childElementCount === 1) body.append(element('pre', { tabIndex: 0 }, JSON.stringify(event.event ?? {}, null, 1)));
  });
  return element('li', {}, time(event.created_at, { short: true }), element('span', { className: 'what' }, event.type), element('span', { className: 'of' }, ...of), body);
}
