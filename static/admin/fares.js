// How the media of one person fared in the last minutes, in charts. The server keeps that,
// so that they begin before somebody looked.

import { element, percent, rate } from './ui.js';
import { get } from './api.js';
import { chart } from './chart.js';

const EVERY = 10_000; // ms; a sample stands for that
const SHOWN = 900; // seconds

export function fares(on, signal) {
  const of = (title, lines, format, least) => chart(title, lines, (value) => (value === null ? '–' : format(value)), least, SHOWN);
  const charts = [
    of('Media', [
      { name: 'Up', colour: '--ok', value: (s) => s.up },
      { name: 'Down', colour: '--accent', value: (s) => s.down },
    ], rate, 1e5),
    of('Loss', [
      { name: 'Up', colour: '--ok', value: (s) => s.up_loss },
      { name: 'Down', colour: '--failed', value: (s) => s.down_loss },
    ], (share) => percent(share), 0.05),
    of('Round trip', [{ name: 'Round trip', colour: '--accent', value: (s) => s.rtt_ms }], (ms) => `${ms.toFixed(ms < 10 ? 1 : 0)} ms`, 50),
    of('Estimated for it', [{ name: 'Down', colour: '--warning', value: (s) => s.estimate }], rate, 1e6),
  ];
  const none = element('p', { className: 'quiet small', role: 'status' }, 'The first ten seconds of its media are not over.');
  const node = element('div', { className: 'fares' }, none, element('div', { className: 'charts' }, ...charts.map((one) => one.node)));
  let looked = 0;

  return {
    node,
    async refresh() {
      if (Date.now() - looked < EVERY) return;
      looked = Date.now();
      const { samples } = await get(`${on}/samples`, signal);
      none.hidden = samples.length > 0;
      node.dataset.samples = samples.length;
      for (const one of charts) one.set(samples);
    },
    close() {
      for (const one of charts) one.close();
    },
  };
}
