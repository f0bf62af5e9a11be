// QR codes. The library is loaded when the first one is drawn.

const SVG = 'http://www.w3.org/2000/svg';
const QUIET = 4; // modules of white around it (ISO/IEC 18004)

// qrCode draws a text, as an image with that name for assistive technology.
export async function qrCode(text, name) {
  const { encode } = await import('../vendor/uqr-0.1.3.js');
  // A long link gets less redundancy, so that its modules do not become too small.
  const { size, data } = encode(text, { border: QUIET, ecc: text.length > 150 ? 'L' : 'M' });
  const dark = data.flatMap((row, y) => row.map((on, x) => (on ? `M${x},${y}h1v1h-1z` : ''))).join('');
  const svg = document.createElementNS(SVG, 'svg');
  for (const [key, value] of Object.entries({ viewBox: `0 0 ${size} ${size}`, role: 'img', 'aria-label': name, class: 'qr', 'shape-rendering': 'crispEdges' })) svg.setAttribute(key, value);
  const path = document.createElementNS(SVG, 'path');
  path.setAttribute('d', dark);
  svg.append(path);
  return svg;
}
