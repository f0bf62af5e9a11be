// Charts of the last hour, by uPlot.

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

// chart draws lines over the last hour. Each line says how a sample becomes its value; least
// is how high the scale goes at least, so that little does not look like much.
export function chart(title, lines, format, least) {
  const box = element('div', { className: 'plot', 'aria-hidden': 'true' });
  const now = element('span', { className: 'legend' });
  const node = element('div', { className: 'card chart' }, element('h3', {}, title, now), box);
  let samples = [];
  let plot = null;
  const scheme = matchMedia('(prefers-color-scheme: dark)');

  const data = () => [samples.map((sample) => new Date(sample.at) / 1000), ...lines.map((line) => samples.map(line.value))];
  function legend() {
    const last = samples.at(-1);
    now.replaceChildren(...lines.map((line) => {
      const swatch = element('span', { className: 'swatch' });
      swatch.style.background = `var(${line.colour})`;
      return element('span', {}, swatch, `${line.name} ${last ? format(line.value(last)) : '–'}`);
    }));
  }
  function draw() {
    plot?.destroy();
    const [quiet, grid] = [resolve('--quiet'), resolve('--line')];
    const axis = { stroke: quiet, grid: { stroke: grid, width: 1 }, ticks: { stroke: grid, width: 1 }, font: '12px system-ui' };
    plot = new uPlot({
      width: Math.max(120, box.clientWidth), height: 150, legend: { show: false }, cursor: { show: false },
      scales: {
        x: { range: () => { const now = Date.now() / 1000; return [now - 3600, now]; } },
        y: { range: (_, low, high) => [0, Math.max(least, (high ?? 0) * 1.1)] },
      },
      axes: [axis, { ...axis, size: 74, values: (_, values) => values.map(format) }],
      series: [{}, ...lines.map((line) => ({ label: line.name, stroke: resolve(line.colour), width: 2, points: { show: false } }))],
    }, data(), box);
  }
  const resize = new ResizeObserver(() => {
    if (box.clientWidth === 0) return;
    if (plot) plot.setSize({ width: box.clientWidth, height: 150 });
    else draw();
  });
  resize.observe(box);
  scheme.addEventListener('change', draw);
  return {
    node,
    set(all) {
      samples = all.slice(-HOUR);
      legend();
      plot?.setData(data());
    },
    add(sample) {
      if (samples.at(-1)?.at === sample.at) return;
      samples = [...samples.slice(1 - HOUR), sample];
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
