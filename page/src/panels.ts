// Side panels: images, classes, objects.
import { address, type ListedImage, type SegmentedObject } from "./api";
import { byId, colored, count, el, iconButton } from "./dom";
import { Rows } from "./rows";
import type { Session } from "./session";

const FILTER_FROM = 12; // minimum number of images for a filter

/** Whether the work on an image is finished. */
export function isDone(one: ListedImage): boolean {
  return (one.num_objects > 0 || one.nothing) && !one.has_draft;
}

export class Panels {
  private readonly images: Rows<ListedImage>;
  private readonly objects: Rows<SegmentedObject>;
  private filtered: { all: readonly ListedImage[]; query: string; undone: boolean; found: ListedImage[] } | null = null;
  private current: string | null = null;

  constructor(
    private readonly session: Session,
    private readonly opened: () => void,
  ) {
    const looks = (one: ListedImage): string => `${this.state(one)} ${one.name} ${one.id === session.image?.id} ${isDone(one)}`;
    this.images = new Rows(byId("image-list"), 60, (one) => one.id, looks, (one) => this.imageRow(one));
    const shown = (one: SegmentedObject): string => JSON.stringify([one.class_id, one.area, one.num_clicks, one.locked, session.selected.has(one.id), session.image?.draft?.edits === one.id, session.project?.classes, session.image?.id]);
    this.objects = new Rows(byId("object-list"), 54, (one) => String(one.id), shown, (one, place) => this.objectRow(one, place + 1));
    byId("filter").addEventListener("input", () => this.renderImages());
    byId("undone").addEventListener("click", () => {
      byId("undone").setAttribute("aria-pressed", String(byId("undone").getAttribute("aria-pressed") !== "true"));
      this.renderImages();
    });
  }

  render(): void {
    this.renderImages();
    this.renderClasses();
    this.renderObjects();
  }

  private renderImages(): void {
    const { session } = this;
    const all = session.project?.pictures ?? [];
    const done = all.reduce((sum, one) => sum + Number(isDone(one)), 0);
    byId("done").textContent = `${done} of ${all.length} done`;
    byId<HTMLProgressElement>("progress").value = all.length === 0 ? 0 : done / all.length;
    byId("find").hidden = all.length < FILTER_FROM;
    const found = this.find(all);
    this.images.show(found);
    const current = session.image?.id ?? null;
    if (current !== this.current) this.images.reveal(found.findIndex((one) => one.id === current));
    this.current = current;
  }

  /** Open the first image that matches the filter. */
  openFirst(): void {
    const first = this.filtered?.found.find((one) => one.error === null);
    if (first !== undefined) void this.session.open(first.id);
  }

  /** Images to list. One that becomes done stays until the filter changes, so that rows do not move under the pointer. */
  private find(all: readonly ListedImage[]): ListedImage[] {
    const query = byId<HTMLInputElement>("filter").value.toLowerCase();
    const undone = byId("undone").getAttribute("aria-pressed") === "true";
    const known = this.filtered;
    if (known !== null && known.all === all && known.query === query && known.undone === undone) return known.found;
    const found = all.filter((one) => (query === "" || one.name.toLowerCase().includes(query)) && !(undone && isDone(one)));
    this.filtered = { all, query, undone, found };
    return found;
  }

  private state(one: ListedImage): string {
    if (one.error !== null) return one.error.replace(`${one.name} `, "");
    if (this.session.elsewhere.has(one.id)) return "In use in another tab";
    const objects = one.num_objects > 0 ? count(one.num_objects, "object") : "";
    if (one.has_draft) return objects === "" ? "Draft" : `Draft · ${objects}`;
    return objects || (one.nothing ? "Nothing here" : "Not started");
  }

  private imageRow(one: ListedImage): HTMLElement {
    const thumbnail = one.error === null ? el("img", { src: address(`pictures/${one.id}/image?max_side=128`), alt: "", loading: "lazy", decoding: "async" }) : el("i", { class: "broken" });
    const open = (): void => {
      void this.session.open(one.id);
      this.opened();
    };
    const words = el("span", {}, el("b", {}, one.name), el("small", {}, this.state(one)));
    const looks = one.has_draft ? "draft" : isDone(one) ? "done" : "";
    const current = String(one.id === this.session.image?.id);
    return el("li", { class: looks }, el("button", { onclick: open, disabled: one.error !== null, title: one.error ?? one.name, "aria-current": current }, thumbnail, words, el("i", { class: "mark" })));
  }

