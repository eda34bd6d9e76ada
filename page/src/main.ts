// Entry point: connects the session to the stage, the panels, the tools and the keys.
import { leave, type Click, type Paint } from "./api";
import { makeClasses, makeHelp, makeImportMenu, makeMenu } from "./dialogs";
import { byId, count } from "./dom";
import { isControl, listen } from "./gestures";
import { chosenFiles, droppedFiles } from "./import_files";
import { banner, toast } from "./notices";
import { Pace } from "./pace";
import { Painter, type Tool } from "./painter";
import { Panels } from "./panels";
import { Pointing } from "./pointing";
import { Session } from "./session";
import { Stage, type Scene } from "./stage";

const HEARTBEAT = 2000; // milliseconds
const ZOOM_STEP = 1.4;
const TOUCH = matchMedia("(pointer: coarse)").matches;

let cursor: Scene["cursor"] = null;
const box = byId("stage");
const session = new Session({
  render,
  repaint: () => stage.repaint(),
  open: (image) => {
    cursor = null;
    painter.choose("drag");
    painter.fit(image.width, image.height);
    return stage.open(image);
  },
  toast,
  finished: () => pace.add(),
  announce: (text) => (box.ariaLabel = `${session.image?.name ?? "Image"}. ${text}`),
  live: ({ exact, milliseconds }, age) =>
    requestAnimationFrame(() => box.dispatchEvent(new CustomEvent("livemask", { detail: { ...milliseconds, exact, age: age() } }))),
});
const stage: Stage = new Stage(scene, (view) => {
  const percent = session.image === null ? "–" : `${Math.round(view.scale * 100 * devicePixelRatio)} %`;
  byId("zoom").textContent = percent;
  byId("zoom").ariaLabel = `${percent}, show the whole image`;
});
const painter: Painter = new Painter(session);
const pointing = new Pointing(session, painter, () => stage, () => {
  cursor = null;
  session.stopCarrying();
});
const pace = new Pace(byId("pace"));
const panels = new Panels(session, closeSheets);
const showHelp = makeHelp();
const showClasses = makeClasses(session);

function scene(): Scene {
  const { image, drag, live, mask, threshold, opacity, hidden, highlight, project, circle } = session;
  const [at, radius] = [painter.hovered, painter.radius];
  return {
    objects: image?.objects ?? [],
    edits: image?.draft?.edits ?? null,
    highlight,
    clicks: image?.draft?.clicks ?? [],
    mask: live?.mask ?? mask,
    outside: live === null || circle === null ? null : { mask, circle },
    drag: drag && { ...drag, shown: drag.radius ?? live?.radius ?? null },
    cursor,
    selected: session.selected,
    box: pointing.box,
    strokes: [...painter.waiting, ...(painter.stroke === null ? [] : [painter.stroke])],
    ring: circle ?? (drag === null && at !== null && radius !== null ? { ...at, radius } : null),
    threshold,
    opacity,
    hidden,
    apart: session.apart,
    color: session.color(),
    classes: project?.classes ?? [],
  };
}

// The pointer

const pointer = listen(box, pointing);

/** Focus the stage without showing a focus ring. */
function focusStage(): void {
  box.focus({ preventScroll: true, focusVisible: false } as FocusOptions);
}

// The tools

function zoom(factor: number): void {
  stage.view.zoom(factor);
  stage.change();
}

function fit(): void {
  stage.view.fit();
  stage.change();
}

function setPositive(positive: boolean): void {
  session.positive = positive;
  render();
}

function toggleHidden(): void {
  session.hidden = !session.hidden;
  render();
  stage.repaint();
}

/** Choose a tool, or return to dragging if it is already chosen. */
function setTool(tool: Tool): void {
  painter.choose(painter.tool === tool ? "drag" : tool);
  if (painter.tool !== "drag") session.reopenSelected();
  session.positive = true;
  session.rerender();
}

/** Resize the current tool, or the crosshair's circle. */
function shrinkOrGrow(factor: number): void {
  if (!pointing.resize(factor)) moveCursor(0, 0, factor);
}

function toggleColors(): void {
  session.apart = !session.apart;
  if (session.apart) localStorage.setItem("apart", "yes");
  else localStorage.removeItem("apart");
  session.rerender();
}

function finish(): void {
  if (painter.tool !== "drag") setTool("drag");
  session.finish();
}

function remove(): void {
  if (session.selected.size > 0 && session.image?.draft === null) session.deleteSelected();
  else session.discard();
}

