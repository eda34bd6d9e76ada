// Actions of the pointer on the image: a drag, a box, a selection of finished objects, a stroke.
import type { Gestures, Press } from "./gestures";
import type { Painter } from "./painter";
import type { Session } from "./session";
import type { Stage } from "./stage";
import type { Point } from "./view";

const DOUBLE = 400; // maximum milliseconds between the two presses of a double click

export class Pointing implements Gestures {
  /** Box being dragged, or null. */
  box: { row: number; col: number; height: number; width: number } | null = null;
  private from: { row: number; col: number } | null = null;
  /** Press that may still become a drag: the finished object under it, and whether Shift was pressed. */
  private undecided: { object: number | null; shift: boolean } | null = null;
  private last = { object: 0, at: 0 };

  constructor(
    private readonly session: Session,
    private readonly painter: Painter,
    private readonly stage: () => Stage,
    private readonly begun: () => void,
  ) {}

  begin(at: Point, press: Press): boolean {
    const { session, painter } = this;
    const place = this.stage().view.toImage(at);
    this.begun();
    this.undecided = this.box = null;
    if (painter.paints) return painter.begin(place, session.positive !== (press.background || press.shift), press.pressure);
    if (!this.stage().view.contains(place)) return false;
    this.from = place;
    const positive = session.positive && !press.background;
    const object = session.image?.draft === null && positive ? this.stage().objectAt(place) : null;
    if (positive && (object !== null || press.shift)) {
      this.undecided = { object, shift: press.shift };
      return session.mayChange();
    }
    return session.press({ ...place, positive, radius: null }, painter.tool === "local" ? painter.radius : null);
  }

  move(at: Point, dragged: boolean, pressure: number | null): void {
    const { session, painter, from, undecided } = this;
    const { view } = this.stage();
    const place = view.toImage(at);
    if (painter.paints) {
      painter.move(place, pressure, 1 / view.scale);
      return session.repaint();
    }
    if (from === null) return;
    if (undecided?.shift && dragged) return this.drawBox(from, place);
    if (undecided !== null) {
      if (dragged && this.beginDrag(undecided.object, from)) this.undecided = null;
      else return;
    }
    session.pull(dragged ? Math.hypot(place.row - from.row, place.col - from.col) : null);
  }

  end(): void {
    const { session, painter, undecided } = this;
    this.undecided = null;
    if (painter.paints) {
      painter.end();
      return session.repaint();
    }
    if (this.box !== null || undecided === null) {
      this.box = null;
      return session.release();
    }
    const { object, shift } = undecided;
    if (object === null) return session.select(null);
    const now = performance.now();
    if (!shift && this.last.object === object && now - this.last.at < DOUBLE) return session.editObject(object);
    this.last = { object, at: now };
    session.select(object, shift);
  }

  cancel(): void {
    this.undecided = this.box = null;
    this.painter.cancel();
    this.session.cancelDrag();
  }

  pan(dx: number, dy: number): void {
    this.stage().view.pan(dx, dy);
    this.stage().change();
  }

  zoom(factor: number, at: Point): void {
    this.stage().view.zoom(factor, at);
    this.stage().change();
  }

  hover(at: Point | null): void {
    if (this.painter.radius === null) return;
    this.painter.hovered = at === null ? null : this.stage().view.toImage(at);
    this.session.repaint();
  }

  /** Resize the brush or the circle by Shift+wheel. */
  resize(factor: number): boolean {
    const { image } = this.session;
    if (this.painter.radius === null || image === null) return false;
    this.painter.resize(factor, Math.max(image.width, image.height));
    this.session.rerender();
    return true;
  }

  wantsAll(): boolean {
    return this.painter.paints;
  }

  /** Start a drag inside a finished object; false if it is locked. */
  private beginDrag(object: number | null, from: { row: number; col: number }): boolean {
    const found = this.session.image?.objects.find((one) => one.id === object);
    if (found?.locked) {
      this.session.notify("These pixels belong to a locked object. Unlock it in the list to mark another object here");
      this.from = this.undecided = null;
      return false;
    }
    return this.session.press({ ...from, positive: true, radius: null }, this.painter.tool === "local" ? this.painter.radius : null);
  }

  /** Update the box, and the click from its center to its nearest side. */
  private drawBox(from: { row: number; col: number }, to: { row: number; col: number }): void {
    const [height, width] = [Math.abs(to.row - from.row), Math.abs(to.col - from.col)];
    this.box = { row: Math.min(from.row, to.row), col: Math.min(from.col, to.col), height, width };
    const click = { row: this.box.row + height / 2, col: this.box.col + width / 2, positive: true, radius: Math.max(Math.min(height, width) / 2, 1) };
    this.session.reshape(click);
  }
}
