// The page: it leads from the lobby into a call, and out of it again.

import { offerBackgrounds } from './js/background.js';
import { Call } from './js/call.js';
import { DevicePickers } from './js/devices.js';
import { $, $$, element } from './js/dom.js';
import { Inside } from './js/inside.js';
import { forget, redeem } from './js/invitation.js';
import { Lobby, wanted } from './js/lobby.js';
import { joinProblem, problemOf } from './js/messages.js';
import { Meter } from './js/meter.js';
import { readOptions, showRoom } from './js/options.js';
import { preferences, remember } from './js/preferences.js';
import { chooseLanguage, languages, loadLanguage, say, t, unsaid, wantedLanguage } from './js/texts.js';
import { NoTokenError, handsOutTokens, newIdentity, ownServer, readToken, requestToken, whyRefused } from './js/token.js';

const { isBrowserSupported, setLogLevel, Track } = window.LivekitClient;

const options = readOptions(location);
setLogLevel(options.log);

const noToken = problemOf('token-missing', 'join.token-missing');

// The present state, for automated tests and for the browser's console. It holds the Room
// of livekit-client.
const parlor = window.parlor = {
  screen: 'lobby', room: null, call: null, problem: null, options,
  join, leave: () => parlor.call?.leave(),
};

const lobby = new Lobby({ options, join });
const inside = new Inside(options);
const settingsMeter = new Meter($('#settings-meter'));
const pickersInCall = ['#settings', '#mic-menu', '#cam-menu'].map((place) => new DevicePickers($(place), {
  chosen: chooseInCall,
  active: (kind) => parlor.room?.getActiveDevice(kind),
}));
const refreshPickers = () => pickersInCall.forEach((pickers) => pickers.refresh());

function show(screen) {
  parlor.screen = screen;
  document.body.dataset.screen = screen;
  for (const name of ['lobby', 'call', 'ended']) $(`#${name}`).hidden = name !== screen;
  if (screen === 'lobby') inside.open();
  else inside.close();
}

function problem(found) {
  parlor.problem = found;
  lobby.problem(found);
}

async function join({ name, room }) {
  if (parlor.call) return;
  problem(null);
  lobby.busy(true);
  if (!options.token) remember({ name });
  try {
    await enter(await admission({ name, room }));
    if (!options.token && !options.invite) showRoom(room);
  } catch (error) {
    if (error.code !== 'cancelled') problem(error instanceof NoTokenError ? noToken : joinProblem(error, error.refused));
    if (parlor.screen !== 'lobby') {
      show('lobby');
      lobby.open(wanted(options));
    }
  } finally {
    lobby.busy(false);
  }
}

// admission gets the server's address and a token.
async function admission({ name, room }) {
  if (options.token) return { token: options.token, url: ownServer() };
  if (options.invite) {
    const { token } = await redeem(options.invite, name, (cancel) => lobby.waits(cancel));
    lobby.busy(true);
    return { token, url: ownServer(), invited: true };
  }
  return requestToken({ room, name, identity: options.identity || newIdentity(name) });
}

// enter joins a call with the tracks that are open in the lobby. If that fails, the lobby
// gets its camera and microphone back. invited: the person came by an invitation.
async function enter({ url, token, invited = false }) {
  const call = new Call({ options, open: !(options.token || options.invite), invited, ended: over, openSettings });
  parlor.call = call;
  parlor.room = call.room;
  const tracks = await lobby.preview.release();
  try {
    const joined = call.join({ url, token, tracks, subscribe: options.subscribe });
    call.room.once('connected', () => show('call'));
    await joined;
  } catch (error) {
    error.refused = await whyRefused(url, token);
    // A room that is locked or full, or a ban, is no reason to use the invitation up again.
    if (options.invite && /^invalid /.test(error.refused?.message ?? '')) forget(options.invite);
    parlor.call = null;
    parlor.room = null;
    lobby.preview.adopt(tracks);
    throw error;
  }
}

// over is called when a call that was joined has ended.
function over(end) {
  parlor.call = null;
  for (const dialog of $$('dialog')) dialog.close();
  $('#toasts').replaceChildren(); // toasts of the call
  parlor.problem = end;
  $('#ended').dataset.code = end.code;
  say($('#ended-title'), end.title);
  if (end.text) say($('#ended-text'), end.text);
  else unsaid($('#ended-text'));
  say($('#rejoin'), end.rejoin);
  show('ended');
  $('#ended-title').focus();
}

