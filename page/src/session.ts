// State of the page, and everything that changes it; `render` and `repaint` display it.
import { call, Refused, TAB, Unreachable, type AnnotatedImage, type Class, type Click, type Imported, type ListedImage, type Paint, type Preview, type Project, type SegmentedObject, type TabState } from "./api";
import { Changes, repeatable } from "./changes";
import { count } from "./dom";
import { isLoosePng, kindOf, splitFiles, limitProblem, zipOf, type GivenFile } from "./import_files";
import { DrawnMask } from "./mask";
import { isDone } from "./panels";
import { LivePreview } from "./preview";

interface Shown {
  render(): void;
  repaint(): void;
  open(image: AnnotatedImage): Promise<void>;
  toast(text: string, kind?: "error" | "done"): void;
  announce(text: string): void;
  /** Called when a new object is finished. */
  finished(): void;
  /** Called when a live mask is decoded, before it is drawn in the next frame; `age`: milliseconds since its circle was drawn. */
  live(preview: Preview, age: () => number): void;
}

const GLANCE = 700; // milliseconds that each image is shown while objects are copied from image to image
const PRESS = 150; // milliseconds in which a press can become a drag, before a circle is requested from the model

export class Session {
  project: Project | null = null;
  image: AnnotatedImage | null = null;
  mask: DrawnMask | null = null;
  drag: Click | null = null;
  live: { mask: DrawnMask; radius: number | null } | null = null;
  positive = true;
  classId = 1;
  threshold = 0.5;
  opacity = Number(localStorage.getItem("opacity") ?? 0.45);
  hidden = false;
  /** Whether each finished object has its own color instead of its class's. */
  apart = localStorage.getItem("apart") !== null;
  highlight: number | null = null;
  /** Whether objects are being copied from image to image. */
  carrying = false;
  /** Selected finished objects; a new set at each change. */
  selected: ReadonlySet<number> = new Set();
  connected = true;
  alone = true;
  /** Images that are open in other tabs. */
  elsewhere: ReadonlySet<string> = new Set();
  milliseconds: number | null = null;
  readonly changes: Changes;
  private readonly preview: LivePreview;
  private opening = 0; // images that are being opened, one after the other
  private released: Click | null = null;
  private reach: number | null = null; // radius of the circle to which the drag is limited
  private thresholdBefore: number | null = null; // restored after a reopened object is finished
  private presses = 0; // drags begun
  private newest = 0; // number of the shown live mask

  constructor(private readonly shown: Shown) {
    this.changes = new Changes((error) => this.refused(error), (reached) => this.reached(reached), () => this.counted());
    this.preview = new LivePreview((answer, click, age) => this.previewed(answer, click, age), (error) => this.failed(error));
  }

  get loading(): boolean {
    return this.opening > 0;
  }

  get listed(): ListedImage | null {
    return this.project?.pictures.find((one) => one.id === this.image?.id) ?? null;
  }

  repaint(): void {
    this.shown.repaint();
  }

  rerender(): void {
    this.shown.render();
    this.shown.repaint();
  }

  notify(text: string): void {
    this.shown.toast(text);
  }

  mayChange(): boolean {
    return this.image !== null && !this.loading && this.alone;
  }

  color(): string {
    return this.project?.classes.find((one) => one.id === this.classId)?.color ?? "#4453d6";
  }

  // Opening images

  async start(): Promise<void> {
    await this.beat(false);
    await this.changes.add(() => this.refresh()); // waits until the server responds
    await this.openFirst();
  }

  /** Open the image named in the URL, else the one changed last, else one with a draft, else the first. */
  private async openFirst(): Promise<void> {
    const last = location.hash.slice(1);
    const images = (this.project?.pictures ?? []).filter((one) => one.error === null);
    const free = images.filter((one) => !this.elsewhere.has(one.id));
    const first = images.find((one) => one.id === last) ?? free.find((one) => one.id === this.project?.last) ?? free.find((one) => one.has_draft) ?? free[0] ?? images[0];
    if (first !== undefined) await this.open(first.id);
  }

  /** Read the list of images again. */
  async refresh(): Promise<void> {
    const fresh = this.project === null;
    this.project = await call<Project>("GET", "project");
    if (fresh) this.threshold = this.project.threshold;
    this.chooseKnownClass();
    this.shown.render();
  }

