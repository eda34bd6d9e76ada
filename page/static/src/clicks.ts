// Radii of clicks without a drag, and the pixels that clicks mark. The rules are those of the Python package:
// src/dct_seg/methods/correction_radius.py and MarkClicksStep in src/dct_seg/methods/postprocessing.py.

/** Click in pixels of the network's input; radius is null for a click without a drag. */
export interface Click {
  row: number;
  col: number;
  positive: boolean;
  radius: number | null;
  predicted: boolean; // whether the radius is not the user's
}

/** Probabilities of an image, row by row. */
export interface Probabilities {
  height: number;
  width: number;
  values: Float32Array;
}

const ROOM_SHARE = 0.9;
const GAP_SHARE = 0.5;
const MARKED_SHARE = 0.75;
const MARKED_CONFIDENCE = 0.75;
const SHORTENED = 1 - 5e-7; // on the square of a radius: a drag ends at the first pixel outside
const REMOVED = 1e-6;

/** Radius of a correction: most of the distance to the nearest pixel with the click's label, or to the border; null if the mask does not tell it. */
export function correctionRadius(click: Click, { height, width, values }: Probabilities): number | null {
  const clamp = (at: number, size: number): number => Math.min(Math.max(Math.floor(at + 0.5), 0), size - 1);
  const [row, col] = [clamp(click.row, height), clamp(click.col, width)];
  let nearest = Infinity;
  for (let y = 0, i = 0; y < height; y++) {
    for (let x = 0; x < width; x++, i++) {
      if (values[i]! > 0.5 === click.positive) nearest = Math.min(nearest, (y - row) ** 2 + (x - col) ** 2);
    }
  }
  if (nearest === 0 || nearest === Infinity) return null;
  return ROOM_SHARE * Math.min(Math.sqrt(nearest), row + 1, col + 1, height - row, width - col);
}

/** Shorten predicted radii whose circles come too near to a click with the other label. */
export function shortenPredictedRadii(clicks: Click[]): Click[] {
  return clicks.map((click) => {
    if (click.radius === null || !click.predicted) return click;
    const gaps = clicks
      .filter(({ positive }) => positive !== click.positive)
      .map(({ row, col }) => GAP_SHARE * Math.hypot(row - click.row, col - click.col));
    return { ...click, radius: Math.min(click.radius, ...gaps) };
  });
}

/** Give the inside of each drag, and the pixel under each click, the label of their click. */
export function markClicks(probabilities: Probabilities, clicks: Click[]): void {
  const { values } = probabilities;
  const circles = clicks.map((click) => ({ ...click, radius: click.predicted ? 0 : (click.radius ?? 0) }));
  const centers = circles.map((click) => ({ ...click, radius: MARKED_SHARE * click.radius }));
  const center = labelsInside(probabilities, centers);
  for (const [i, label] of labelsInside(probabilities, circles)) {
    const certain = center.get(i) ?? null;
    const isOpen = label ? values[i]! > 1 - MARKED_CONFIDENCE : values[i]! < MARKED_CONFIDENCE;
    if (certain === null ? !isOpen : certain !== label) continue;
    values[i] = label ? 1 : Math.min(values[i]!, REMOVED);
  }
  for (const [i, label] of center) values[i] = label ? 1 : Math.min(values[i]!, REMOVED);
}

/** Label of each pixel inside a circle, by its index; where circles overlap, the nearest click decides. */
function labelsInside({ height, width }: Probabilities, circles: { row: number; col: number; positive: boolean; radius: number }[]): Map<number, boolean> {
  const labels = new Map<number, boolean>();
  const nearest = new Map<number, number>();
  for (const { row, col, positive, radius } of circles) {
    const [middle, across] = [Math.floor(row + 0.5), Math.floor(col + 0.5)];
    const reach = Math.ceil(radius) + 1;
    for (let y = Math.max(middle - reach, 0); y <= Math.min(middle + reach, height - 1); y++) {
      for (let x = Math.max(across - reach, 0); x <= Math.min(across + reach, width - 1); x++) {
        const squared = (y - row) ** 2 + (x - col) ** 2;
        const isInside = squared < radius ** 2 * SHORTENED || (y === middle && x === across);
        const i = y * width + x;
        if (!isInside || squared > (nearest.get(i) ?? Infinity)) continue;
        labels.set(i, positive);
        nearest.set(i, squared);
      }
    }
  }
  return labels;
}
