// Serverless page: drop an image, click or drag on it, and get the mask after each click. Nothing leaves the computer.
import type { Click } from "./clicks";
import { Network, type Encoded } from "./network";

const INPUT_SIDE = 448; // longer side of the network's input, in pixels
const SHOWN_SIDE = 1600; // longer side of the displayed image and of the saved mask
const MIN_DRAG = 4; // screen pixels

interface Turn {
  click: Click;
  used: Click[];
  probs: Float32Array;
}

const find = <T extends HTMLElement>(id: string): T => document.getElementById(id) as T;
const [canvas, stage, status] = [find<HTMLCanvasElement>("canvas"), find("stage"), find("status")];
const [undo, clear, save] = ["undo", "clear", "save"].map((id) => find<HTMLButtonElement>(id)) as [
  HTMLButtonElement,
  HTMLButtonElement,
  HTMLButtonElement,
];
const context = canvas.getContext("2d")!;
const loaded = Network.load("./model");

let image: ImageBitmap | null = null;
let seen: Encoded | null = null;
let turns: Turn[] = [];
let drag: { row: number; col: number; radius: number; positive: boolean } | null = null;
let busy = false;

const showStatus = (text: string): void => void (status.textContent = text);
const failed = (error: unknown): void => showStatus(error instanceof Error ? error.message : String(error));

function pixels(height: number, width: number): ImageData {
  const small = new OffscreenCanvas(width, height);
  const brush = small.getContext("2d")!;
  brush.imageSmoothingQuality = "high";
  brush.drawImage(image!, 0, 0, width, height);
  return brush.getImageData(0, 0, width, height);
}

async function open(file: Blob): Promise<void> {
  const network = await loaded;
  const opened = await createImageBitmap(file);
  image = opened;
  const scale = Math.min(1, SHOWN_SIDE / Math.max(image.width, image.height));
  [canvas.width, canvas.height] = [Math.round(image.width * scale), Math.round(image.height * scale)];
  [canvas.hidden, find("hint").hidden] = [false, true];
  [turns, drag, seen] = [[], null, null];
  draw();
  const began = performance.now();
  const { height, width } = network.size(image.height, image.width, INPUT_SIDE);
  const encoded = await network.encode(pixels(height, width));
  if (image !== opened) return; // another image was opened meanwhile
  seen = encoded;
  report("Image encoded", began);
}

function report(what: string, began: number): void {
  const milliseconds = Math.round(performance.now() - began);
  showStatus(`${what} in ${milliseconds} ms`);
  document.body.dataset["turns"] = String(turns.length);
  document.body.dataset["milliseconds"] = String(milliseconds);
}

/** Add a click and predict the mask; canvas pixels are converted to the network's. */
async function add(row: number, col: number, positive: boolean, radius: number | null): Promise<void> {
  if (seen === null || busy) return;
  const [down, across] = [seen.height / canvas.height, seen.width / canvas.width];
  const click = {
    row: (row + 0.5) * down - 0.5,
    col: (col + 0.5) * across - 0.5,
    positive,
    radius: radius === null ? null : radius * Math.sqrt(down * across),
    predicted: false,
  };
  busy = true;
  try {
    const began = performance.now();
    const [last, encoded] = [turns.at(-1), seen];
    const before = last?.probs ?? new Float32Array(encoded.height * encoded.width);
    const { clicks, probs } = await (await loaded).predict(encoded, [...(last?.used ?? []), click], before);
    if (seen !== encoded || turns.at(-1) !== last) return; // undone, cleared or another image meanwhile
    turns.push({ click, used: clicks, probs });
    report(`${turns.length} ${turns.length === 1 ? "click" : "clicks"}, the last`, began);
  } finally {
    busy = false;
    draw();
  }
}

/** Draw the mask at the canvas's size, in one color with an alpha channel. */
function mask(color: [number, number, number], alpha: number): OffscreenCanvas | null {
  const probs = turns.at(-1)?.probs;
  if (probs === undefined || seen === null) return null;
  const small = new ImageData(seen.width, seen.height);
  probs.forEach((prob, i) => small.data.set([255, 255, 255, Math.round(255 * prob)], 4 * i));
  const source = new OffscreenCanvas(seen.width, seen.height);
  source.getContext("2d")!.putImageData(small, 0, 0);
  const large = new OffscreenCanvas(canvas.width, canvas.height);
  const brush = large.getContext("2d")!;
  brush.drawImage(source, 0, 0, canvas.width, canvas.height);
  const shown = brush.getImageData(0, 0, canvas.width, canvas.height);
  for (let i = 0; i < shown.data.length; i += 4) {
    shown.data.set([...color, shown.data[i + 3]! > 127 ? alpha : 0], i);
  }
  brush.putImageData(shown, 0, 0);
  return large;
}