  async open(id: string): Promise<void> {
    this.opening++;
    this.shown.render();
    try {
      await this.changes.add(async () => {
        const image = await call<AnnotatedImage>("GET", `pictures/${id}`);
        const mask = await decoded(image);
        this.cancelDrag();
        this.image = null; // discard the state of the previous image
        this.highlight = null;
        this.selected = new Set();
        this.threshold = this.thresholdBefore ?? this.threshold;
        this.thresholdBefore = null;
        history.replaceState(null, "", `#${id}`);
        this.show(image, mask);
        await this.beat(false);
        await this.shown.open(image).catch((error: unknown) => {
          if (error instanceof DOMException && error.name === "AbortError") return;
          throw error;
        });
      });
    } finally {
      this.opening--;
      this.shown.render();
    }
  }

  /** Open the next image (or the one before) that can be opened. */
  step(by: 1 | -1): void {
    const all = this.project?.pictures ?? [];
    for (let at = all.findIndex((one) => one.id === this.image?.id) + by; at >= 0 && at < all.length; at += by) {
      const found = all[at] as ListedImage;
      if (found.error === null) return void this.open(found.id);
    }
    this.shown.announce(by === 1 ? "This is the last image" : "This is the first image");
  }

  /** Open the next image that is not done; after the last one, search from the first. */
  nextUndone(): void {
    const all = this.project?.pictures ?? [];
    const at = all.findIndex((one) => one.id === this.image?.id);
    const found = [...all.slice(at + 1), ...all.slice(0, Math.max(at, 0))].find((one) => one.error === null && !isDone(one) && !this.elsewhere.has(one.id));
    if (found !== undefined) void this.open(found.id);
    else this.shown.toast("All other images are done", "done");
  }

  /** Mark this image as having no objects, and open the next image that is not done. */
  nothingHere(): void {
    if (this.image === null) return;
    if (this.image.draft !== null || this.image.objects.length > 0 || this.image.nothing) return this.nextUndone();
    void this.change(`${this.image.id}/nothing`, "POST", { nothing: true }, () => this.nextUndone());
  }

  // Dragging

  /** Circle to which the drag is limited, at least as large as the drag itself. */
  get circle(): { row: number; col: number; radius: number } | null {
    const { drag, reach } = this;
    return drag === null || reach === null ? null : { row: drag.row, col: drag.col, radius: Math.max(reach, drag.radius ?? 0) };
  }

  /** Begin a drag; false if none may begin here. The mask farther away than `reach` does not change. */
  press(click: Click, reach: number | null = null): boolean {
    if (this.image === null || !this.mayChange()) return false;
    if (!click.positive && this.image.draft === null) {
      if (!this.reopenSelected() && this.changes.pending === 0) {
        this.shown.toast("Mark the object first, then drag on a wrong part");
        return false;
      }
    } else if (this.selected.size > 0) this.select(null);
    this.drag = click;
    this.reach = reach;
    this.presses++;
    this.live = this.changes.pending > 0 && this.live !== null ? { mask: this.live.mask, radius: null } : null;
    this.requestPreview(click.radius === null ? PRESS : 0);
    return true;
  }

  pull(radius: number | null): void {
    if (this.drag === null) return;
    if (this.drag.radius === radius) return;
    this.drag = { ...this.drag, radius };
    this.requestPreview();
  }

  /** Replace the whole circle, while a box is being drawn. */
  reshape(click: Click): void {
    if (this.drag === null) return void this.press(click);
    this.drag = click;
    this.requestPreview();
  }

  release(): void {
    const click = this.drag;
    const image = this.image;
    if (click === null || image === null || click === this.released) return;
    this.preview.forget();
    this.released = click;
    const keep_outside = this.circle?.radius ?? null;
    const settings = this.settings();
    const made = this.change(`${image.id}/clicks`, "POST", () => ({ click, keep_outside, ...settings() }), (after) => this.shown.announce(keep_outside === null ? `Click ${after.draft?.clicks.length ?? 0} added` : "Click added inside the circle"));
    void made.finally(() => {
      if (this.drag === click) this.cancelDrag();
    });
  }

  cancelDrag(): void {
    this.preview.forget();
    this.drag = null;
    this.live = null;
    this.shown.repaint();
  }

  // Selected objects

  /** Select a finished object, or one more, or none. */
  select(object: number | null, more = false): void {
    const chosen = new Set(more ? this.selected : []);
    if (object !== null && !(more && chosen.delete(object))) chosen.add(object);
    this.selected = chosen;
    this.shown.announce(chosen.size === 0 ? "Nothing selected" : `${count(chosen.size, "object")} selected`);
    this.rerender();
  }

