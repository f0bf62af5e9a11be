// The layout of the tiles. It is pure arithmetic, and fits any number of tiles into the
// window without scrolling.

const WIDEST = 16 / 9;

// The smallest useful tile. If not all tiles fit at this size, the rest go to further
// pages.
const SMALLEST = { width: 180, height: 112 };
const MOST = 25;

// capacity is how many tiles fit on one page; at least one.
export function capacity({ width, height, gap }) {
  // On a narrow page there should be room for two side by side.
  const least = Math.min(SMALLEST.width, (width - gap) / 2);
  const columns = Math.max(1, Math.floor((width + gap) / (least + gap)));
  const rows = Math.max(1, Math.floor((height + gap) / (Math.min(SMALLEST.height, height) + gap)));
  return Math.min(MOST, columns * rows);
}

// grid finds the number of columns with the largest total picture for count tiles in
// width × height. It returns one rectangle per tile; the last row is centred. Tiles may
// be as narrow as 4:3, or upright if the space itself is upright.
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

// beside is the space that spotlight leaves for the other tiles.
export function beside({ width, height, gap }) {
  if (width > height) {
    const side = Math.min(width * 0.28, Math.max(width * 0.18, 150));
    return { x: width - side, y: 0, width: side, height, gap };
  }
  const side = Math.min(height * 0.4, Math.max(height * 0.22, 110));
  return { x: 0, y: height - side, width, height: side, gap };
}

// spotlight gives one tile most of the space. It puts the others in a grid beside it, or
// below it if the space is upright. The first rectangle is the large one.
export function spotlight(others, space) {
  const { width, height, gap } = space;
  if (others === 0) return [{ x: 0, y: 0, width, height }];
  const rest = beside(space);
  const large = width > height ? { x: 0, y: 0, width: rest.x - gap, height } : { x: 0, y: 0, width, height: rest.y - gap };
  return [large, ...grid(others, rest)];
}
