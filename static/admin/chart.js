// Charts, by uPlot: lines over the last hour or minutes, bars for days.

import { element } from './ui.js';

const { uPlot } = window;
const HOUR = 360; // samples

// resolve makes a colour of the page's variables one that a canvas takes.
function resolve(name) {
  const probe = element('span', { hidden: true });
  probe.style.color = `var(${name})`;
  document.body.append(probe);
  const value = getComputedStyle(probe).color;
  probe.remove();
  return value;
}

// chart draws lines over the last hour, or over so many seconds. Each line says how a sample becomes its value; least
// is how high the scale goes at least, so that little does not look like much.
export function chart(title, lines, format, least, seconds = 3600) {
  let samples = [];
  const plot = plotted(title, lines, format, least, {
    range: () => { const now = Date.now() / 1000; return [now - seconds, now]; },
    data: () => samples, at: (sample) => new Date(sample.at) / 1000,
  });
  return {
    node: plot.node,
    set(all) {
      samples = all.slice(-HOUR);
      plot.update();
    },
    add(sample) {
      if (samples.at(-1)?.at === sample.at) return;
      samples = [...samples.slice(1 - HOUR), sample];
      plot.update();
    },
    close: plot.close,
  };
}

// bars draws a bar for each day of UTC, the oldest first. sum says what they come to.
export function bars(title, { name, colour, value, sum }, format, days) {
  const half = 43_200;
  const at = (day) => new Date(day.from) / 1000;
  const last = () => sum(days.map(value).filter((one) => one !== null));
  return plotted(title, [{ name, colour, value, last, bars: true }], format, 0, {
    range: () => [at(days[0]) - half, at(days.at(-1)) + half], data: () => days, at,
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), 'Etc/UTC'),
  });
}

function plotted(title, lines, format, least, { range, data: samplesOf, at, tzDate }) {
  const box = element('div', { className: 'plot', 'aria-hidden': 'true' });
  const now = element('span', { className: 'legend' });
  const node = element('div', { className: 'card chart' }, element('h3', {}, title, now), box);
  let plot = null;
  const scheme = matchMedia('(prefers-color-scheme: dark)');

  const data = () => [samplesOf().map(at), ...lines.map((line) => samplesOf().map(line.value))];
  function legend() {
    const last = samplesOf().at(-1);
    now.replaceChildren(...lines.map((line) => {
      const swatch = element('span', { className: 'swatch' });
      swatch.style.background = `var(${line.colour})`;
      return element('span', {}, swatch, `${line.name} ${line.last ? format(line.last()) : last === undefined ? '–' : format(line.value(last))}`);
    }));
  }
  function draw() {
    plot?.destroy();
    const [quiet, grid] = [resolve('--quiet'), resolve('--line')];
    const axis = { stroke: quiet, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 }, font: '12px system-ui' };
    plot = new uPlot({
      width: Math.max(120, box.clientWidth), height: 150, legend: { show: false }, cursor: { show: false }, tzDate,
      scales: {
        x: { range },
        y: { range: (_, low, high) => [0, Math.max(least, (high ?? 0) * 1.1) || 1] },
      },
      axes: [axis, { ...axis, size: 82, values: (_, values) => values.map(format) }],
      series: [{}, ...lines.map((line) => ({ label: line.name, stroke: resolve(line.colour), width: line.bars ? 0 : 2, points: { show: () => !line.bars && samplesOf().length < 3, size: 5 }, // a line needs two
        ...(line.bars ? { fill: resolve(line.colour), paths: uPlot.paths.bars({ size: [0.8, 40] }) } : {}) }))],
    }, data(), box);
  }
  const resize = new ResizeObserver(() => {
    if (box.clientWidth === 0) return;
    if (plot) plot.setSize({ width: box.clientWidth, height: 150 });
    else draw();
  });
  resize.observe(box);
  scheme.addEventListener('change', draw);
  legend();
  return {
    node,
    update() {
      legend();
      plot?.setData(data());
    },
    close() {
      resize.disconnect();
      scheme.removeEventListener('change', draw);
      plot?.destroy();
    },
  };
}
