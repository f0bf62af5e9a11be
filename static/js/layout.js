// Where the tiles go: pure arithmetic, so that any number of people fits the
// window without scrolling.

const WIDEST = 16 / 9;

// A tile smaller than this shows a person badly: then the rest goes to further pages.
const SMALLEST = { width: 180, height: 112 };
const MOST = 25;

// capacity is how many tiles one page has room for, at least one.
export function capacity({ width, height, gap }) {
  // Of a narrow space a person still wants to see two side by side.
  const least = Math.min(SMALLEST.width, (width - gap) / 2);
  const columns = Math.max(1, Math.floor((width + gap) / (least + gap)));
  const rows = Math.max(1, Math.floor((height + gap) / (Math.min(SMALLEST.height, height) + gap)));
  return Math.min(MOST, columns * rows);
}

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

// beside is the space that spotlight leaves for the others.
export function beside({ width, height, gap }) {
  if (width > height) {
    const side = Math.min(width * 0.28, Math.max(width * 0.18, 150));
    return { x: width - side, y: 0, width: side, height, gap };
  }
  const side = Math.min(height * 0.4, Math.max(height * 0.22, 110));
  return { x: 0, y: height - side, width, height: side, gap };
}

// spotlight gives one tile most of the space and puts the others in a grid
// beside it, or below it where the space is upright. The first rectangle is the
// large one's.
export function spotlight(others, space) {
  const { width, height, gap } = space;
  if (others === 0) return [{ x: 0, y: 0, width, height }];
  const rest = beside(space);
  const large = width > height ? { x: 0, y: 0, width: rest.x - gap, height } : { x: 0, y: 0, width, height: rest.y - gap };
  return [large, ...grid(others, rest)];
}