  /** Reopen the one selected object; false when there is none. */
  reopenSelected(): boolean {
    const [first] = this.selected;
    if (first === undefined || this.selected.size > 1 || this.image?.draft !== null) return false;
    this.editObject(first);
    return true;
  }

  mergeSelected(): void {
    const ids = [...this.selected];
    if (ids.length < 2) return this.shown.toast("Select two objects or more: click on one, then Shift+click on others");
    void this.change(`${this.image?.id}/objects/merge`, "POST", { ids }, () => this.select(ids[0] as number));
  }

  deleteSelected(): void {
    const ids = [...this.selected];
    if (ids.length === 0) return;
    void this.change(`${this.image?.id}/objects`, "DELETE", { ids }, () => this.shown.toast(`${count(ids.length, "object")} deleted; Ctrl+Z restores ${ids.length === 1 ? "it" : "them"}`, "done"));
  }

  /** Copy the selected objects, or all, to the next image and open it; true on success. */
  async carry(repeated = false): Promise<boolean> {
    const { image } = this;
    const all = this.project?.pictures ?? [];
    if (image?.draft) this.shown.toast("Finish the current object first (Enter)");
    if (image === null || image.draft !== null || !this.mayChange() || this.carrying !== repeated) return false;
    const ids = this.selected.size > 0 ? [...this.selected] : image.objects.map((one) => one.id);
    const next = all.slice(all.findIndex((one) => one.id === image.id) + 1).find((one) => one.error === null);
    if (ids.length === 0 || next === undefined) {
      this.shown.toast(next === undefined ? "This is the last image" : "There is no object to copy to the next image");
      return false;
    }
    await this.open(next.id);
    const before = this.image;
    if (before?.id !== next.id) return false;
    const known = new Set(before.objects.map((one) => one.id));
    let made = false;
    await this.change(`${next.id}/carry`, "POST", { source: image.id, ids }, (after) => {
      made = true;
      this.selected = new Set(after.objects.map((one) => one.id).filter((id) => !known.has(id)));
      this.rerender();
    });
    return made;
  }

  /** Copy from image to image until stopped. */
  async carryRepeatedly(): Promise<void> {
    if (this.carrying) return;
    this.carrying = true;
    this.shown.render();
    while (this.carrying && (await this.carry(true))) await new Promise((done) => setTimeout(done, GLANCE));
    this.carrying = false;
    this.shown.render();
  }

  stopCarrying(): boolean {
    const was = this.carrying;
    this.carrying = false;
    return was;
  }

  // Manual editing

  /** Whether a stroke may begin. */
  mayPaint(positive: boolean): boolean {
    if (this.image === null || !this.mayChange()) return false;
    if (this.image.draft !== null || this.changes.pending > 0 || this.reopenSelected() || positive) return true;
    this.shown.toast("Nothing to erase from: click on a finished object first, or mark a new one");
    return false;
  }

  /** Apply a stroke, a lasso or a clean-up to the current object. */
  paint(paint: Paint): Promise<void> {
    const settings = this.settings();
    return this.change(`${this.image?.id}/paint`, "POST", () => ({ paint, ...settings() }), () => this.shown.announce("Painted"));
  }

  cleanUp(kind: Paint["kind"]): void {
    if (this.mayPaint(false)) void this.paint({ kind, positive: true, points: [] });
  }

  // Changing

  /** Class and threshold to send with a change: the current ones, or those of an object that is reopened before it is sent. */
  private settings(): () => { class_id: number; threshold: number } {
    const { classId: class_id, threshold } = this;
    const edits = this.image?.draft?.edits ?? null;
    return () => {
      const draft = this.image?.draft ?? null;
      const reopened = draft !== null && draft.edits !== null && draft.edits !== edits;
      return reopened ? { class_id: draft.class_id, threshold: this.threshold } : { class_id, threshold };
    };
  }

  undo(): void {
    if (this.image !== null && (this.image.can_undo || this.changes.pending > 0)) void this.change(`${this.image.id}/undo`, "POST", {}, (after) => this.stepped(after, "Undone"));
  }

  redo(): void {
    if (this.image !== null && (this.image.can_redo || this.changes.pending > 0)) void this.change(`${this.image.id}/redo`, "POST", {}, (after) => this.stepped(after, "Redone"));
  }