const pressed: Record<string, () => void> = {
  previous: () => session.step(-1),
  next: () => session.step(1),
  positive: () => setPositive(true),
  negative: () => setPositive(false),
  undo: () => session.undo(),
  redo: () => session.redo(),
  discard: () => session.discard(),
  finish,
  brush: () => setTool(painter.tool === "drag" ? "brush" : "drag"),
  "tool-brush": () => painter.tool !== "brush" && setTool("brush"),
  "tool-lasso": () => painter.tool !== "lasso" && setTool("lasso"),
  "tool-local": () => painter.tool !== "local" && setTool("local"),
  "put-away": () => setTool("drag"),
  "edit-chosen": () => void session.reopenSelected(),
  "merge-chosen": () => session.mergeSelected(),
  "carry-chosen": () => void session.carry(),
  "delete-chosen": () => session.deleteSelected(),
  "choose-none": () => session.select(null),
  hide: toggleHidden,
  zoom: fit,
  "zoom-in": () => zoom(ZOOM_STEP),
  "zoom-out": () => zoom(1 / ZOOM_STEP),
  nothing: () => session.nothingHere(),
  "help-button": showHelp,
  "edit-classes": showClasses,
  "show-images": () => toggleSheet("images"),
  "show-objects": () => toggleSheet("objects"),
};
for (const [id, press] of Object.entries(pressed)) {
  byId(id).addEventListener("click", (event) => {
    press();
    if (event.detail > 0 && byId(id).closest("#tools, nav, .context") !== null) focusStage(); // so that Enter finishes instead of clicking again
  });
}
makeMenu([
  ["Import…", "upload", () => byId("files").click()],
  ["Keys and gestures", "help", showHelp],
]);

for (const kind of ["fill_holes", "drop_specks", "keep_largest"] satisfies Paint["kind"][]) {
  byId(kind).addEventListener("click", () => {
    session.cleanUp(kind);
    focusStage();
  });
}
const size = byId<HTMLInputElement>("brush-size");
size.addEventListener("input", () => {
  painter.radius = Number(size.value) ** 2; // finer steps for small radii
  render();
});

for (const name of ["threshold", "opacity"] as const) {
  byId<HTMLInputElement>(name).addEventListener("input", (event) => {
    session[name] = Number((event.target as HTMLInputElement).value);
    if (name === "opacity") localStorage.setItem(name, String(session.opacity));
    render();
    stage.repaint();
  });
}

makeImportMenu([
  ["Files…", "upload", () => byId("files").click()],
  ["A folder…", "images", () => byId("file-folder").click()],
]);
for (const id of ["files", "file-folder"]) {
  const files = byId<HTMLInputElement>(id);
  files.addEventListener("change", () => {
    void session.importFiles(chosenFiles(files.files ?? []));
    files.value = "";
  });
}
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  if (event.dataTransfer === null) return;
  droppedFiles(event.dataTransfer).then((given) => session.importFiles(given), (error: unknown) => toast(`the files cannot be read (${String(error)}); choose them again`));
});

// Narrow screens: the lists are sheets

function toggleSheet(name: "images" | "objects"): void {
  const open = !byId(name).classList.contains("open");
  closeSheets();
  byId(name).classList.toggle("open", open);
  byId("scrim").hidden = !open;
  byId(`show-${name}`).setAttribute("aria-expanded", String(open));
}

function closeSheets(): void {
  for (const name of ["images", "objects"]) {
    byId(name).classList.remove("open");
    byId(`show-${name}`).setAttribute("aria-expanded", "false");
  }
  byId("scrim").hidden = true;
}
byId("scrim").addEventListener("click", closeSheets);

// The keys

function moveCursor(rows: number, cols: number, grow: number): void {
  const { image } = session;
  if (image === null) return;
  const start = { row: image.height / 2, col: image.width / 2, radius: Math.min(image.width, image.height) / 10 };
  cursor = cursor ?? start;
  const clamp = (value: number, size: number): number => Math.min(Math.max(value, 0), size - 1);
  cursor = { row: clamp(cursor.row + rows, image.height), col: clamp(cursor.col + cols, image.width), radius: Math.max(cursor.radius * grow, 1) };
  stage.repaint();
}

function clickAtCursor(): void {
  if (cursor === null) return moveCursor(0, 0, 1);
  const click: Click = { ...cursor, positive: session.positive };
  if (session.press(click, painter.tool === "local" ? painter.radius : null)) session.release();
}

