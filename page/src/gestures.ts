// Recognition of gestures (drag, pan, pinch, wheel) from mouse, pen and touch.
import type { Point } from "./view";

export interface Press {
  background: boolean; // right button, a pen's side button or its eraser
  shift: boolean;
  pressure: number | null; // pen pressure, 0..1
}

export interface Gestures {
  /** Start a drag; returns false if no drag may start here. */
  begin(at: Point, press: Press): boolean;
  /** Move the pointer; `dragged` is true once it has moved more than the slop from the press. */
  move(at: Point, dragged: boolean, pressure: number | null): void;
  end(): void;
  cancel(): void;
  pan(dx: number, dy: number): void;
  zoom(factor: number, at: Point): void;
  /** Hover over the stage with a mouse or pen; null when it leaves. */
  hover(at: Point | null): void;
  /** Resize by Shift+wheel; false if there is nothing to resize. */
  resize(factor: number): boolean;
  /** Whether to report all positions between two frames. */
  wantsAll(): boolean;
}

const SLOP = { mouse: 4, pen: 5, touch: 9 } as Record<string, number>; // CSS pixels that a click may move

/** Listen on `stage`; returns functions to cancel a drag and to check for one. */
export function listen(stage: HTMLElement, handler: Gestures): { cancel(): void; dragging(): boolean } {
  const down = new Map<number, Point>();
  let mode: "idle" | "circle" | "pan" | "pinch" = "idle";
  let from: Point = { x: 0, y: 0 };
  let dragged = false;
  let space = false;

  const at = (event: MouseEvent): Point => {
    const box = stage.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  };
  const look = (): void => {
    stage.classList.toggle("panning", mode === "pan" || mode === "pinch");
    stage.classList.toggle("may-pan", space);
  };
  const cancel = (): void => {
    if (mode === "circle") handler.cancel();
    mode = "idle";
    look();
  };
  const pinch = (): { center: Point; spread: number } => {
    const [a, b] = [...down.values()] as [Point, Point];
    return { center: { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 }, spread: Math.max(Math.hypot(a.x - b.x, a.y - b.y), 1) };
  };

  stage.addEventListener("pointerdown", (event) => {
    if (event.target !== stage) return; // a button on top of the stage
    if (mode !== "idle" && event.pointerType !== "touch") return;
    stage.focus({ preventScroll: true, focusVisible: false } as FocusOptions);
    event.preventDefault();
    stage.setPointerCapture(event.pointerId);
    down.set(event.pointerId, at(event));
    if (event.pointerType === "touch" && down.size === 2) {
      cancel(); // the first finger started a pinch
      mode = "pinch";
    } else if (event.button === 1 || space) {
      mode = "pan";
    } else if (down.size === 1 && mode === "idle") {
      const background = event.button === 2 || event.button === 5 || (event.buttons & 34) !== 0; // right, barrel, eraser
      from = at(event);
      dragged = false;
      if (handler.begin(from, { background, shift: event.shiftKey, pressure: pressure(event) })) mode = "circle";
    }
    look();
  });

  stage.addEventListener("pointermove", (event) => {
    const last = down.get(event.pointerId);
    if (event.pointerType !== "touch" && (last === undefined || mode === "circle")) handler.hover(at(event));
    if (last === undefined) return;
    const here = at(event);
    if (mode === "pinch" && down.size >= 2) {
      const before = pinch();
      down.set(event.pointerId, here);
      const after = pinch();
      handler.pan(after.center.x - before.center.x, after.center.y - before.center.y);
      handler.zoom(after.spread / before.spread, after.center);
      return;
    }
    down.set(event.pointerId, here);
    if (mode === "pan") {
      handler.pan(here.x - last.x, here.y - last.y);
    } else if (mode === "circle") {
      dragged ||= Math.hypot(here.x - from.x, here.y - from.y) > (SLOP[event.pointerType] ?? 4);
      const between = handler.wantsAll() ? event.getCoalescedEvents() : [];
      for (const one of between.length > 0 ? between : [event]) handler.move(at(one), dragged, pressure(one));
    }
  });

  const lift = (event: PointerEvent, kept: boolean): void => {
    if (!down.delete(event.pointerId)) return;
    if (mode === "circle") {
      if (kept) handler.end();
      else handler.cancel();
    }
    if (down.size === 0 || mode === "circle" || mode === "pan") mode = "idle";
    look();
  };
  stage.addEventListener("pointerup", (event) => lift(event, true));
  stage.addEventListener("pointercancel", (event) => lift(event, false));
  stage.addEventListener("pointerleave", () => handler.hover(null));
  stage.addEventListener("contextmenu", (event) => event.preventDefault());
  stage.addEventListener(
    "wheel",
    (event) => {
      event.preventDefault();
      const lines = event.deltaMode === WheelEvent.DOM_DELTA_LINE ? 32 : 1;
      const delta = event.deltaY || event.deltaX; // with Shift, some browsers scroll sideways
      if (event.shiftKey && handler.resize(Math.exp(-delta * lines * 0.002))) return;
      const speed = event.ctrlKey ? 0.01 : 0.0018; // Ctrl+wheel is a pinch on a touchpad
      handler.zoom(Math.exp(-event.deltaY * lines * speed), at(event));
    },
    { passive: false },
  );
  addEventListener("keydown", (event) => {
    if (event.key !== " " || isControl(event.target)) return;
    event.preventDefault();
    space = true;
    look();
  });
  const noSpace = (event: Event): void => {
    if (event instanceof KeyboardEvent && event.key !== " ") return;
    space = false;
    look();
  };
  addEventListener("keyup", noSpace);
  addEventListener("blur", noSpace);
  return { cancel, dragging: () => mode === "circle" };
}

function pressure(event: PointerEvent): number | null {
  return event.pointerType === "pen" && event.pressure > 0 ? event.pressure : null;
}

/** Whether an element handles keys itself. */
export function isControl(target: EventTarget | null): boolean {
  return target instanceof Element && target.closest("button, a, input, select, textarea, dialog, [role=menu]") !== null;
}