  /** Choose the class of the draft, unless a newer change is waiting. */
  private stepped({ draft }: AnnotatedImage, text: string): void {
    if (draft !== null && this.changes.pending === 1) this.classId = draft.class_id;
    this.shown.announce(text);
    this.rerender();
  }

  finish(): void {
    if (this.image === null) return;
    if (this.image.draft === null && this.changes.pending === 0) return this.shown.toast("Nothing to finish yet: drag on an object first");
    const settings = this.settings();
    let isNew = true;
    const body = (): object => {
      isNew = this.image?.draft?.edits == null;
      return settings();
    };
    void this.change(`${this.image.id}/finish`, "POST", body, (after) => {
      if (isNew) this.shown.finished();
      this.shown.announce(`Object finished; ${after.objects.length} on this image`);
    });
  }

  discard(): void {
    if (this.image !== null && (this.image.draft !== null || this.changes.pending > 0)) void this.change(`${this.image.id}/discard`, "POST", {}, () => this.shown.announce("Discarded"));
  }

  editObject(n: number): void {
    if (this.image?.draft) return this.shown.toast("Finish the current object first (Enter), or discard it (Delete)");
    this.selected = new Set();
    void this.change(`${this.image?.id}/objects/${n}/edit`, "POST", {});
  }

  changeObject(n: number, changes: { class_id?: number; locked?: boolean }): void {
    void this.change(`${this.image?.id}/objects/${n}`, "PATCH", changes);
  }

  deleteObject(n: number): void {
    void this.change(`${this.image?.id}/objects/${n}`, "DELETE", {}, () => this.shown.toast("Object deleted; Ctrl+Z restores it", "done"));
  }

  /** Set the class of the selected objects, or of the current one. */
  setClass(id: number): void {
    if (this.selected.size > 0 && this.image?.draft === null) {
      void this.change(`${this.image.id}/objects`, "PATCH", { ids: [...this.selected], class_id: id });
      return;
    }
    this.classId = id;
    this.shown.render();
    this.shown.repaint();
    if (this.image !== null && (this.image.draft !== null || this.changes.pending > 0)) void this.change(`${this.image.id}/draft`, "PATCH", { class_id: id }, (after) => this.stepped(after, "Class changed"));
  }

  /** Replace the classes that were `before`; returns the server's error if it refuses, and whether the classes had changed. */
  async saveClasses(classes: Class[], before: Class[]): Promise<{ refused: string | null; changed: boolean }> {
    const result = { refused: null as string | null, changed: false };
    await this.changes.add(async () => {
      try {
        this.project = await call<Project>("PUT", "classes", { classes, before });
      } catch (error) {
        if (!(error instanceof Refused)) throw error;
        result.refused = error.message;
        result.changed = error.status === 409;
        if (result.changed) await this.refresh();
        return;
      }
      this.chooseKnownClass();
      this.rerender();
    });
    return result;
  }

  private chooseKnownClass(): void {
    const classes = this.project?.classes ?? [];
    if (!classes.some((one) => one.id === this.classId)) this.classId = classes[0]?.id ?? 1;
  }

  /** Import chosen or dropped files; related files are sent as one zip. */
  async importFiles(given: GivenFile[]): Promise<void> {
    const { alone, together } = splitFiles(given);
    for (const file of alone) await this.importFile(file);
    const refused = together.length === 0 ? (alone.length === 0 ? `the files must be annotations (.json, .jsonl, .xml, .zip, .png or .txt), got ${count(given.length, "file")} of other types` : null) : limitProblem(together);
    if (refused !== null) this.shown.toast(refused);
    if (refused !== null || together.length === 0) return;
    this.shown.toast(`Importing ${count(together.length, "file")}…`, "done");
    const zip = await this.read(zipOf(together));
    if (zip === null) return;
    await this.changes.add(async () => {
      const done = await this.sendImport(zip);
      if (done.objects + done.known > 0 || !together.every(isLoosePng)) return this.showImport(done);
      for (const { file } of together) void this.importFile(file); // without the name of an image, they belong to the open one
    });
  }

  /** Wait for the content of chosen files; null, with a message, if it cannot be read. */
  private read<T>(content: Promise<T>): Promise<T | null> {
    return content.catch((error: unknown) => {
      this.shown.toast(`the files cannot be read (${String(error)}); choose them again`);
      return null;
    });
  }

  private sendImport(content: BlobPart): Promise<Imported> {
    return call<Imported>("PUT", "import/file", new Blob([content], { type: "application/octet-stream" }));
  }

