// Canvases of the stage: the image at the bottom, redrawn when the view moves; masks, clicks and the drag on top, redrawn on any change.
import { loadImage, type AnnotatedImage, type Class, type Click, type SegmentedObject, type UsedClick } from "./api";
import { byId } from "./dom";
import type { DrawnMask } from "./mask";
import type { Stroke } from "./painter";
import { PALETTE } from "./session";
import { View } from "./view";

const NARROW = matchMedia("(width < 900px)"); // as in style.css
const LEVELS = [2048, 4096, 8192]; // longer side of a requested image, in pixels
const SMOOTH_BELOW = 4; // device pixels per pixel of the image; from this scale on, each pixel is drawn as a square
const POSITIVE = "#12b886";
const NEGATIVE = "#f0484e";

interface Circle {
  row: number;
  col: number;
  radius: number;
}

/** Everything drawn on top of the image. */
export interface Scene {
  objects: SegmentedObject[];
  edits: number | null;
  highlight: number | null;
  clicks: UsedClick[];
  mask: DrawnMask | null;
  /** During a drag limited to a circle: the mask outside it, which stays. */
  outside: { mask: DrawnMask | null; circle: Circle } | null;
  drag: (Click & { shown: number | null }) | null; // shown: the drawn radius
  cursor: { row: number; col: number; radius: number } | null;
  selected: ReadonlySet<number>;
  box: { row: number; col: number; height: number; width: number } | null;
  strokes: Stroke[];
  /** Circle of the brush, or the circle to which a drag is limited. */
  ring: Circle | null;
  threshold: number;
  opacity: number;
  hidden: boolean;
  apart: boolean;
  color: string;
  classes: Class[];
}

export class Stage {
  readonly view = new View();
  private readonly box = byId("stage");
  private readonly below = byId<HTMLCanvasElement>("image");
  private readonly middle = byId<HTMLCanvasElement>("finished"); // redrawn only when the objects or the view change
  private readonly above = byId<HTMLCanvasElement>("overlay");
  private readonly scratch = document.createElement("canvas");
  private drawn: unknown[] = [];
  private bitmap: ImageBitmap | null = null;
  private level = 0;
  private image: AnnotatedImage | null = null;
  private loading: AbortController | null = null;
  private readonly outlines = new WeakMap<SegmentedObject, Path2D>();
  private stale = { below: true, above: true };