async function backToLobby() {
  problem(null);
  show('lobby');
  await lobby.open(wanted(options));
}

function openSettings() {
  if ($('#settings').open) return;
  $('#settings').showModal();
  refreshPickers();
  settingsMeter.measure(ownMicrophone());
}

const ownMicrophone = () =>
  parlor.room?.localParticipant.getTrackPublication(Track.Source.Microphone)?.track?.mediaStreamTrack ?? null;

async function chooseInCall(kind, id) {
  try {
    await parlor.room?.switchActiveDevice(kind, id);
  } finally {
    refreshPickers();
    if ($('#settings').open) settingsMeter.measure(ownMicrophone());
  }
}

function listenToPage() {
  $('#rejoin').addEventListener('click', async () => {
    await backToLobby();
    await join({ name: $('#name').value, room: $('#room').value });
  });
  $('#to-lobby').addEventListener('click', backToLobby);
  $('[data-close="settings"]').addEventListener('click', () => $('#settings').close());
  $('#settings').addEventListener('close', () => settingsMeter.measure(null));
  $('#settings').addEventListener('click', (event) => {
    // A click on the backdrop has the dialog itself as its target.
    if (event.target === event.currentTarget) $('#settings').close();
  });
  for (const menu of $$('#mic-menu, #cam-menu')) menu.addEventListener('beforetoggle', refreshPickers);
  $('#lobby-encrypted').hidden = !options.passphrase;
  for (const box of $$('[data-preference]')) {
    const { preference } = box.dataset;
    box.checked = preferences[preference];
    box.addEventListener('change', () => {
      remember({ [preference]: box.checked });
      parlor.call?.preferred();
    });
  }
}

// Propose a new room, with a name that cannot be guessed.
function suggestedRoom() {
  const words = ['amber', 'birch', 'cedar', 'delta', 'ember', 'fjord', 'grove', 'harbor', 'iris', 'jade', 'kestrel', 'lagoon', 'maple', 'nectar', 'opal', 'pebble', 'quartz', 'river', 'sable', 'tidal', 'umber', 'velvet', 'willow', 'zephyr'];
  const pick = crypto.getRandomValues(new Uint16Array(3));
  return `${words[pick[0] % words.length]}-${words[pick[1] % words.length]}-${pick[2] % 1000}`;
}

// fillFromToken shows the name in the token, and reports whether the token can be used.
function fillFromToken() {
  const claims = readToken(options.token);
  if (!claims) {
    problem(problemOf('token-bad', 'join.incomplete'));
    lobby.closed();
    return false;
  }
  lobby.fill({
    name: claims.name, room: claims.room || options.room, fixed: true,
    intro: 'lobby.invited',
  });
  if (claims.expired) problem(problemOf('token-expired', 'join.expired'));
  return true;
}

// offerLanguages fills the choices of language, in the lobby and in the settings.
function offerLanguages() {
  const fill = () => {
    for (const select of $$('[data-language]')) {
      select.replaceChildren(element('option', { value: '', textContent: t('language.browser', { language: languages[wantedLanguage({ remembered: false })] }) }),
        ...Object.entries(languages).map(([code, name]) => element('option', { value: code, textContent: name, lang: code })));
      select.value = preferences.language;
    }
  };
  for (const select of $$('[data-language]')) select.addEventListener('change', () => chooseLanguage(select.value).catch(fill));
  document.addEventListener('language', fill);
  fill();
}

async function start() {
  await loadLanguage(wantedLanguage({ asked: options.language }));
  offerLanguages();
  offerBackgrounds(() => (parlor.call ? parlor.call.treatPicture() : lobby.preview.treat()));
  listenToPage();
  if (!isBrowserSupported()) {
    problem(problemOf('browser', 'join.browser'));
    return;
  }
  if (options.token) {
    if (!fillFromToken()) return;
  } else if (options.invite) {
    lobby.fill({ name: options.name || preferences.name, invited: true, intro: 'lobby.invited-who' });
  } else if (await handsOutTokens()) {
    lobby.fill({ name: options.name || preferences.name, room: options.room || suggestedRoom() });
  } else {
    problem(noToken);
    lobby.closed();
    return;
  }
  if (!options.autojoin) {
    inside.open();
    await lobby.open(wanted(options));
    return;
  }
  // The address may come from another person. It may let the visitor watch a call, but
  // only the visitor's own click may send camera or microphone.
  await lobby.open({ audio: false, video: false });
  $('#join-form').requestSubmit();
}

start();