function circle(row: number, col: number, radius: number, positive: boolean): void {
  for (const [color, width] of [["#fff", 4], [positive ? "#12b886" : "#f0484e", 2]] as const) {
    context.beginPath();
    context.arc(col + 0.5, row + 0.5, Math.max(radius, 3), 0, 2 * Math.PI);
    [context.strokeStyle, context.lineWidth] = [color, width];
    context.stroke();
  }
}

function draw(): void {
  if (image === null) return;
  context.drawImage(image, 0, 0, canvas.width, canvas.height);
  const overlay = mask([76, 110, 245], 140);
  if (overlay !== null) context.drawImage(overlay, 0, 0);
  if (seen !== null) {
    const [down, across] = [canvas.height / seen.height, canvas.width / seen.width];
    for (const { row, col, radius, positive } of turns.at(-1)?.used ?? []) {
      circle((row + 0.5) * down - 0.5, (col + 0.5) * across - 0.5, radius! * Math.sqrt(down * across), positive);
    }
  }
  if (drag !== null) circle(drag.row, drag.col, drag.radius, drag.positive);
  for (const button of [undo, clear, save]) button.disabled = turns.length === 0;
}

function place(event: PointerEvent): { row: number; col: number; scale: number } {
  const box = canvas.getBoundingClientRect();
  const scale = canvas.width / box.width;
  return { row: (event.clientY - box.top) * scale - 0.5, col: (event.clientX - box.left) * scale - 0.5, scale };
}

canvas.addEventListener("pointerdown", (event) => {
  if (!event.isPrimary) { // a second finger: a pinch, not a drag
    drag = null;
    return draw();
  }
  if (seen === null || busy || event.button === 1) return;
  canvas.setPointerCapture(event.pointerId);
  const { row, col } = place(event);
  drag = { row, col, radius: 0, positive: event.button !== 2 };
});
canvas.addEventListener("pointermove", (event) => {
  if (drag === null) return;
  const { row, col } = place(event);
  drag.radius = Math.hypot(row - drag.row, col - drag.col);
  draw();
});
canvas.addEventListener("pointerup", (event) => {
  if (drag === null) return;
  const { row, col, radius, positive } = drag;
  drag = null;
  const { scale } = place(event);
  add(row, col, positive, radius < MIN_DRAG * scale ? null : radius).catch(failed);
});
canvas.addEventListener("pointercancel", () => {
  drag = null;
  draw();
});
canvas.addEventListener("contextmenu", (event) => event.preventDefault());

function keep(count: number): void {
  turns = turns.slice(0, count);
  document.body.dataset["turns"] = String(turns.length);
  draw();
}
undo.addEventListener("click", () => keep(turns.length - 1));
clear.addEventListener("click", () => keep(0));
addEventListener("keydown", (event) => {
  if ((event.ctrlKey || event.metaKey) && event.key === "z" && turns.length > 0) keep(turns.length - 1);
});
save.addEventListener("click", () => {
  const white = mask([255, 255, 255], 255);
  if (white === null) return;
  const black = new OffscreenCanvas(white.width, white.height);
  const brush = black.getContext("2d")!;
  brush.fillRect(0, 0, black.width, black.height);
  brush.drawImage(white, 0, 0);
  void black.convertToBlob().then((blob) => {
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: "mask.png" });
    link.click();
    URL.revokeObjectURL(link.href);
  });
});

const file = find<HTMLInputElement>("file");
file.addEventListener("change", () => {
  if (file.files?.[0] !== undefined) open(file.files[0]).catch(failed);
});
for (const [name, over] of [["dragover", true], ["dragleave", false], ["drop", false]] as const) {
  stage.addEventListener(name, (event) => {
    event.preventDefault();
    stage.classList.toggle("over", over);
    const dropped = name === "drop" ? (event as DragEvent).dataTransfer?.files[0] : undefined;
    if (dropped !== undefined) open(dropped).catch(failed);
  });
}

const began = performance.now();
loaded.then(() => {
  report("Network loaded", began);
  document.body.dataset["ready"] = "true";
}, failed);