  private async showImport(done: Imported): Promise<void> {
    const left = done.skipped.length > 0 ? `; ${done.skipped.length} skipped: ${done.skipped[0]}` : "";
    const known = done.known > 0 ? `; ${done.known} already existed` : "";
    this.shown.toast(`${count(done.objects, "object")} on ${count(done.pictures, "image")} imported${known}${left}`, left === "" ? "done" : "error");
    await this.refresh();
    if (this.image !== null) await this.apply(await call<AnnotatedImage>("GET", `pictures/${this.image.id}`));
  }

  /** Import a file: annotations for the folder, an indexed PNG for this image, or a list of classes with one name per line. */
  private async importFile(file: File): Promise<void> {
    const kind = kindOf(file.name);
    const refused = limitProblem([{ path: file.name, file, loose: true }]);
    if (refused !== null) return this.shown.toast(refused);
    if (["json", "jsonl", "xml", "zip"].includes(kind)) {
      const content = await this.read(file.arrayBuffer());
      if (content !== null) await this.changes.add(async () => this.showImport(await this.sendImport(content)));
    } else if (kind === "png" && this.image !== null) {
      const { id } = this.image;
      const content = await this.read(file.arrayBuffer());
      if (content === null) return;
      await this.changes.add(async () => {
        const { revision, objects: { length: before } } = await call<AnnotatedImage>("GET", `pictures/${id}`);
        const after = await call<AnnotatedImage>("PUT", `pictures/${id}/masks?revision=${revision}`, new Blob([content], { type: "image/png" }));
        await this.apply(after);
        this.shown.toast(`${count(after.objects.length - before, "object")} imported to correct`, "done");
      });
    } else if (kind === "txt") {
      const names = (await this.read(file.text()))?.split("\n").map((one) => one.trim()).filter(Boolean) ?? [];
      const before = this.project?.classes ?? [];
      const { refused } = await this.saveClasses(withNames(before, names), before);
      if (refused !== null) this.shown.toast(refused);
    } else {
      this.shown.toast(`'${file.name}' must be a file of annotations (.json, .jsonl, .xml, .zip), an indexed PNG (.png) or a list of classes (.txt)`);
    }
  }

  // The connection and the other tabs

  async beat(take: boolean): Promise<void> {
    try {
      const since = this.project?.serial ?? 0;
      const before = this.project?.classes;
      const { alone, elsewhere, serial, files, classes, changed } = await call<TabState>("POST", "tabs", { tab: TAB, take, picture: this.image?.id ?? null, since });
      this.elsewhere = new Set(elsewhere);
      if (this.project !== null && files !== this.project.files && this.changes.pending === 0) await this.refreshFiles();
      else if (this.project !== null) {
        this.project.serial = serial;
        if (this.project.classes === before && JSON.stringify(before) !== JSON.stringify(classes)) { // changed by another page
          this.project.classes = classes;
          this.chooseKnownClass();
          this.shown.repaint();
        }
        const lines = new Map(changed.map((one) => [one.id, one]));
        for (const one of this.project.pictures) Object.assign(one, one.id === this.image?.id ? {} : lines.get(one.id));
      }
      const back = alone && !this.alone;
      this.alone = alone;
      const lost = !this.connected;
      this.reached(true);
      if ((back || lost) && this.image !== null && this.changes.pending === 0) await this.reload();
      if (this.project !== null && this.image === null && !this.loading) { // images may have been added meanwhile
        await this.refresh();
        await this.openFirst();
      }
    } catch (error) {
      this.failed(error);
    }
    this.shown.render();
  }

  /** Refresh the list after files were added, deleted or renamed. */
  private async refreshFiles(): Promise<void> {
    const name = this.image?.name;
    await this.refresh();
    const line = this.listed;
    if (name === undefined || (line !== null && line.error === null)) return;
    this.shown.toast(`“${name}” was deleted or renamed; its objects are kept`);
    this.image = null;
    await this.openFirst();
  }

  private async reload(): Promise<void> {
    await this.refresh();
    if (this.image !== null) await this.apply(await call<AnnotatedImage>("GET", `pictures/${this.image.id}`));
  }

  private change(path: string, method: "POST" | "PATCH" | "DELETE", body: object | (() => object), done: (after: AnnotatedImage) => void = () => undefined): Promise<void> {
    if (this.image === null || !this.mayChange()) return Promise.resolve();
    const { id } = this.image;
    return this.changes.add(
      repeatable<AnnotatedImage>(
        `pictures/${id}`,
        () => this.image?.revision ?? 0,
        (revision) => call<AnnotatedImage>(method, `pictures/${path}`, { ...(typeof body === "function" ? body() : body), revision, brief: true }),
        async (after) => {
          if (this.image?.id !== id) return;
          await this.apply(after);
          done(after);
        },
      ),
    );
  }

