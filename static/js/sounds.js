// Short sounds for what happens in the call.

import { preferences } from './preferences.js';

const notes = { joined: [520, 780], left: [520, 390], knock: [390, 390] }; // Hz

const NOTE = 0.12; // s
const LOUDNESS = 0.06;

// play plays the sound for what happened: joined, left or knock. It does nothing if the person
// does not want sounds.
export function play(what) {
  if (!preferences.sounds) return;
  const context = new AudioContext();
  const gain = context.createGain();
  gain.connect(context.destination);
  const start = context.currentTime;
  notes[what].forEach((frequency, index) => {
    const note = context.createOscillator();
    note.frequency.value = frequency;
    note.connect(gain);
    note.start(start + index * NOTE);
    note.stop(start + (index + 1) * NOTE);
  });
  const end = start + notes[what].length * NOTE;
  gain.gain.setValueAtTime(LOUDNESS, start);
  gain.gain.exponentialRampToValueAtTime(LOUDNESS / 100, end);
  setTimeout(() => context.close(), 1000);
}
