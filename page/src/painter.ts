// Tools for manual editing: round brush, lasso, and a drag limited to a circle. A stroke is drawn immediately and sent when it ends.
import type { Paint } from "./api";
import type { Session } from "./session";

export type Tool = "drag" | "local" | "brush" | "lasso";

/** Stroke in progress: [row, col, radius] for a brush, [row, col] for a lasso. */
export interface Stroke {
  kind: "brush" | "lasso";
  positive: boolean;
  points: number[][];
}

interface Place {
  row: number;
  col: number;
}

const MAX_POINTS = 4500; // the server accepts 5,000
const MIN_RADIUS = 0.75; // pixels; a brush of this radius always covers a pixel
const MIN_PRESSURE_SHARE = 0.25; // fraction of the radius at the lowest pen pressure

export class Painter {
  tool: Tool = "drag";
  /** Radius of the brush and of a local drag's circle, in pixels of the image; 0 before the first image. */
  private readonly sizes = { brush: 0, local: 0 };
  stroke: Stroke | null = null;
  hovered: Place | null = null;
  /** Finished strokes that are not in the mask yet. */
  readonly waiting = new Set<Stroke>();

  constructor(private readonly session: Session) {}

  /** Whether the tool draws strokes. */
  get paints(): boolean {
    return this.tool === "brush" || this.tool === "lasso";
  }

  /** Radius of the tool, or null for a tool without one. */
  get radius(): number | null {
    return this.tool === "brush" || this.tool === "local" ? this.sizes[this.tool] : null;
  }

  set radius(radius: number) {
    if (this.tool === "brush" || this.tool === "local") this.sizes[this.tool] = radius;
  }

  choose(tool: Tool): void {
    this.cancel();
    this.tool = tool;
    this.hovered = null;
  }

  /** Choose initial sizes for the first image. */
  fit(width: number, height: number): void {
    if (this.sizes.brush === 0) this.sizes.brush = Math.max(2, Math.min(width, height) / 60);
    if (this.sizes.local === 0) this.sizes.local = Math.max(4, Math.min(width, height) / 10);
  }

  /** Largest radius of the tool in an image whose longer side is `side`. */
  largest(side: number): number {
    return side / (this.tool === "local" ? 2 : 4);
  }

  resize(factor: number, side: number): void {
    if (this.radius !== null) this.radius = Math.min(Math.max(this.radius * factor, MIN_RADIUS), this.largest(side));
  }

  /** Begin a stroke; false if none may begin here. `pressure` is null without a pen. */
  begin(place: Place, positive: boolean, pressure: number | null): boolean {
    if ((this.tool !== "brush" && this.tool !== "lasso") || !this.session.mayPaint(positive)) return false;
    this.stroke = { kind: this.tool, positive, points: [] };
    this.add(place, pressure);
    return true;
  }

  /** Extend the stroke; `pixel` is the size of a screen pixel in pixels of the image. */
  move(place: Place, pressure: number | null, pixel: number): void {
    this.hovered = place;
    const last = this.stroke?.points.at(-1) as [number, number, number?] | undefined;
    if (this.stroke === null || last === undefined) return;
    const apart = this.stroke.kind === "lasso" ? 2 * pixel : Math.max(0.7 * pixel, (last[2] as number) / 8);
    if (Math.hypot(place.row - last[0], place.col - last[1]) < apart) return;
    if (this.stroke.points.length >= MAX_POINTS) {
      if (this.stroke.kind === "lasso") return;
      const { positive } = this.stroke;
      this.end(); // split a very long stroke
      this.begin({ row: last[0], col: last[1] }, positive, pressure);
    }
    this.add(place, pressure);
  }

  end(): void {
    const { stroke } = this;
    this.stroke = null;
    if (stroke === null || (stroke.kind === "lasso" && stroke.points.length < 3)) return;
    this.waiting.add(stroke);
    void this.session.paint(stroke satisfies Paint).finally(() => {
      this.waiting.delete(stroke);
      this.session.repaint();
    });
  }

  cancel(): void {
    this.stroke = null;
  }

  private add({ row, col }: Place, pressure: number | null): void {
    const round = (value: number): number => Math.round(value * 100) / 100;
    const share = pressure === null ? 1 : MIN_PRESSURE_SHARE + (1 - MIN_PRESSURE_SHARE) * pressure;
    const at = [round(row), round(col)];
    this.stroke?.points.push(this.stroke.kind === "lasso" ? at : [...at, round(Math.max(this.sizes.brush * share, MIN_RADIUS))]);
  }
}