  /** Show the server's state of the open image; an answer for another image is ignored. */
  private async apply(answer: AnnotatedImage): Promise<void> {
    const mask = await decoded(answer);
    if (this.image?.id === answer.id) this.show(answer, mask);
  }

  private show(answer: AnnotatedImage, mask: DrawnMask | null): void {
    const image = answer.brief ? { ...answer, objects: merged(this.image?.objects ?? [], answer) } : answer;
    const reopened = image.draft?.edits !== null && image.draft?.edits !== this.image?.draft?.edits;
    if (image.draft !== null && (this.image === null || reopened)) {
      this.classId = image.draft.class_id;
      if (image.draft.edits !== null) this.thresholdBefore ??= this.threshold;
      this.threshold = image.draft.threshold;
    }
    if (image.draft === null && this.thresholdBefore !== null) {
      this.threshold = this.thresholdBefore;
      this.thresholdBefore = null;
    }
    if ([...this.selected].some((id) => !image.objects.some((one) => one.id === id))) {
      this.selected = new Set([...this.selected].filter((id) => image.objects.some((one) => one.id === id)));
    }
    this.image = image;
    this.mask = mask;
    const line = this.listed;
    if (line !== null) {
      line.num_objects = image.objects.length;
      line.has_draft = image.draft !== null;
      line.nothing = image.nothing;
    }
    this.shown.render();
    this.shown.repaint();
  }

  private counted(): void {
    this.shown.render();
    if (this.changes.pending === 0 && this.drag !== null && this.drag !== this.released) this.requestPreview(); // a drag that began while changes were pending
  }

  private requestPreview(after = 0): void {
    this.shown.repaint();
    if (this.image === null || this.drag === null || !this.connected || this.changes.pending > 0) return;
    this.preview.request(this.image.id, this.image.revision, this.drag, after);
  }

  private async previewed(answer: Preview, click: Click, age: () => number): Promise<void> {
    const { presses } = this;
    const mask = await DrawnMask.from(answer.mask);
    if (this.drag === null || this.presses !== presses || answer.seq < this.newest) return;
    this.newest = answer.seq;
    this.live = { mask, radius: click.radius === null ? answer.radius : (this.live?.radius ?? null) };
    this.milliseconds = answer.milliseconds.total;
    this.shown.repaint();
    this.shown.live(answer, age);
  }

  private async refused(error: Refused): Promise<void> {
    if (error.holder) {
      this.alone = false;
      this.shown.render();
      return;
    }
    this.shown.toast(error.message);
    if (error.status === 409 && this.image !== null) await this.reload();
  }

  private failed(error: unknown): void {
    if (error instanceof Unreachable) this.reached(false);
    else if (error instanceof Refused && error.status !== 409) this.shown.toast(error.message);
    else if (!(error instanceof Refused)) throw error;
  }

  private reached(reached: boolean): void {
    if (this.connected === reached) return;
    this.connected = reached;
    this.shown.render();
  }
}

async function decoded({ mask }: AnnotatedImage): Promise<DrawnMask | null> {
  return mask === null ? null : DrawnMask.from(mask);
}

/** Merge a brief response into the objects, by number; returns the same array if none has changed. */
function merged(before: SegmentedObject[], { objects, gone }: AnnotatedImage): SegmentedObject[] {
  if (objects.length === 0 && gone.length === 0) return before;
  const known = new Map(before.map((one) => [one.id, one]));
  for (const id of gone) known.delete(id);
  for (const one of objects) known.set(one.id, one);
  return [...known.values()].sort((a, b) => a.id - b.id);
}

export const PALETTE = ["#4c6ef5", "#f76707", "#12b886", "#e64980", "#fab005", "#7950f2", "#15aabf", "#82c91e", "#fa5252", "#868e96"];

/** Add a class for each new name. */
export function withNames(classes: Class[], names: string[]): Class[] {
  const all = [...classes];
  for (const name of names) {
    if (all.some((one) => one.name === name)) continue;
    const id = Math.max(0, ...all.map((one) => one.id)) + 1;
    all.push({ id, name, color: PALETTE[(id - 1) % PALETTE.length] as string });
  }
  return all;
}