  private renderClasses(): void {
    const { project, classId } = this.session;
    const buttons = (project?.classes ?? []).map((one, index) => {
      const key = index < 9 ? [el("kbd", {}, String(index + 1))] : [];
      const choose = (): void => this.session.setClass(one.id);
      return el("button", { role: "radio", "aria-checked": String(one.id === classId), onclick: choose }, colored(one.color), el("span", {}, one.name), ...key);
    });
    replaceKeepingFocus(byId("class-list"), buttons);
  }

  private renderObjects(): void {
    const { image, project } = this.session;
    const objects = image?.objects ?? [];
    byId("count").textContent = objects.length === 0 ? "" : String(objects.length);
    byId("no-objects").hidden = project === null || objects.length > 0;
    (byId("no-objects").querySelector("p") as HTMLElement).textContent = image?.nothing ? "Nothing here: this image is done." : "None yet. Drag on an object, then press Finish.";
    byId("nothing").hidden = image === null || image.draft !== null || image.nothing;
    this.objects.show(objects);
  }

  private objectRow(one: SegmentedObject, place: number): HTMLElement {
    const { session } = this;
    const classes = session.project?.classes ?? [];
    const color = classes.find((known) => known.id === one.class_id)?.color ?? "#888888";
    const select = el("select", {
      "aria-label": `Class of object ${place}`,
      onchange: () => session.changeObject(one.id, { class_id: Number(select.value) }),
    });
    for (const known of classes) select.append(el("option", { value: String(known.id), selected: known.id === one.class_id }, known.name));
    const edited = session.image?.draft?.edits === one.id;
    const selected = session.selected.has(one.id);
    const about = edited ? "being edited" : `${pixels(one.area)}${one.num_clicks > 0 ? ` · ${count(one.num_clicks, "click")}` : ""}`;
    const show = (id: number | null) => (): void => {
      session.highlight = id;
      session.repaint();
    };
    return el(
      "li",
      { class: edited ? "edited" : selected ? "selected" : "", onpointerenter: show(one.id), onpointerleave: show(null), onfocusin: show(one.id), onfocusout: show(null) },
      el("button", { class: "pick", "aria-label": `Select object ${place}`, "aria-pressed": String(selected), title: "Select; then Delete removes it, and a digit changes its class", onclick: () => session.select(one.id, true), disabled: edited }, colored(color, String(place))),
      el("span", {}, select, el("small", {}, about)),
      iconButton(one.locked ? "lock" : "unlock", one.locked ? `Object ${place} is locked: later objects cannot overlap it. Unlock` : `Object ${place} is unlocked: later objects may overlap it. Lock`, () => session.changeObject(one.id, { locked: !one.locked }), { "aria-pressed": String(one.locked) }),
      iconButton("edit", `Edit object ${place}`, () => session.editObject(one.id), { disabled: edited }),
      iconButton("trash", `Delete object ${place}`, () => session.deleteObject(one.id)),
    );
  }
}

/** Format an area: 1,234 px, 12.3 kpx or 1.2 Mpx. */
function pixels(area: number): string {
  if (area < 10_000) return `${area.toLocaleString("en")} px`;
  return area < 1e6 ? `${(area / 1e3).toFixed(1)} kpx` : `${(area / 1e6).toFixed(2)} Mpx`;
}

const drawn = new WeakMap<HTMLElement, string>();

/** Replace the children unless they look the same; the focus stays at the same position. */
function replaceKeepingFocus(parent: HTMLElement, children: HTMLElement[]): void {
  const looks = children.map((one) => one.outerHTML).join("");
  if (drawn.get(parent) === looks) return;
  const focusable = "button, select";
  const at = [...parent.querySelectorAll(focusable)].indexOf(document.activeElement as Element);
  parent.replaceChildren(...children);
  drawn.set(parent, looks);
  if (at >= 0) ([...parent.querySelectorAll<HTMLElement>(focusable)][at] ?? byId("stage")).focus();
}