  constructor(
    private readonly scene: () => Scene,
    private readonly moved: (view: View) => void,
  ) {
    new ResizeObserver(() => this.resize()).observe(this.box);
    matchMedia(`(resolution: ${devicePixelRatio}dppx)`).addEventListener("change", () => this.resize());
    this.resize();
    const frame = (): void => {
      if (this.stale.below) this.drawImage();
      if (this.stale.above || this.stale.below) this.drawScene();
      this.stale = { below: false, above: false };
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  /** Show an image; resolves when it is visible. */
  async open(image: AnnotatedImage): Promise<void> {
    this.loading?.abort();
    this.image = image;
    this.bitmap?.close();
    this.bitmap = null;
    this.level = 0;
    this.view.setImage(image.width, image.height);
    this.change();
    await this.load();
  }

  /** Redraw after the view has moved. */
  change(): void {
    this.stale = { below: true, above: true };
    this.moved(this.view);
    const longer = Math.max(this.image?.width ?? 0, this.image?.height ?? 0);
    const shown = LEVELS[this.level] as number;
    if (this.bitmap !== null && this.level + 1 < LEVELS.length && longer > shown && this.view.scale * devicePixelRatio * longer > shown * 1.3) {
      const level = ++this.level;
      void this.load().catch((error: unknown) => {
        const aborted = error instanceof DOMException && error.name === "AbortError"; // another level or image is loading
        if (!aborted && this.level === level) this.level--;
      });
    }
  }

  /** Redraw what is on top of the image. */
  repaint(): void {
    this.stale.above = true;
  }

  private async load(): Promise<void> {
    if (this.image === null) return;
    this.loading?.abort();
    this.loading = new AbortController();
    const { signal } = this.loading;
    const bitmap = await loadImage(this.image.id, LEVELS[this.level] as number, signal);
    if (signal.aborted) return bitmap.close();
    this.bitmap?.close();
    this.bitmap = bitmap;
    this.change();
  }

  private resize(): void {
    const { width, height } = this.box.getBoundingClientRect();
    this.drawn = [];
    for (const canvas of [this.below, this.middle, this.above, this.scratch]) {
      canvas.width = Math.round(width * devicePixelRatio);
      canvas.height = Math.round(height * devicePixelRatio);
    }
    const narrow = NARROW.matches; // the tools are below the stage, not over it
    this.view.setStage(width, height, narrow ? { top: 64, right: 12, bottom: 20, left: 12 } : { top: 72, right: 40, bottom: 104, left: 40 });
    this.stale = { below: true, above: true };
    this.moved(this.view);
  }

  private drawImage(): void {
    const context = this.below.getContext("2d") as CanvasRenderingContext2D;
    context.resetTransform();
    context.clearRect(0, 0, this.below.width, this.below.height);
    if (this.bitmap === null || this.image === null) return;
    const { scale, x, y } = this.view;
    this.below.dataset["view"] = JSON.stringify({ scale, x, y });
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.imageSmoothingEnabled = scale * devicePixelRatio < SMOOTH_BELOW;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.bitmap, x, y, scale * this.image.width, scale * this.image.height);
  }

  private drawScene(): void {
    const context = this.above.getContext("2d") as CanvasRenderingContext2D;
    const scene = this.scene();
    this.drawObjects(scene);
    context.resetTransform();
    context.clearRect(0, 0, this.above.width, this.above.height);
    if (this.image === null || scene.hidden) return;
    const { scale, x, y } = this.view;
    const dpr = devicePixelRatio;
    context.setTransform(dpr * scale, 0, 0, dpr * scale, dpr * x, dpr * y);
    context.lineJoin = "round";
    this.drawMask(context, scene);
    context.setTransform(dpr, 0, 0, dpr, 0, 0);
    scene.clicks.forEach((click, index) => this.drawClick(context, click, click.radius, !click.given, index === scene.clicks.length - 1 && !scene.drag));
    if (scene.drag !== null) this.drawClick(context, scene.drag, scene.drag.shown, scene.drag.radius === null, true);
    for (const stroke of scene.strokes) this.drawStroke(context, stroke, scene.color);
    if (scene.box !== null) this.drawBox(context, scene.box);
    if (scene.ring !== null) this.drawRing(context, scene.ring);
    if (scene.cursor !== null) this.drawCursor(context, scene.cursor);
  }

  /** Draw the current mask; during a local drag, the new one inside the circle and the old one outside. */
  private drawMask(context: CanvasRenderingContext2D, scene: Scene): void {
    const draw = (mask: DrawnMask | null): void => {
      if (mask !== null) this.drawRegion(context, mask.outline(scene.threshold), scene.color, scene.opacity, 2.2);
    };
    if (scene.outside === null || this.image === null) return draw(scene.mask);
    const { row, col, radius } = scene.outside.circle;
    for (const [mask, outside] of [[scene.outside.mask, true], [scene.mask, false]] as const) {
      const shown = new Path2D();
      if (outside) shown.rect(0, 0, this.image.width, this.image.height);
      shown.arc(col + 0.5, row + 0.5, radius, 0, 2 * Math.PI);
      context.save();
      context.clip(shown, "evenodd");
      draw(mask);
      context.restore();
    }
  }

  /** Draw the finished objects on a separate canvas, so that a drag costs the same with one object or a thousand. */
  private drawObjects(scene: Scene): void {
    const { scale, x, y } = this.view;
    const shown = [this.image, scene.objects, scene.edits, scene.highlight, scene.selected, scene.opacity, scene.hidden, scene.apart, scene.classes, scale, x, y];
    if (shown.every((value, index) => value === this.drawn[index]) && this.drawn.length > 0) return;
    this.drawn = shown;
    const context = this.middle.getContext("2d") as CanvasRenderingContext2D;
    context.resetTransform();
    context.clearRect(0, 0, this.middle.width, this.middle.height);
    if (this.image === null || scene.hidden) return;
    const dpr = devicePixelRatio;
    context.setTransform(dpr * scale, 0, 0, dpr * scale, dpr * x, dpr * y);
    context.lineJoin = "round";
    const colors = new Map(scene.classes.map((one) => [one.id, one.color]));
    const [left, top, right, bottom] = [-x / scale, -y / scale, (this.middle.width / dpr - x) / scale, (this.middle.height / dpr - y) / scale];
    for (const object of scene.objects) {
      const [row, col, height, width] = object.bbox;
      if (object.id === scene.edits || row > bottom || col > right || row + height < top || col + width < left) continue;
      const selected = scene.selected.has(object.id);
      const strong = selected || object.id === scene.highlight;
      const color = scene.apart ? PALETTE[object.id % PALETTE.length] : colors.get(object.class_id);
      this.drawRegion(context, this.outline(object), color ?? "#888888", scene.opacity * (strong ? 1 : 0.75), strong ? 2.6 : 1.4, selected);
    }
  }

  /** Find the finished object at a position, the smallest if there are several. */
  objectAt({ row, col }: { row: number; col: number }): number | null {
    const context = this.scratch.getContext("2d") as CanvasRenderingContext2D;
    context.resetTransform(); // a transform would move the outlines, but not the point
    const { objects, hidden } = this.scene();
    const inside = hidden ? [] : objects.filter((one) => {
      const [top, left, height, width] = one.bbox;
      return row > top - 1 && col > left - 1 && row < top + height && col < left + width && context.isPointInPath(this.outline(one), col + 0.5, row + 0.5, "evenodd");
    });
    return inside.sort((a, b) => a.area - b.area)[0]?.id ?? null;
  }

  /** Draw a stroke that is not in the mask yet: opaque on a separate canvas, so that it is not darker where it crosses itself. */
  private drawStroke(context: CanvasRenderingContext2D, stroke: Stroke, color: string): void {
    const { scale, x, y } = this.view;
    const dpr = devicePixelRatio;
    const ink = this.scratch.getContext("2d") as CanvasRenderingContext2D;
    ink.resetTransform();
    ink.clearRect(0, 0, this.scratch.width, this.scratch.height);
    ink.setTransform(dpr * scale, 0, 0, dpr * scale, dpr * x, dpr * y);
    ink.lineCap = ink.lineJoin = "round";
    ink.strokeStyle = ink.fillStyle = stroke.positive ? color : NEGATIVE;
    ink.beginPath();
    if (stroke.kind === "lasso") {
      for (const [row, col] of stroke.points as [number, number][]) ink.lineTo(col + 0.5, row + 0.5);
      ink.fill("evenodd");
    }
    stroke.points.forEach(([row, col, radius], index) => {
      if (stroke.kind === "lasso") return;
      const [fromRow, fromCol] = stroke.points[Math.max(index - 1, 0)] as [number, number];
      ink.lineWidth = 2 * (radius as number);
      ink.beginPath();
      ink.moveTo(fromCol + 0.5, fromRow + 0.5);
      ink.lineTo((col as number) + 0.5, (row as number) + 0.5);
      ink.stroke();
    });
    context.globalAlpha = 0.45;
    context.drawImage(this.scratch, 0, 0, this.scratch.width / dpr, this.scratch.height / dpr);
    context.globalAlpha = 1;
    if (stroke.kind !== "lasso") return;
    context.beginPath();
    for (const [row, col] of stroke.points as [number, number][]) {
      const at = this.view.toStage(row, col);
      context.lineTo(at.x, at.y);
    }
    context.closePath();
    this.strokeTwice(context);
  }

  private drawBox(context: CanvasRenderingContext2D, box: { row: number; col: number; height: number; width: number }): void {
    const { x, y } = this.view.toStage(box.row, box.col);
    context.beginPath();
    context.rect(x, y, box.width * this.view.scale, box.height * this.view.scale);
    this.strokeTwice(context);
  }

  private drawRing(context: CanvasRenderingContext2D, ring: Circle): void {
    const { x, y } = this.view.toStage(ring.row, ring.col);
    context.beginPath();
    context.arc(x, y, Math.max(ring.radius * this.view.scale, 1.5), 0, 2 * Math.PI);
    this.strokeTwice(context);
  }

  /** Draw a white line with a dark border, visible on any image. */
  private strokeTwice(context: CanvasRenderingContext2D): void {
    for (const [color, width] of [["rgb(0 0 0 / 50%)", 3.5], ["#fff", 1.5]] as const) {
      context.strokeStyle = color;
      context.lineWidth = width;
      context.stroke();
    }
  }

  private drawRegion(context: CanvasRenderingContext2D, path: Path2D, color: string, opacity: number, width: number, selected = false): void {
    const { scale } = this.view;
    context.globalAlpha = opacity;
    context.fillStyle = color;
    context.fill(path, "evenodd");
    context.globalAlpha = selected ? 1 : 0.45;
    context.strokeStyle = selected ? "#fff" : "#000";
    context.lineWidth = (width + (selected ? 3.2 : 1.6)) / scale;
    context.stroke(path);
    context.globalAlpha = 1;
    context.strokeStyle = color;
    context.lineWidth = width / scale;
    context.stroke(path);
  }

  private drawClick(
    context: CanvasRenderingContext2D,
    click: { row: number; col: number; positive: boolean },
    radius: number | null,
    dashed: boolean,
    latest: boolean,
  ): void {
    const { x, y } = this.view.toStage(click.row, click.col);
    const color = click.positive ? POSITIVE : NEGATIVE;
    const circle = (r: number): void => {
      context.beginPath();
      context.arc(x, y, r, 0, 2 * Math.PI);
    };
    if (radius !== null && radius > 0) {
      context.globalAlpha = latest ? 1 : 0.4;
      circle(radius * this.view.scale);
      context.setLineDash(dashed ? [7, 6] : []);
      context.strokeStyle = "rgb(0 0 0 / 40%)";
      context.lineWidth = 4;
      context.stroke();
      context.strokeStyle = "#fff";
      context.lineWidth = 2;
      context.stroke();
      context.setLineDash([]);
    }
    context.globalAlpha = latest ? 1 : 0.85;
    const size = latest ? 8 : 6.5;
    circle(size + 2);
    context.fillStyle = "#fff";
    context.fill();
    circle(size);
    context.fillStyle = color;
    context.fill();
    context.strokeStyle = "#fff";
    context.lineWidth = 2;
    context.beginPath();
    context.moveTo(x - size / 2, y);
    context.lineTo(x + size / 2, y);
    if (click.positive) {
      context.moveTo(x, y - size / 2);
      context.lineTo(x, y + size / 2);
    }
    context.stroke();
    context.globalAlpha = 1;
  }

  private drawCursor(context: CanvasRenderingContext2D, cursor: { row: number; col: number; radius: number }): void {
    const { x, y } = this.view.toStage(cursor.row, cursor.col);
    for (const [color, width] of [["rgb(0 0 0 / 50%)", 4], ["#fff", 2]] as const) {
      context.strokeStyle = color;
      context.lineWidth = width;
      context.beginPath();
      context.moveTo(x - 14, y);
      context.lineTo(x + 14, y);
      context.moveTo(x, y - 14);
      context.lineTo(x, y + 14);
      context.stroke();
      context.beginPath();
      context.arc(x, y, cursor.radius * this.view.scale, 0, 2 * Math.PI);
      context.stroke();
    }
  }

  private outline(object: SegmentedObject): Path2D {
    const known = this.outlines.get(object);
    if (known !== undefined) return known;
    const path = new Path2D();
    for (const polygon of object.polygons) {
      polygon.forEach(([col, row], index) => (index === 0 ? path.moveTo(col + 0.5, row + 0.5) : path.lineTo(col + 0.5, row + 0.5)));
      path.closePath();
    }
    this.outlines.set(object, path);
    return path;
  }
}
