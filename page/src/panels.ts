// The lists at both sides: pictures, classes, objects.
import { address, type PictureLine, type SegmentedObject } from "./api";
import { byId, colored, count, el, iconButton } from "./dom";
import type { Session } from "./session";

const FILTER_FROM = 12; // pictures; with fewer one sees them all

export class Panels {
  private pictures = "";
  private readonly rows = new Map<string, HTMLElement>();

  constructor(
    private readonly session: Session,
    private readonly opened: () => void,
  ) {
    byId("filter").addEventListener("input", () => this.find());
  }

  render(): void {
    this.renderPictures();
    this.renderClasses();
    this.renderObjects();
  }

  private renderPictures(): void {
    const all = this.session.project?.pictures ?? [];
    const known = JSON.stringify(all.map((one) => [one.id, one.name, one.error]));
    if (known !== this.pictures) {
      this.pictures = known;
      this.rows.clear();
      for (const one of all) this.rows.set(one.id, this.pictureRow(one));
      byId("picture-list").replaceChildren(...this.rows.values());
      byId("filter").hidden = all.length < FILTER_FROM;
      this.find();
    }
    const done = all.filter((one) => one.num_objects > 0).length;
    byId("done").textContent = `${done} of ${all.length} done`;
    byId<HTMLProgressElement>("progress").value = all.length === 0 ? 0 : done / all.length;
    for (const one of all) {
      const row = this.rows.get(one.id) as HTMLElement;
      const state = one.error?.replace(`${one.name} `, "") ?? (one.has_draft ? "Draft" + (one.num_objects > 0 ? ` · ${count(one.num_objects, "object")}` : "") : one.num_objects > 0 ? count(one.num_objects, "object") : "Not begun");
      const words = row.querySelector("small") as HTMLElement;
      if (words.textContent !== state) words.textContent = state;
      row.classList.toggle("done", one.num_objects > 0 && !one.has_draft);
      row.classList.toggle("draft", one.has_draft);
      const button = row.querySelector("button") as HTMLElement;
      const current = one.id === this.session.picture?.id;
      if (current && button.getAttribute("aria-current") !== "true") reveal(row);
      button.setAttribute("aria-current", String(current));
    }
  }

  private pictureRow(one: PictureLine): HTMLElement {
    const thumbnail = one.error === null ? el("img", { src: address(`pictures/${one.id}/image?max_side=128`), alt: "", loading: "lazy", decoding: "async" }) : el("i", { class: "broken" });
    const open = (): void => {
      void this.session.open(one.id);
      this.opened();
    };
    const words = el("span", {}, el("b", {}, one.name), el("small"));
    return el("li", {}, el("button", { onclick: open, disabled: one.error !== null, title: one.error ?? one.name }, thumbnail, words, el("i", { class: "mark" })));
  }

  private find(): void {
    const wanted = byId<HTMLInputElement>("filter").value.toLowerCase();
    for (const row of this.rows.values()) row.hidden = !(row.querySelector("b")?.textContent ?? "").toLowerCase().includes(wanted);
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
    const { picture } = this.session;
    const objects = picture?.objects ?? [];
    byId("count").textContent = objects.length === 0 ? "" : String(objects.length);
    const empty = el("li", { class: "empty" }, "None yet. Drag on an object, then press Finish.");
    replaceKeepingFocus(byId("object-list"), objects.length === 0 ? [empty] : objects.map((one, index) => this.objectRow(one, index + 1)));
    byId("object-list").querySelectorAll("select").forEach((select, index) => (select.value = String(objects[index]?.class_id))); // a change refused
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
    const edited = session.picture?.draft?.edits === one.id;
    const selected = session.selected.has(one.id);
    const about = edited ? "being edited" : `${pixels(one.area)}${one.num_clicks > 0 ? ` · ${count(one.num_clicks, "click")}` : ""}`;
    const show = (id: number | null) => (): void => {
      session.highlight = id;
      session.repaint();
    };
    return el(
      "li",
      { class: edited ? "edited" : selected ? "selected" : "", onpointerenter: show(one.id), onpointerleave: show(null), onfocusin: show(one.id), onfocusout: show(null) },
      el("button", { class: "pick", "aria-label": `Choose object ${place}`, "aria-pressed": String(selected), title: "Choose: Delete removes, a digit changes the class", onclick: () => session.select(one.id, true), disabled: edited }, colored(color, String(place))),
      el("span", {}, select, el("small", {}, about)),
      iconButton(one.locked ? "lock" : "unlock", one.locked ? `Object ${place} keeps its pixels: later ones stay out. Unlock` : `Later objects may overlap object ${place}. Lock`, () => session.changeObject(one.id, { locked: !one.locked }), { "aria-pressed": String(one.locked) }),
      iconButton("edit", `Edit object ${place}`, () => session.editObject(one.id), { disabled: edited }),
      iconButton("trash", `Delete object ${place}`, () => session.deleteObject(one.id)),
    );
  }
}

/** Scroll the list, and nothing around it, until a row can be seen. */
function reveal(row: HTMLElement): void {
  const list = byId("picture-list");
  const [inside, around] = [row.getBoundingClientRect(), list.getBoundingClientRect()];
  list.scrollTop += Math.min(inside.top - around.top, 0) + Math.max(inside.bottom - around.bottom, 0);
}

/** 1,234 px, 12.3 kpx or 1.2 Mpx. */
function pixels(area: number): string {
  if (area < 10_000) return `${area.toLocaleString("en")} px`;
  return area < 1e6 ? `${(area / 1e3).toFixed(1)} kpx` : `${(area / 1e6).toFixed(2)} Mpx`;
}

const drawn = new WeakMap<HTMLElement, string>();

/** Other children, unless they look the same; the focus stays at the same place. */
function replaceKeepingFocus(parent: HTMLElement, children: HTMLElement[]): void {
  const looks = children.map((one) => one.outerHTML).join("");
  if (drawn.get(parent) === looks) return;
  const focusable = "button, select";
  const at = [...parent.querySelectorAll(focusable)].indexOf(document.activeElement as Element);
  parent.replaceChildren(...children);
  drawn.set(parent, looks);
  if (at >= 0) ([...parent.querySelectorAll<HTMLElement>(focusable)][at] ?? byId("stage")).focus();
}
