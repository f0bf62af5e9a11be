// Where the tiles go: pure arithmetic, so that any number of people fits the
// window without scrolling.

const WIDEST = 16 / 9;

// grid finds the number of columns that shows the most picture in width × height
// for count tiles, and returns one rectangle per tile, the last row centred.
// Tiles may be as narrow as 4:3, or upright where the space itself is upright.
export function grid(count, { x = 0, y = 0, width, height, gap }) {
  if (count === 0 || width <= 0 || height <= 0) return [];
  const narrowest = width >= height ? 4 / 3 : 3 / 4;
  let best;
  for (let columns = 1; columns <= count; columns++) {
    const rows = Math.ceil(count / columns);
    const cellWidth = (width - gap * (columns - 1)) / columns;
    const cellHeight = (height - gap * (rows - 1)) / rows;
    if (cellWidth <= 0 || cellHeight <= 0) continue;
    const tileWidth = Math.min(cellWidth, cellHeight * WIDEST);
    const tileHeight = Math.min(cellHeight, tileWidth / narrowest);
    const area = tileWidth * tileHeight;
    if (!best || area > best.area * 1.001) best = { columns, rows, tileWidth, tileHeight, area };
  }
  if (!best) return Array.from({ length: count }, () => ({ x, y, width: 0, height: 0 }));

  const { columns, rows, tileWidth, tileHeight } = best;
  const top = y + (height - rows * tileHeight - (rows - 1) * gap) / 2;
  return Array.from({ length: count }, (_, index) => {
    const row = Math.floor(index / columns);
    const inRow = row === rows - 1 ? count - row * columns : columns;
    const left = x + (width - inRow * tileWidth - (inRow - 1) * gap) / 2;
    return {
      x: left + (index - row * columns) * (tileWidth + gap),
      y: top + row * (tileHeight + gap),
      width: tileWidth,
      height: tileHeight,
    };
  });
}

// spotlight gives one tile most of the space and puts the others in a grid
// beside it, or below it where the space is upright. The first rectangle is the
// large one's.
export function spotlight(others, { width, height, gap }) {
  if (others === 0) return [{ x: 0, y: 0, width, height }];
  if (width > height) {
    const side = Math.min(width * 0.28, Math.max(width * 0.18, 150));
    const large = { x: 0, y: 0, width: width - side - gap, height };
    return [large, ...grid(others, { x: large.width + gap, width: side, height, gap })];
  }
  const side = Math.min(height * 0.4, Math.max(height * 0.22, 110));
  const large = { x: 0, y: 0, width, height: height - side - gap };
  return [large, ...grid(others, { y: large.height + gap, width, height: side, gap })];
}
