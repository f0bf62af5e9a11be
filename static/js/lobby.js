// The lobby, before the call: name, room, and a preview of camera and microphone.

import { DevicePickers, settingsOf } from './devices.js';
import { $, $$, element, icon, setSwitch } from './dom.js';
import { Meter } from './meter.js';
import { preferences, remember } from './preferences.js';
import { Preview } from './preview.js';
import { say, t, unsaid } from './texts.js';

const kinds = {
  microphone: { button: '#lobby-mic', onIcon: 'mic', offIcon: 'mic-off', device: 'audioinput', remembered: 'audio' },
  camera: { button: '#lobby-cam', onIcon: 'cam', offIcon: 'cam-off', device: 'videoinput', remembered: 'video' },
};

export class Lobby {
  preview;
  #meter = new Meter($('#lobby-meter'));
  #pickers;
  #opening = false;
  #metered = null;
  #problem = null; // why joining failed

  // join({name, room}) is called when the form is submitted.
  constructor({ options, join }) {
    this.preview = new Preview({ resolution: options.resolution, changed: () => this.#update() });
    this.#pickers = new DevicePickers($('#lobby'), {
      chosen: (device, id) => this.#deviceChosen(device, id),
      active: (device) => this.#activeDevice(device),
    });
    for (const [kind, { button, remembered }] of Object.entries(kinds)) {
      $(button).addEventListener('click', async () => {
        await this.preview.toggle(kind);
        remember({ [remembered]: this.preview[kind] !== null });
      });
    }
    $('#join-form').addEventListener('submit', (event) => {
      event.preventDefault();
      const name = $('#name').value.trim();
      const room = $('#room').value.trim();
      $('#name').value = name;
      $('#room').value = room;
      if (!event.target.reportValidity()) return;
      join({ name, room });
    });
    document.addEventListener('language', () => {
      this.#update();
      this.problem(this.#problem);
    });
    this.#update();
  }

  // open shows the person's own camera and microphone, if they are wanted.
  async open({ audio, video }) {
    this.#opening = true;
    this.#update();
    await this.preview.open({ audio, video });
    this.#opening = false;
    this.#update();
  }

  // fill sets known values. fixed: a value comes from a token, so it cannot be changed.
  // invited: the invitation decides the room. intro: the key of a text.
  fill({ name, room = '', fixed = false, invited = false, intro = '' }) {
    $('#room').closest('.field').hidden = invited;
    $('#room').required = !invited;
    $('#name').value = name;
    $('#room').value = room;
    $('#name').readOnly = fixed;
    $('#room').readOnly = fixed;
    if (intro) say($('#lobby-intro'), intro);
    if (!fixed && !name) $('#name').focus();
    else $('#join').focus();
  }

  // closed hides the form when it cannot lead into a call.
  closed() {
    for (const part of $$('.field, #join, #lobby-intro', $('#join-form'))) part.hidden = true;
    $('.preview').hidden = true;
    $('#lobby').classList.add('closed');
  }

  // problem shows the reason why joining failed; null hides the message.
  problem(problem) {
    this.#problem = problem;
    const box = $('#lobby-problem');
    box.hidden = !problem;
    box.textContent = problem?.text ?? '';
    box.dataset.code = problem?.code ?? '';
  }

  // waits is shown while a host has not decided whether to let the person in. It may cancel.
  waits(cancel) {
    say($('#join-status'), 'lobby.knocking');
    $('#join-cancel').hidden = false;
    $('#join-cancel').onclick = cancel;
  }

  // busy is shown while the call is being joined.
  busy(joining) {
    if (joining) say($('#join-status'), 'lobby.joining');
    else unsaid($('#join-status'));
    $('#join').disabled = joining;
    $('#join-cancel').hidden = true;
  }

  #activeDevice(device) {
    const kind = Object.keys(kinds).find((name) => kinds[name].device === device);
    return kind && settingsOf(this.preview[kind]).deviceId;
  }

  async #deviceChosen(device, id) {
    const kind = Object.keys(kinds).find((name) => kinds[name].device === device);
    if (kind) await this.preview.use(kind, id);
  }

  #update() {
    const { camera, microphone, problems } = this.preview;
    this.#showPicture(camera);
    for (const [kind, { button, onIcon, offIcon }] of Object.entries(kinds)) {
      const on = this.preview[kind] !== null;
      setSwitch($(button), on, { onIcon, offIcon, label: t(on ? `device.off.${kind}` : `device.on.${kind}`) });
      $(button).classList.toggle('broken', problems[kind] !== null);
    }
    $('#lobby-problems').replaceChildren(...merged(problems).map(({ code, text }) =>
      element('li', { 'data-code': code }, icon('warn'), element('span', { textContent: text }))));
    const heard = microphone?.mediaStreamTrack ?? null;
    if (heard !== this.#metered) {
      this.#metered = heard;
      this.#meter.measure(heard);
    }
    $('#lobby-meter').classList.toggle('idle', !heard);
    this.#pickers.refresh();
  }

  #showPicture(camera) {
    const video = $('#preview-video');
    const note = $('#preview-note');
    if (camera) camera.attach(video);
    else video.srcObject = null;
    video.hidden = !camera;
    video.classList.toggle('mirrored', settingsOf(camera).facingMode !== 'environment');
    note.hidden = camera !== null;
    note.textContent = t(this.#opening ? 'lobby.waiting' : 'lobby.camera-off');
  }
}

// merged gives one message if camera and microphone have the same problem.
function merged({ camera, microphone }) {
  if (camera && microphone && camera.both && camera.both === microphone.both) {
    return [{ code: `${camera.code} ${microphone.code}`, text: t(camera.both) }];
  }
  return [camera, microphone].filter(Boolean);
}

// wanted is which devices to open: those in the address, else those that were on last
// time.
export function wanted(options) {
  return { audio: options.audio ?? preferences.audio, video: options.video ?? preferences.video };
}
