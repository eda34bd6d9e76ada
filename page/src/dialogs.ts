// Dialogs (help, classes) and menus (export, import).
import { address, FORMATS, type Class } from "./api";
import { byId, el, icon, iconButton } from "./dom";
import { withNames, type Session } from "./session";

const GESTURES: [string, string][] = [
  ["Press and drag", "Mark the object: a circle from its center to its nearest edge"],
  ["Right button, pen's side button", "Mark background: remove pixels from the object"],
  ["Click without a drag", "The model chooses the circle (dashed)"],
  ["Shift+drag", "A box around the object, from corner to corner"],
  ["Click on a finished object", "Select it; Shift+click selects more; double click edits it"],
  ["Wheel, two fingers", "Zoom at the pointer"],
  ["Space+drag, middle button", "Move the image"],
];
const KEYS: [string[], string][] = [
  [["Enter"], "Finish the object"],
  [["Ctrl", "Z"], "Undo"],
  [["Ctrl", "Y"], "Redo"],
  [["N", "P"], "Next image, previous image"],
  [["U"], "Next image that is not done"],
  [["Shift", "Enter"], "Nothing here: mark the image as done and open the next"],
  [["1", "…", "9"], "Class"],
  [["X"], "Object or background"],
  [["H"], "Hide the masks"],
  [["I"], "Color by object or by class"],
  [["T"], "Show time and objects per hour"],
  [["+", "−", "0"], "Zoom in, zoom out, whole image"],
  [["Delete"], "Discard the current object, or delete the selected ones"],
  [["G"], "Copy the selected objects, or all, to the next image (Shift: continue)"],
  [["E"], "Edit the selected object"],
  [["M"], "Merge the selected objects"],
  [["B"], "Brush: right button or Shift erases"],
  [["L"], "Lasso"],
  [["K"], "Local drag: the mask outside a circle does not change"],
  [["Esc"], "Cancel, close the tool, clear the selection"],
  [["← ↑ ↓ →"], "Move a crosshair (Shift: faster)"],
  [["[", "]"], "Smaller, larger: brush, circle (also Shift+wheel)"],
  [["C"], "Click with the crosshair's circle"],
  [["?"], "This help"],
];

const USUAL = 5; // formats that the menu shows without opening "For other tools"

function heading(id: string, text: string, dialog: HTMLDialogElement): HTMLElement {
  return el("header", {}, el("h2", { id }, text), iconButton("close", "Close", () => dialog.close()));
}

export function makeHelp(): () => void {
  const dialog = byId<HTMLDialogElement>("help");
  const keys = (names: string[]): HTMLElement => el("dt", {}, ...names.map((name) => (name === "…" ? name : el("kbd", {}, name))));
  dialog.append(
    heading("help-title", "Keys and gestures", dialog),
    el(
      "div",
      { class: "columns" },
      el("dl", { class: "gestures" }, ...GESTURES.flatMap(([what, does]) => [el("dt", {}, what), el("dd", {}, does)])),
      el("dl", { class: "keys" }, ...KEYS.flatMap(([names, does]) => [keys(names), el("dd", {}, does)])),
    ),
  );
  closeOutside(dialog);
  return () => dialog.showModal();
}

