// The choice of devices: the lists in the lobby and in the call's Devices window.

import { $$, element } from './dom.js';
import { preferences, remember } from './preferences.js';
import { t } from './texts.js';

const { supportsAudioOutputSelection } = window.LivekitClient;

const nouns = { videoinput: 'camera', audioinput: 'microphone', audiooutput: 'speaker' };

// captureOptions are the constraints for the preferred device. They do not require it, so
// that a missing device does not prevent joining.
export function captureOptions(kind) {
  const id = preferences[kind];
  return { ...(id && { deviceId: { ideal: id } }), ...(kind === 'audioinput' && sound()) };
}

// settingsOf are the settings of a track's device, also where its picture is treated.
export const settingsOf = (track) => track?.getSourceTrackSettings?.() ?? track?.mediaStreamTrack?.getSettings?.() ?? {};

// sound is how the microphone is treated.
const sound = () => ({ noiseSuppression: preferences.noise, echoCancellation: true, autoGainControl: true });

// treatSound applies the person's choice to a microphone that is open.
export async function treatSound(track) {
  await track?.mediaStreamTrack.applyConstraints({ ...track.mediaStreamTrack.getConstraints(), ...sound() });
}

// DevicePickers fills every select[data-device] inside root. chosen(kind, deviceId) is
// called for a person's choice. active(kind) returns the device in use.
export class DevicePickers {
  #selects;
  #active;

  constructor(root, { chosen, active }) {
    this.#selects = $$('select[data-device]', root);
    this.#active = active;
    for (const select of this.#selects) {
      select.addEventListener('change', () => {
        remember({ [select.dataset.device]: select.value });
        chosen(select.dataset.device, select.value);
      });
    }
    navigator.mediaDevices?.addEventListener('devicechange', () => this.refresh());
    document.addEventListener('language', () => this.refresh());
  }

  // refresh lists the devices again. It does not ask for permission: without permission
  // the browser hides the names, and the list says so.
  async refresh() {
    const devices = (await navigator.mediaDevices?.enumerateDevices().catch(() => [])) ?? [];
    for (const select of this.#selects) this.#fill(select, devices);
  }

  #fill(select, devices) {
    const kind = select.dataset.device;
    const found = devices.filter((device) => device.kind === kind);
    const known = found.filter((device) => device.deviceId !== '');
    const output = kind === 'audiooutput';
    const holder = select.closest('label');
    holder.hidden = output && (!supportsAudioOutputSelection() || known.length === 0);
    select.disabled = known.length === 0;
    if (known.length === 0) {
      select.replaceChildren(element('option', { textContent: t(found.length ? `device.locked.${nouns[kind]}` : `device.none.${nouns[kind]}`) }));
      return;
    }
    select.replaceChildren(...known.map((device, index) => element('option', {
      value: device.deviceId,
      textContent: device.label || t('device.nth', { device: t(`device.${nouns[kind]}`), number: index + 1 }),
    })));
    const active = this.#active(kind) || preferences[kind] || 'default';
    if (known.some((device) => device.deviceId === active)) select.value = active;
  }
}