const arrows: Record<string, [number, number]> = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] };
const keys: Record<string, () => void> = {
  n: pressed["next"] as () => void,
  u: () => session.nextUndone(),
  p: pressed["previous"] as () => void,
  x: () => setPositive(!session.positive),
  h: toggleHidden,
  i: toggleColors,
  t: () => pace.toggle(),
  c: clickAtCursor,
  b: () => setTool("brush"),
  l: () => setTool("lasso"),
  k: () => setTool("local"),
  e: () => void session.reopenSelected(),
  m: () => session.mergeSelected(),
  "[": () => shrinkOrGrow(1 / 1.15),
  "]": () => shrinkOrGrow(1.15),
  "+": () => zoom(ZOOM_STEP),
  "=": () => zoom(ZOOM_STEP),
  "-": () => zoom(1 / ZOOM_STEP),
  "0": fit,
  "?": showHelp,
  Delete: remove,
  Backspace: remove,
  Enter: finish,
};

/** Handle a key in a text field: Enter finishes the object; without one, it opens the first image found by the filter. */
function onTyped(event: KeyboardEvent): boolean {
  if (event.key !== "Enter") return false;
  if (session.image?.draft) finish();
  else if (event.target === byId("filter")) panels.openFirst();
  else return false;
  focusStage();
  return true;
}

function onKey(event: KeyboardEvent): boolean {
  if (document.querySelector("dialog[open], :popover-open") !== null) return false;
  if (event.target instanceof HTMLInputElement && event.target.type !== "range") return onTyped(event);
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.key === "Escape") {
    if (session.stopCarrying()) return true;
    if (pointer.dragging()) pointer.cancel();
    else if (painter.tool !== "drag") setTool("drag");
    else if (session.selected.size > 0) session.select(null);
    else closeSheets();
    cursor = null;
    stage.repaint();
    return true;
  }
  if (event.ctrlKey || event.metaKey) {
    if (key === "z") event.shiftKey ? session.redo() : session.undo();
    else if (key === "y") session.redo();
    return key === "z" || key === "y";
  }
  if (event.altKey || pointer.dragging()) return false;
  if (event.target instanceof HTMLSelectElement && key !== "Enter") return false; // letters select an option there
  const arrow = arrows[key];
  if (arrow !== undefined && event.target === box) {
    const step = (event.shiftKey ? 40 : 8) / stage.view.scale;
    moveCursor(arrow[0] * step, arrow[1] * step, 1);
    return true;
  }
  if (key >= "1" && key <= "9") {
    const chosen = session.project?.classes[Number(key) - 1];
    if (chosen !== undefined) session.setClass(chosen.id);
    return true;
  }
  if (key === "g") {
    void (event.shiftKey ? session.carryRepeatedly() : session.carry());
    return true;
  }
  if (event.shiftKey && key === "Enter") {
    session.nothingHere();
    return true;
  }
  // Enter finishes the object, whatever has the focus; without an object it presses the focused control, as Space always does.
  if (key === "Enter" && isControl(event.target) && !session.image?.draft && session.changes.pending === 0) return false;
  const run = keys[key];
  if (!(event.repeat && run === remove)) run?.();
  return run !== undefined;
}
addEventListener("keydown", (event) => {
  if (onKey(event)) event.preventDefault();
});

// Rendering

function hint(): string {
  const { image } = session;
  if (image === null || session.loading) return "";
  if (painter.tool === "local") return "Drag on a wrong part; the mask outside the circle does not change";
  if (painter.tool === "lasso") return session.positive ? "Draw around a missing part" : "Draw around a part to erase";
  if (painter.tool === "brush") return TOUCH ? "" : session.positive ? "Paint missing parts; the right button erases" : "Erase wrong parts; the right button paints";
  if (session.selected.size > 0) return "";
  if (image.draft === null) return session.positive ? "Press on the center of an object and drag to its edge" : "Switch to Object to mark a new one";
  if (TOUCH) return session.positive ? "Drag on a missing part, or switch to Background" : "Drag on a part to remove";
  return "Drag on a missing part, or with the right button on a wrong one; Enter finishes";
}

/** Render the text on the stage while there is no image to show. */
function renderEmpty(): void {
  const box = byId("empty");
  const { project, image, loading } = session;
  box.hidden = project === null || image !== null || loading;
  if (project === null || box.hidden) return;
  const [title, words] = [box.querySelector("h2"), box.querySelector("p")] as [HTMLElement, HTMLElement];
  title.textContent = project.pictures.length === 0 ? `No images in “${project.name}”` : "None of the images can be opened";
  words.textContent =
    project.pictures.length === 0
      ? "Put JPEG, PNG, TIFF or WebP files into the folder. They appear here automatically."
      : "The list shows the reasons. Replace the files; readable images appear here automatically.";
}