/** Make the dialog that edits the classes. */
export function makeClasses(session: Session): () => void {
  const dialog = byId<HTMLDialogElement>("classes");
  const list = el("ul");
  const save = el("button", { class: "primary" }, "Save");
  let before: Class[] = [];
  let edited: Class[] = [];

  const draw = (focus = -1): void => {
    const rows = edited.map((one, index) => {
      const color = el("input", { type: "color", value: one.color, "aria-label": `Color of class ${index + 1}`, oninput: () => (one.color = color.value) });
      const name = el("input", { type: "text", value: one.name, maxlength: "100", "aria-label": `Name of class ${index + 1}`, oninput: () => (one.name = name.value) });
      name.addEventListener("keydown", (event) => {
        if (event.key === "Enter") save.click();
      });
      const remove = (): void => {
        edited.splice(index, 1);
        draw();
      };
      return el("li", {}, color, name, iconButton("trash", `Remove class ${index + 1}`, remove, { disabled: edited.length === 1 }));
    });
    list.replaceChildren(...rows);
    rows[focus]?.querySelector<HTMLInputElement>("input[type=text]")?.select();
  };
  const add = (): void => {
    edited = withNames(edited, [`class ${edited.length + 1}`]);
    draw(edited.length - 1);
  };
  const begin = (): void => {
    before = session.project?.classes ?? [];
    edited = structuredClone(before);
    draw();
  };
  const problem = el("p", { class: "problem", role: "alert" });
  save.addEventListener("click", () => {
    void session.saveClasses(edited.map((one) => ({ ...one, name: one.name.trim() })), before).then(({ refused, changed }) => {
      problem.textContent = refused ?? "";
      if (refused === null) dialog.close();
      else if (changed) begin();
    });
  });
  dialog.append(
    heading("classes-title", "Classes", dialog),
    list,
    problem,
    el("footer", {}, el("button", { class: "soft", onclick: add }, icon("plus"), "Add a class"), save),
  );
  closeOutside(dialog);
  return () => {
    problem.textContent = "";
    begin();
    dialog.showModal();
  };
}

/** Make the export menu; `also` are additional entries on narrow screens. */
export function makeMenu(also: [string, string, () => void][]): void {
  const menu = byId("menu");
  const entry = (format: string, name: string): HTMLElement => {
    const link = el("a", { role: "menuitem", href: address(`export?format=${format}`), download: true }, icon("download"), name);
    link.addEventListener("click", () => menu.hidePopover());
    return link;
  };
  const more = also.map(([name, symbol, press]) => {
    const run = (): void => {
      menu.hidePopover();
      press();
    };
    return el("button", { role: "menuitem", class: "narrow", onclick: run }, icon(symbol), name);
  });
  const entries = Object.entries(FORMATS).map(([format, name]) => entry(format, name));
  const others = el("details", {}, el("summary", { role: "menuitem" }, "For other tools"), ...entries.slice(USUAL));
  menu.append(el("p", {}, "Export all objects"), ...entries.slice(0, USUAL), others, ...more);
  addMenuKeys(menu, byId("export"));
}

/** Make the import menu; each entry has a name, an icon and an action. */
export function makeImportMenu(entries: [string, string, () => void][]): void {
  const menu = byId("import-menu");
  const buttons = entries.map(([name, symbol, press]) => {
    const run = (): void => {
      menu.hidePopover();
      press();
    };
    return el("button", { role: "menuitem", onclick: run }, icon(symbol), name);
  });
  menu.append(el("p", {}, "Import objects to correct; files can also be dropped on the page"), ...buttons);
  addMenuKeys(menu, byId("import"));
}

/** Move through a menu with arrow keys, and mark its button as expanded while it is open. */
function addMenuKeys(menu: HTMLElement, button: HTMLElement): void {
  menu.addEventListener("keydown", (event) => {
    const items = [...menu.querySelectorAll<HTMLElement>("[role=menuitem]")].filter((one) => one.offsetParent !== null);
    const by = event.key === "ArrowDown" ? 1 : event.key === "ArrowUp" ? -1 : 0;
    if (by === 0) return;
    event.preventDefault();
    items[(items.indexOf(document.activeElement as HTMLElement) + by + items.length) % items.length]?.focus();
  });
  menu.addEventListener("toggle", (event) => {
    const open = (event as ToggleEvent).newState === "open";
    button.setAttribute("aria-expanded", String(open));
    if (open) menu.querySelector<HTMLElement>("[role=menuitem]")?.focus();
  });
}

function closeOutside(dialog: HTMLDialogElement): void {
  dialog.addEventListener("click", (event) => {
    if (event.target === dialog) dialog.close();
  });
}
