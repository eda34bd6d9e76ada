// Masks from the server: decoding and outlines.
import type { Mask } from "./api";
import { contour, type Field } from "./contour";

const scratch = document.createElement("canvas");
const context = scratch.getContext("2d", { willReadFrequently: true }) as CanvasRenderingContext2D;

async function decode(mask: Mask): Promise<Field> {
  const bytes = Uint8Array.from(atob(mask.png), (letter) => letter.charCodeAt(0));
  const bitmap = await createImageBitmap(new Blob([bytes], { type: "image/png" }), { colorSpaceConversion: "none" });
  const { width: cols, height: rows } = bitmap;
  if (scratch.width < cols || scratch.height < rows) {
    scratch.width = Math.max(scratch.width, cols);
    scratch.height = Math.max(scratch.height, rows);
  }
  context.clearRect(0, 0, cols, rows);
  context.drawImage(bitmap, 0, 0);
  bitmap.close();
  const colors = context.getImageData(0, 0, cols, rows).data;
  const values = new Uint8Array(cols * rows);
  for (let i = 0; i < values.length; i++) values[i] = colors[4 * i] as number;
  return { values, cols, rows, row: mask.row, col: mask.col, height: mask.height, width: mask.width };
}

/** Mask with a cached outline, traced again only when the threshold changes. */
export class DrawnMask {
  private path: Path2D | null = null;
  private threshold = -1;

  private constructor(readonly field: Field) {}

  static async from(mask: Mask): Promise<DrawnMask> {
    return new DrawnMask(await decode(mask));
  }

  outline(threshold: number): Path2D {
    if (this.path === null || this.threshold !== threshold) {
      this.path = contour(this.field, threshold);
      this.threshold = threshold;
    }
    return this.path;
  }
}