/** Render the bar above the tools: options of the current tool, or actions on the selected objects. */
function renderContext(): void {
  const open = painter.tool !== "drag";
  const { size: chosen } = session.selected;
  byId("painting").hidden = !open;
  byId("chosen").hidden = open || chosen === 0 || session.image?.draft !== null;
  byId("brush").setAttribute("aria-pressed", String(open));
  for (const tool of ["brush", "lasso", "local"]) byId(`tool-${tool}`).setAttribute("aria-checked", String(painter.tool === tool));
  for (const kind of ["fill_holes", "drop_specks", "keep_largest"]) byId<HTMLButtonElement>(kind).disabled = !session.image?.draft;
  byId("size-label").hidden = painter.radius === null;
  size.max = String(Math.sqrt(painter.largest(Math.max(session.image?.width ?? 0, session.image?.height ?? 0))));
  size.value = String(Math.sqrt(painter.radius ?? 0));
  fill(size);
  const [add, erase] = painter.paints ? ["Add", "Erase"] : ["Object", "Background"];
  for (const [id, word] of [["positive", add], ["negative", erase]] as const) {
    byId(id).ariaLabel = word as string;
    (byId(id).querySelector("span") as HTMLElement).textContent = word as string;
  }
  byId("chosen-count").textContent = count(chosen, "object");
  byId("edit-chosen").hidden = chosen !== 1;
  byId("merge-chosen").hidden = chosen < 2;
}

/** Color a slider's track up to its thumb. */
function fill(slider: HTMLInputElement): void {
  const [value, min, max] = [Number(slider.value), Number(slider.min), Number(slider.max)];
  slider.style.setProperty("--filled", `${max > min ? (100 * (value - min)) / (max - min) : 0}%`);
}

function render(): void {
  const { project, image, listed } = session;
  const names = project?.pictures ?? [];
  const at = names.findIndex((one) => one.id === image?.id);
  byId("folder").textContent = project?.name ?? "";
  byId("title").replaceChildren(image?.name ?? "", at < 0 ? "" : Object.assign(document.createElement("small"), { textContent: `${at + 1} / ${names.length}` }));
  document.title = image === null ? "dct-seg" : `${image.name} – dct-seg`;
  if (image !== null && !box.ariaLabel?.startsWith(image.name)) box.ariaLabel = image.name;
  renderContext();
  byId("positive").setAttribute("aria-checked", String(session.positive));
  byId("negative").setAttribute("aria-checked", String(!session.positive));
  const disable = (id: string, disabled: boolean): void => {
    byId<HTMLButtonElement>(id).disabled = disabled;
  };
  disable("undo", !image?.can_undo);
  disable("redo", !image?.can_redo);
  disable("discard", !image?.draft);
  disable("finish", !image?.draft);
  disable("previous", at <= 0);
  disable("next", at < 0 || at === names.length - 1);
  byId("hide").setAttribute("aria-pressed", String(session.hidden));
  byId("badge").textContent = String(listed?.num_objects ?? 0);
  byId("show-objects").ariaLabel = listed?.num_objects ? `Objects: ${listed.num_objects}` : "Objects";
  byId("badge").hidden = !listed?.num_objects;
  for (const name of ["threshold", "opacity"] as const) {
    const input = byId<HTMLInputElement>(name);
    input.value = String(session[name]);
    fill(input);
    byId(`${name}-value`).textContent = name === "threshold" ? session.threshold.toFixed(2) : `${Math.round(session.opacity * 100)} %`;
  }
  const time = session.milliseconds === null ? "" : ` · ${Math.round(session.milliseconds)} ms per mask`;
  byId("model").textContent = project === null ? "" : `${project.model.name}${time}`;
  byId("loading").hidden = !session.loading;
  renderEmpty();
  const text = hint();
  if (byId("hint").textContent !== text) byId("hint").textContent = text;
  const waiting = session.changes.pending;
  document.body.dataset["pending"] = String(waiting);
  document.body.toggleAttribute("data-loading", project === null || session.loading);
  if (!session.connected) banner(`Connection lost. Trying again${waiting > 0 ? `; ${waiting} ${waiting === 1 ? "change is" : "changes are"} waiting, nothing is lost` : "; all work is saved"}.`, "Try now", () => {
    session.changes.retryNow();
    void session.beat(false);
  });
  else if (session.carrying) banner("Copying the objects from image to image.", "Stop", () => session.stopCarrying());
  else if (!session.alone) banner("Another tab is working on this image.", "Take over", () => void session.beat(true));
  else banner(null);
  panels.render();
}

addEventListener("beforeunload", (event) => {
  if (session.changes.pending > 0) event.preventDefault();
});
addEventListener("pagehide", leave);
setInterval(() => void session.beat(false), HEARTBEAT);
addEventListener("visibilitychange", () => {
  if (!document.hidden) void session.beat(false);
});
session.start().catch((error: unknown) => toast(error instanceof Error ? error.message : String(error)));
focusStage();
