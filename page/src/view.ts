// Position of the image on the stage: CSS pixel = offset + scale * pixel of the image.

export interface Point {
  x: number;
  y: number;
}

const MAX_SCALE = 40; // CSS pixels per pixel of the image

export class View {
  scale = 1;
  x = 0;
  y = 0;
  fitted = true;
  private stage = { width: 1, height: 1 };
  private image = { width: 1, height: 1 };
  private margins = { top: 0, right: 0, bottom: 0, left: 0 };

  setStage(width: number, height: number, margins: View["margins"]): void {
    this.stage = { width, height };
    this.margins = margins;
    if (this.fitted) this.fit();
    else this.confine();
  }

  setImage(width: number, height: number): void {
    this.image = { width, height };
    this.fit();
  }

  /** Show the whole image, as large as fits between the margins. */
  fit(): void {
    const { width, height } = this.room();
    this.scale = this.fitScale();
    this.x = this.margins.left + (width - this.scale * this.image.width) / 2;
    this.y = this.margins.top + (height - this.scale * this.image.height) / 2;
    this.fitted = true;
  }

  /** Multiply the scale, and keep the pixel under `at` in place. */
  zoom(factor: number, at: Point = { x: this.stage.width / 2, y: this.stage.height / 2 }): void {
    const scale = Math.min(Math.max(this.scale * factor, this.fitScale() * 0.5), Math.max(MAX_SCALE, this.fitScale()));
    this.x = at.x - ((at.x - this.x) * scale) / this.scale;
    this.y = at.y - ((at.y - this.y) * scale) / this.scale;
    this.scale = scale;
    this.fitted = false;
    this.confine();
  }

  pan(dx: number, dy: number): void {
    this.x += dx;
    this.y += dy;
    this.fitted = false;
    this.confine();
  }

  /** Convert a point of the stage to a pixel; a whole number is a pixel's center. */
  toImage(at: Point): { row: number; col: number } {
    return { row: (at.y - this.y) / this.scale - 0.5, col: (at.x - this.x) / this.scale - 0.5 };
  }

  toStage(row: number, col: number): Point {
    return { x: this.x + (col + 0.5) * this.scale, y: this.y + (row + 0.5) * this.scale };
  }

  contains({ row, col }: { row: number; col: number }): boolean {
    return row >= -0.5 && col >= -0.5 && row < this.image.height - 0.5 && col < this.image.width - 0.5;
  }

  private room(): { width: number; height: number } {
    const { top, right, bottom, left } = this.margins;
    return { width: Math.max(this.stage.width - left - right, 40), height: Math.max(this.stage.height - top - bottom, 40) };
  }

  private fitScale(): number {
    const { width, height } = this.room();
    return Math.min(width / this.image.width, height / this.image.height, MAX_SCALE);
  }

  /** Keep a part of the image visible. */
  private confine(): void {
    const keep = 60;
    this.x = Math.min(Math.max(this.x, keep - this.scale * this.image.width), this.stage.width - keep);
    this.y = Math.min(Math.max(this.y, keep - this.scale * this.image.height), this.stage.height - keep);
  }
}
