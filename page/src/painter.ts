// The tools for the last pixels: a round brush and a lasso. A stroke is drawn here at once, and is a step of the log when it ends.
import type { Paint } from "./api";
import type { Session } from "./session";

export type Tool = "drag" | "brush" | "lasso";

/** What is being drawn: [row, col, radius] of a brush, [row, col] of a lasso. */
export interface Stroke {
  kind: "brush" | "lasso";
  positive: boolean;
  points: number[][];
}

interface Place {
  row: number;
  col: number;
}

const MOST_POINTS = 4500; // the server takes 5,000
const LEAST_RADIUS = 0.75; // pixels; always holds one
const LIGHTEST = 0.25; // share of the radius under a pen that hardly touches

export class Painter {
  tool: Tool = "drag";
  radius = 0; // pixels of the image; 0 until there is one
  stroke: Stroke | null = null;
  hovered: Place | null = null;
  /** Strokes that have been let go and are not in the mask yet. */
  readonly waiting = new Set<Stroke>();

  constructor(private readonly session: Session) {}

  choose(tool: Tool): void {
    this.cancel();
    this.tool = tool;
    this.hovered = null;
  }

  /** A size for an image that has none yet. */
  fit(width: number, height: number): void {
    if (this.radius === 0) this.radius = Math.max(2, Math.min(width, height) / 60);
  }

  resize(factor: number, largest: number): void {
    this.radius = Math.min(Math.max(this.radius * factor, LEAST_RADIUS), largest);
  }

  /** Press: whether a stroke may begin here. `pressure` is null without a pen. */
  begin(place: Place, positive: boolean, pressure: number | null): boolean {
    if (this.tool === "drag" || !this.session.mayPaint(positive)) return false;
    this.stroke = { kind: this.tool, positive, points: [] };
    this.add(place, pressure);
    return true;
  }

  /** Go on; `pixel` is the size of one of the screen's in pixels of the image. */
  move(place: Place, pressure: number | null, pixel: number): void {
    this.hovered = place;
    const last = this.stroke?.points.at(-1) as [number, number, number?] | undefined;
    if (this.stroke === null || last === undefined) return;
    const apart = this.stroke.kind === "lasso" ? 2 * pixel : Math.max(0.7 * pixel, (last[2] as number) / 8);
    if (Math.hypot(place.row - last[0], place.col - last[1]) < apart) return;
    if (this.stroke.points.length >= MOST_POINTS) {
      if (this.stroke.kind === "lasso") return;
      const { positive } = this.stroke;
      this.end(); // a very long stroke is two
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
    const share = pressure === null ? 1 : LIGHTEST + (1 - LIGHTEST) * pressure;
    const at = [round(row), round(col)];
    this.stroke?.points.push(this.stroke.kind === "lasso" ? at : [...at, round(Math.max(this.radius * share, LEAST_RADIUS))]);
  }
}
