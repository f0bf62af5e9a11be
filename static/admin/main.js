// The dashboard: signs in, shows the screen that the address names, and has the one stream.

import { $, element, setRole, toast } from './ui.js';
import { call, get, Live, onSignedOut, Problem } from './api.js';
import { now } from './now.js';
import { rooms } from './rooms.js';
import { room } from './room.js';
import { people } from './people.js';
import { invitations } from './invitations.js';
import { agents } from './agents.js';
import { ended, stay } from './history.js';
import { webhooks } from './webhooks.js';
import { events } from './events.js';
import { refused } from './refused.js';
import { server } from './server.js';
import { audit } from './audit.js';

// Each screen draws itself into main and returns what it wants to hear: overview(o),
// event(e), and close() when it is left. filter is what its part of the stream is of.
const screens = {
  now: { title: 'Now', show: now },
  rooms: { title: 'Rooms', show: rooms },
  room: { title: 'Room', show: room, under: 'rooms' },
  people: { title: 'People', show: people },
  invitations: { title: 'Invitations', show: invitations },
  agents: { title: 'Agents', show: agents },
  history: { title: 'History', show: ended },
  stay: { title: 'Ended room', show: stay, under: 'history' },
  webhooks: { title: 'Webhooks', show: webhooks },
  events: { title: 'Events', show: events },
  refused: { title: 'Refused', show: refused },
  server: { title: 'Server', show: server },
  audit: { title: 'Audit', show: audit },
};

const main = $('#main');
let session = null;
let shown = null; // what the present screen wants to hear
let leaving = new AbortController(); // of its requests
let newest = null; // overview

const live = new Live({
  take(name, data) {
    if (name === 'overview') {
      newest = data;
      status(data);
      shown?.overview?.(data);
    } else if (name === 'gone') {
      toast(data.detail, true);
    } else {
      shown?.event?.(data);
    }
  },
  state(state) {
    $('#connection').textContent = { open: 'Live', lost: 'Connection lost, trying again …', over: '' }[state];
    document.body.dataset.live = state;
    if (state === 'over') signedOut();
  },
});

function status(overview) {
  const bad = overview.alerts.length;
  document.title = `${bad ? `(${bad}) ` : ''}${screens[current().name].title} – Parlor`;
}

// current is the screen that the address names, and what stands behind its name.
function current() {
  const [, name, ...rest] = location.hash.split('/');
  const known = Object.hasOwn(screens, name ?? '') ? name : 'now';
  let of = '';
  try {
    of = decodeURIComponent(rest.join('/'));
  } catch {
    // An address that was cut off names nothing.
  }
  return { name: known, of };
}

async function go() {
  if (!session) return;
  leaving.abort();
  leaving = new AbortController();
  shown?.close?.();
  shown = null;
  const { name, of } = current();
  const screen = screens[name];
  for (const link of $('#nav').querySelectorAll('a')) {
    const here = link.dataset.screen === (screen.under ?? name);
    if (here) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
  menu(false);
  document.title = `${screen.title} – Parlor`;
  main.replaceChildren(element('p', { className: 'quiet', role: 'status' }, 'Loading …'));
  const { signal } = leaving;
  const root = element('div', { className: 'screen' });
  try {
    const wants = await screen.show(root, { of, signal, session, overview: newest, go });
    if (signal.aborted) {
      wants?.close?.();
      return;
    }
    shown = wants;
    main.replaceChildren(...root.childNodes);
    main.dataset.screen = name;
    live.watch(wants?.filter ?? {});
    if (newest) shown?.overview?.(newest);
  } catch (error) {
    if (signal.aborted || error.status === 401) return;
    main.dataset.screen = name;
    main.replaceChildren(element('header', {}, element('h1', {}, screen.title)), element('p', { className: 'problem', role: 'alert' }, error.message));
    live.watch({});
  }
  main.focus({ preventScroll: true });
  scrollTo(0, 0);
}

function menu(open) {
  $('#nav').classList.toggle('open', open);
  $('#menu').setAttribute('aria-expanded', String(open));
}

function signedIn(own) {
  session = own;
  setRole(own.role);
  document.body.classList.add('signed');
  $('#bar').hidden = false;
  $('#nav').hidden = false;
  $('#who').textContent = `${own.key} · ${own.role}`;
  $('#nav').replaceChildren(element('ul', {}, ...Object.entries(screens).filter(([, screen]) => !screen.under)
    .map(([name, { title }]) => element('li', {}, element('a', { href: `#/${name}`, 'data-screen': name }, title)))));
  go();
}

function signedOut(message = '') {
  live.close();
  leaving.abort();
  shown?.close?.();
  [session, shown, newest] = [null, null, null];
  setRole('none');
  document.body.classList.remove('signed');
  $('#bar').hidden = true;
  $('#nav').hidden = true;
  document.title = 'Sign in – Parlor';
  const key = element('input', { name: 'key', autocomplete: 'username', required: true, spellcheck: false });
  const secret = element('input', { name: 'secret', type: 'password', autocomplete: 'current-password', required: true });
  const role = element('select', { name: 'role' }, ...[['all', 'All'], ['moderate', 'Moderate: rooms and people'], ['look', 'Look only']]
    .map(([value, text]) => element('option', { value }, text)));
  const problem = element('p', { className: 'problem', role: 'alert', hidden: !message }, message);
  const submit = element('button', { type: 'submit', className: 'primary' }, 'Sign in');
  const form = element('form', { id: 'sign-in', className: 'card' },
    element('h1', {}, element('img', { src: '/static/icon.svg', alt: '', width: 34, height: 34 }), 'Parlor'),
    problem,
    element('label', {}, 'API key', key), element('label', {}, 'Secret', secret), element('label', {}, 'Role', role), submit,
    element('p', { className: 'quiet small' }, 'Or open a link of ', element('code', {}, 'parlor admin-link'), ' on the server.'));
  form.addEventListener('submit', async (event) => {
    event.preventDefault();
    submit.disabled = true;
    problem.hidden = true;
    try {
      signedIn(await call('POST', '/admin/session', { key: key.value, secret: secret.value, role: role.value }));
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
      submit.disabled = false;
      secret.value = '';
      secret.focus();
    }
  });
  main.dataset.screen = 'sign-in';
  main.replaceChildren(form);
  key.focus();
}

async function start() {
  const link = /^#link=([\w-]+)$/.exec(location.hash)?.[1];
  if (link) {
    // It works once; the browser's history need not keep it.
    history.replaceState(null, '', location.pathname);
    try {
      signedIn(await call('POST', '/admin/session', { link }));
    } catch (error) {
      signedOut(error.message);
    }
    return;
  }
  try {
    signedIn(await get('/admin/session'));
  } catch (error) {
    signedOut(error instanceof Problem && error.status !== 401 && error.status !== 404 ? error.message : '');
  }
}

$('#menu').addEventListener('click', () => menu($('#menu').getAttribute('aria-expanded') !== 'true'));
$('#sign-out').addEventListener('click', async () => {
  try {
    await call('DELETE', '/admin/session');
  } catch (error) {
    if (error.status !== 401) {
      toast(error.message, true);
      return;
    }
  }
  signedOut();
});
document.addEventListener('keydown', (event) => {
  if (event.key === 'Escape' && $('#nav').classList.contains('open')) {
    menu(false);
    $('#menu').focus();
  }
});
$('.skip').addEventListener('click', (event) => {
  event.preventDefault(); // the address names the screen
  main.focus();
});
window.addEventListener('hashchange', go);
onSignedOut(() => {
  if (session) signedOut('The session is over: sign in again.');
});
start();
