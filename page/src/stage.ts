// The two canvases: the picture below, redrawn when the view moves; masks, clicks and the drag above, redrawn when anything does.
import { loadImage, type Class, type Click, type Picture, type SegmentedObject, type UsedClick } from "./api";
import { byId } from "./dom";
import type { DrawnMask } from "./mask";
import { View } from "./view";

const LEVELS = [2048, 4096, 8192]; // longer side of what is asked for, in pixels
const SMOOTH_BELOW = 4; // device pixels a picture's pixel; from here on each pixel is a square
const POSITIVE = "#12b886";
const NEGATIVE = "#f0484e";

/** What is drawn above the picture. */
export interface Scene {
  objects: SegmentedObject[];
  edits: number | null;
  highlight: number | null;
  clicks: UsedClick[];
  mask: DrawnMask | null;
  drag: (Click & { shown: number | null }) | null; // shown: the radius that is drawn
  cursor: { row: number; col: number; radius: number } | null;
  threshold: number;
  opacity: number;
  hidden: boolean;
  color: string;
  classes: Class[];
}

export class Stage {
  readonly view = new View();
  private readonly box = byId("stage");
  private readonly below = byId<HTMLCanvasElement>("picture");
  private readonly above = byId<HTMLCanvasElement>("overlay");
  private image: ImageBitmap | null = null;
  private level = 0;
  private picture: Picture | null = null;
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
      if (this.stale.below) this.drawPicture();
      if (this.stale.above) this.drawScene();
      this.stale = { below: false, above: false };
      requestAnimationFrame(frame);
    };
    requestAnimationFrame(frame);
  }

  /** Show a picture; resolves when it can be seen. */
  async open(picture: Picture): Promise<void> {
    this.loading?.abort();
    this.picture = picture;
    this.image?.close();
    this.image = null;
    this.level = 0;
    this.view.setPicture(picture.width, picture.height);
    this.change();
    await this.load();
  }

  /** The view has moved. */
  change(): void {
    this.stale = { below: true, above: true };
    this.moved(this.view);
    const longer = Math.max(this.picture?.width ?? 0, this.picture?.height ?? 0);
    const shown = LEVELS[this.level] as number;
    if (this.image !== null && this.level + 1 < LEVELS.length && longer > shown && this.view.scale * devicePixelRatio * longer > shown * 1.3) {
      this.level++;
      void this.load().catch(() => this.level--);
    }
  }

  /** Something on the picture has changed. */
  repaint(): void {
    this.stale.above = true;
  }

  private async load(): Promise<void> {
    if (this.picture === null) return;
    this.loading?.abort();
    this.loading = new AbortController();
    const { signal } = this.loading;
    const image = await loadImage(this.picture.id, LEVELS[this.level] as number, signal);
    if (signal.aborted) return image.close();
    this.image?.close();
    this.image = image;
    this.change();
  }

  private resize(): void {
    const { width, height } = this.box.getBoundingClientRect();
    for (const canvas of [this.below, this.above]) {
      canvas.width = Math.round(width * devicePixelRatio);
      canvas.height = Math.round(height * devicePixelRatio);
    }
    const narrow = width < 700;
    this.view.setStage(width, height, narrow ? { top: 64, right: 12, bottom: 20, left: 12 } : { top: 72, right: 40, bottom: 104, left: 40 });
    this.stale = { below: true, above: true };
    this.moved(this.view);
  }

  private drawPicture(): void {
    const context = this.below.getContext("2d") as CanvasRenderingContext2D;
    context.resetTransform();
    context.clearRect(0, 0, this.below.width, this.below.height);
    if (this.image === null || this.picture === null) return;
    const { scale, x, y } = this.view;
    this.below.dataset["view"] = JSON.stringify({ scale, x, y });
    context.setTransform(devicePixelRatio, 0, 0, devicePixelRatio, 0, 0);
    context.imageSmoothingEnabled = scale * devicePixelRatio < SMOOTH_BELOW;
    context.imageSmoothingQuality = "high";
    context.drawImage(this.image, x, y, scale * this.picture.width, scale * this.picture.height);
  }

  private drawScene(): void {
    const context = this.above.getContext("2d") as CanvasRenderingContext2D;
    const scene = this.scene();
    context.resetTransform();
    context.clearRect(0, 0, this.above.width, this.above.height);
    if (this.picture === null || scene.hidden) return;
    const { scale, x, y } = this.view;
    const dpr = devicePixelRatio;
    context.setTransform(dpr * scale, 0, 0, dpr * scale, dpr * x, dpr * y);
    context.lineJoin = "round";
    for (const object of scene.objects) {
      if (object.id === scene.edits) continue;
      const color = scene.classes.find((one) => one.id === object.class_id)?.color ?? "#888888";
      const strong = object.id === scene.highlight;
      this.drawRegion(context, this.outline(object), color, scene.opacity * (strong ? 1 : 0.75), strong ? 2.6 : 1.4);
    }
    if (scene.mask !== null) this.drawRegion(context, scene.mask.outline(scene.threshold), scene.color, scene.opacity, 2.2);
    context.setTransform(dpr, 0, 0, dpr, 0, 0);
    scene.clicks.forEach((click, index) => this.drawClick(context, click, click.radius, !click.given, index === scene.clicks.length - 1 && !scene.drag));
    if (scene.drag !== null) this.drawClick(context, scene.drag, scene.drag.shown, scene.drag.radius === null, true);
    if (scene.cursor !== null) this.drawCursor(context, scene.cursor);
  }

  private drawRegion(context: CanvasRenderingContext2D, path: Path2D, color: string, opacity: number, width: number): void {
    const { scale } = this.view;
    context.globalAlpha = opacity;
    context.fillStyle = color;
    context.fill(path, "evenodd");
    context.globalAlpha = 0.45;
    context.strokeStyle = "#000";
    context.lineWidth = (width + 1.6) / scale;
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
