// Virtual list: only visible rows are in the document, so that 20,000 rows are as fast as twenty.

interface Row {
  element: HTMLElement;
  looks: string;
}

const SPARE = 6; // additional rows above and below the visible ones

export class Rows<T> {
  private items: readonly T[] = [];
  private readonly shown = new Map<string, Row>();

  /**
   * @param list Scrolling element; all rows have the same height.
   * @param height Height of a row in CSS pixels.
   * @param key Unique key of an item.
   * @param looks Text that changes when a row must be redrawn.
   * @param make Function that makes the row of an item; `place` counts from 0.
   */
  constructor(
    private readonly list: HTMLElement,
    private readonly height: number,
    private readonly key: (item: T) => string,
    private readonly looks: (item: T, place: number) => string,
    private readonly make: (item: T, place: number) => HTMLElement,
  ) {
    list.addEventListener("scroll", () => this.draw(), { passive: true });
    new ResizeObserver(() => this.draw()).observe(list);
  }

  show(items: readonly T[]): void {
    this.items = items;
    this.draw();
  }

  /** Scroll until an item is visible. */
  reveal(place: number): void {
    if (place < 0) return;
    const [top, room] = [place * this.height, this.list.clientHeight];
    if (top < this.list.scrollTop) this.list.scrollTop = top;
    else if (top + this.height > this.list.scrollTop + room) this.list.scrollTop = top + this.height - room;
    this.draw();
  }

  private draw(): void {
    const { items, list, height } = this;
    const first = Math.max(0, Math.floor(list.scrollTop / height) - SPARE);
    const last = Math.min(items.length, Math.ceil((list.scrollTop + list.clientHeight) / height) + SPARE);
    const visible = items.slice(Math.min(first, last), last);
    const keys = new Set(visible.map(this.key));
    for (const [key, row] of this.shown) {
      if (keys.has(key)) continue;
      row.element.remove();
      this.shown.delete(key);
    }
    // Space for the missing rows; padding would make the list itself that high.
    list.style.setProperty("--above", `${Math.min(first, last) * height}px`);
    list.style.setProperty("--below", `${(items.length - last) * height}px`);
    let before: Element | null = null;
    visible.forEach((item, index) => {
      const element = this.row(item, first + index);
      const next: Element | null = before === null ? list.firstElementChild : before.nextElementSibling;
      if (element !== next) list.insertBefore(element, next);
      before = element;
    });
  }

  /** Get the row of an item, made again if it has changed; the focus stays on the same control. */
  private row(item: T, place: number): HTMLElement {
    const [key, looks] = [this.key(item), `${place} ${this.looks(item, place)}`];
    const known = this.shown.get(key);
    if (known?.looks === looks) return known.element;
    const element = this.make(item, place);
    element.setAttribute("aria-setsize", String(this.items.length));
    element.setAttribute("aria-posinset", String(place + 1));
    if (known !== undefined) {
      const controls = "button, select";
      const at = [...known.element.querySelectorAll(controls)].indexOf(document.activeElement as Element);
      known.element.replaceWith(element);
      if (at >= 0) [...element.querySelectorAll<HTMLElement>(controls)][at]?.focus();
    }
    this.shown.set(key, { element, looks });
    return element;
  }
}
