// Working time and objects per hour, in a corner of the stage; off by default.

const BREAK = 60_000; // milliseconds; longer times without input do not count as work
const KEPT = "pace"; // key in the browser's storage

export class Pace {
  private worked = 0; // milliseconds
  private objects = 0;
  private last: number | null = null; // time of the last input

  constructor(private readonly box: HTMLElement) {
    const kept = /^(\d+) (\d+)$/.exec(sessionStorage.getItem(KEPT) ?? "");
    if (kept !== null) [this.worked, this.objects] = [Number(kept[1]), Number(kept[2])];
    for (const kind of ["pointerdown", "pointermove", "keydown", "wheel"]) addEventListener(kind, () => this.touched(), { passive: true, capture: true });
    addEventListener("pagehide", () => sessionStorage.setItem(KEPT, `${Math.round(this.worked)} ${this.objects}`));
    setInterval(() => this.draw(), 1000);
    this.box.hidden = localStorage.getItem(KEPT) === null;
    this.draw();
  }

  /** Count a finished object. */
  add(): void {
    this.objects++;
    this.draw();
  }

  toggle(): void {
    this.box.hidden = !this.box.hidden;
    if (this.box.hidden) localStorage.removeItem(KEPT);
    else localStorage.setItem(KEPT, "shown");
    this.draw();
  }

  private touched(): void {
    const now = performance.now();
    if (this.last !== null && now - this.last < BREAK) this.worked += now - this.last;
    this.last = now;
  }

  private draw(): void {
    if (this.box.hidden) return;
    const seconds = Math.floor(this.worked / 1000);
    const clock = [Math.floor(seconds / 3600), Math.floor(seconds / 60) % 60, seconds % 60].map((part) => String(part).padStart(2, "0")).join(":");
    const rate = seconds < 10 ? "" : ` · ${Math.round((this.objects * 3600) / seconds)} per hour`;
    this.box.textContent = `${clock} · ${this.objects} ${this.objects === 1 ? "object" : "objects"}${rate}`;
  }
}
