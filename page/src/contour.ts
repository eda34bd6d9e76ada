// Outline of the pixels above a threshold in a map of probabilities.

/** Probabilities (0..255) of a region of the image: `cols` x `rows` samples over `width` x `height` pixels from (`row`, `col`). */
export interface Field {
  values: Uint8Array;
  cols: number;
  rows: number;
  row: number;
  col: number;
  height: number;
  width: number;
}

/**
 * Trace the closed outlines at `threshold` (0..1) by marching squares, in pixels of the image; fill them by the rule "evenodd".
 *
 * Each cell lies between four samples; a ring of zeros around the region closes every outline. Each crossing of a cell's side has one
 * successor, stored in `next`: following the successors draws the outline without a search.
 */
export function contour(field: Field, threshold: number): Path2D {
  const { values, cols, rows } = field;
  const level = Math.max(threshold * 255, 0.5);
  const across = cols + 1; // cells per row
  const at = (r: number, c: number): number => (r < 0 || c < 0 || r >= rows || c >= cols ? 0 : (values[r * cols + c] as number));
  // Side ids: 2 * (row of the sample + 1, column of the sample + 1), even: to the right neighbor, odd: to the one below.
  const side = (r: number, c: number, down: 0 | 1): number => 2 * ((r + 1) * (across + 1) + c + 1) + down;
  const next = new Int32Array(2 * (rows + 2) * (across + 1)).fill(-1);
  const starts: number[] = [];
  for (let r = -1; r < rows; r++) {
    let tl = 0;
    let bl = 0;
    for (let c = -1; c < cols; c++) {
      const tr = at(r, c + 1);
      const br = at(r + 1, c + 1);
      const kind = (tl > level ? 8 : 0) | (tr > level ? 4 : 0) | (br > level ? 2 : 0) | (bl > level ? 1 : 0);
      if (kind !== 0 && kind !== 15) {
        const top = side(r, c, 0);
        const bottom = side(r + 1, c, 0);
        const left = side(r, c, 1);
        const right = side(r, c + 1, 1);
        const join = (from: number, to: number): void => {
          next[from] = to;
          starts.push(from);
        };
        const saddleInside = (tl + tr + bl + br) / 4 > level;
        switch (kind) { // with the object on the right
          case 1: join(bottom, left); break;
          case 2: join(right, bottom); break;
          case 3: join(right, left); break;
          case 4: join(top, right); break;
          case 5: if (saddleInside) { join(top, left); join(bottom, right); } else { join(top, right); join(bottom, left); } break;
          case 6: join(top, bottom); break;
          case 7: join(top, left); break;
          case 8: join(left, top); break;
          case 9: join(bottom, top); break;
          case 10: if (saddleInside) { join(right, top); join(left, bottom); } else { join(left, top); join(right, bottom); } break;
          case 11: join(right, top); break;
          case 12: join(left, right); break;
          case 13: join(bottom, right); break;
          case 14: join(left, bottom); break;
        }
      }
      tl = tr;
      bl = br;
    }
  }
  const path = new Path2D();
  const [stepX, stepY] = [field.width / cols, field.height / rows];
  const move = (id: number, first: boolean): void => {
    const down = id & 1;
    const sample = id >> 1;
    const r = Math.floor(sample / (across + 1)) - 1;
    const c = (sample % (across + 1)) - 1;
    const a = at(r, c);
    const b = down ? at(r + 1, c) : at(r, c + 1);
    const share = (level - a) / (b - a);
    const x = field.col + Math.min(Math.max(c + 0.5 + (down ? 0 : share), 0), cols) * stepX;
    const y = field.row + Math.min(Math.max(r + 0.5 + (down ? share : 0), 0), rows) * stepY;
    if (first) path.moveTo(x, y);
    else path.lineTo(x, y);
  };
  for (const start of starts) {
    if (next[start] === -1) continue;
    let id = start;
    let first = true;
    while (next[id] !== -1) {
      move(id, first);
      first = false;
      const to = next[id] as number;
      next[id] = -1;
      id = to;
    }
    path.closePath();
  }
  return path;
}

/** Approximate number of image pixels above `threshold` (0..1). */
export function area(field: Field, threshold: number): number {
  let above = 0;
  const level = threshold * 255;
  for (const value of field.values) if (value > level) above++;
  return above * (field.width / field.cols) * (field.height / field.rows);
}
