// Client of the server's HTTP interface, /api/v1: its types, and one function per kind of request. Coordinates are pixels of the full-size image.

export interface Class {
  id: number;
  name: string;
  color: string;
}

export interface ListedImage {
  id: string;
  name: string;
  num_objects: number;
  has_draft: boolean;
  nothing: boolean;
  error: string | null;
}

export interface Project {
  name: string;
  model: { name: string; prompts: "click" | "drag" };
  threshold: number;
  classes: Class[];
  pictures: ListedImage[];
  last: string | null;
  serial: number;
  files: number;
}

/** Click in a request; with `radius` null, the model chooses one. */
export interface Click {
  row: number;
  col: number;
  positive: boolean;
  radius: number | null;
}

/** Click in a response; `given` is false if the model chose the radius. */
export interface UsedClick {
  row: number;
  col: number;
  positive: boolean;
  radius: number | null;
  given: boolean;
}

export interface Mask {
  row: number;
  col: number;
  height: number;
  width: number;
  png: string;
}

export interface SegmentedObject {
  id: number;
  class_id: number;
  num_clicks: number;
  area: number;
  bbox: [number, number, number, number];
  polygons: [number, number][][];
  locked: boolean;
}

export interface Draft {
  clicks: UsedClick[];
  class_id: number;
  edits: number | null;
  threshold: number;
}

/** Manual step in a request: a stroke of [row, col, radius], a lasso of [row, col], or a clean-up without points. */
export interface Paint {
  kind: "brush" | "lasso" | "fill_holes" | "drop_specks" | "keep_largest";
  positive: boolean;
  points: number[][];
}

export interface AnnotatedImage {
  id: string;
  name: string;
  width: number;
  height: number;
  revision: number;
  can_undo: boolean;
  can_redo: boolean;
  draft: Draft | null;
  objects: SegmentedObject[];
  brief: boolean;
  gone: number[];
  mask: Mask | null;
  nothing: boolean;
}

export interface Preview {
  seq: number;
  mask: Mask;
  exact: boolean;
  radius: number | null;
  milliseconds: { model: number; total: number };
}

export interface TabState {
  alone: boolean;
  elsewhere: string[];
  serial: number;
  files: number;
  classes: Class[];
  changed: ListedImage[];
}

export interface Imported {
  pictures: number;
  objects: number;
  known: number;
  skipped: string[];
}

export const FORMATS = {
  coco: "COCO JSON",
  indexed_png: "Indexed PNG, one per image",
  object_png: "PNG, one per object",
  labelme: "labelme JSON",
  clicks: "Clicks, to replay",
  yolo: "YOLO segmentation",
  voc: "Pascal VOC",
  cvat: "CVAT 1.1",
  label_studio: "Label Studio",
  datumaro: "Datumaro",
} as const;

/** Error for a refused request, with the server's message. */
export class Refused extends Error {
  constructor(
    readonly status: number,
    message: string,
    readonly holder: boolean,
  ) {
    super(message);
  }
}

/** Error for a request without a response: the server cannot be reached. */
export class Unreachable extends Error {}

const TOKEN = new URL(location.href).searchParams.get("token");
const BASE = new URL("api/v1/", document.baseURI);

/** Name of this tab: survives a reload, but is not shared with a duplicate of the tab. */
export const TAB = sessionStorage.getItem("tab") ?? crypto.getRandomValues(new Uint32Array(3)).join("-");
sessionStorage.removeItem("tab");
addEventListener("pagehide", () => sessionStorage.setItem("tab", TAB));

/** URL below /api/v1, with the token for requests that cannot send a header (images, downloads). */
export function address(path: string): string {
  const url = new URL(path, BASE);
  if (TOKEN !== null) url.searchParams.set("token", TOKEN);
  return url.href;
}

async function fetched(method: string, path: string, body?: unknown, signal?: AbortSignal): Promise<Response> {
  const headers: Record<string, string> = { "X-DCT-Seg-Tab": TAB };
  if (TOKEN !== null) headers["X-DCT-Seg-Token"] = TOKEN;
  if (body !== undefined) headers["Content-Type"] = body instanceof Blob ? body.type : "application/json";
  const sent = body === undefined ? null : body instanceof Blob ? body : JSON.stringify(body);
  let response: Response;
  try {
    response = await fetch(new URL(path, BASE), { method, headers, body: sent, signal: signal ?? null });
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new Unreachable("the server does not respond");
  }
  if (response.ok) return response;
  if (response.status === 502 || response.status === 504) throw new Unreachable("the server does not respond"); // from a proxy
  const problem = (await response.json().catch(() => ({}))) as { error?: string; holder?: unknown };
  throw new Refused(response.status, problem.error ?? `${method} ${path}: ${response.status}`, response.status === 409 && "holder" in problem);
}

/** Send a request and return its JSON; undefined for 204. Throws Refused or Unreachable. */
export async function call<T>(method: "GET" | "POST" | "PUT" | "PATCH" | "DELETE", path: string, body?: unknown): Promise<T> {
  const response = await fetched(method, path, body);
  return (response.status === 204 ? undefined : await whole(response.json())) as T;
}

/** Wait for the rest of a response; Unreachable if the connection ends before it does. */
function whole<T>(content: Promise<T>): Promise<T> {
  return content.catch((error: unknown) => {
    throw error instanceof TypeError ? new Unreachable("the server does not respond") : error;
  });
}

/** Tell the server that this tab is closing, so that it releases the tab's image at once. */
export function leave(): void {
  const headers: Record<string, string> = { "Content-Type": "application/json" };
  if (TOKEN !== null) headers["X-DCT-Seg-Token"] = TOKEN;
  void fetch(new URL("tabs", BASE), { method: "POST", headers, body: JSON.stringify({ tab: TAB }), keepalive: true }).catch(() => undefined);
}

/** Load an image for display, its longer side at most `maxSide` pixels. */
export async function loadImage(id: string, maxSide: number, signal: AbortSignal): Promise<ImageBitmap> {
  const response = await fetched("GET", `pictures/${id}/image?max_side=${maxSide}`, undefined, signal);
  return createImageBitmap(await whole(response.blob()));
}
