// Chosen or dropped files to import, and the zip that sends related files together.
import { Zip, ZipPassThrough } from "fflate";

import { count } from "./dom";

export interface GivenFile {
  /** Path below the chosen folder. */
  path: string;
  file: File;
  /** Whether the file itself was chosen, not its folder. */
  loose: boolean;
}

const RECORDS = ["json", "jsonl", "xml", "png", "txt"];
const YOLO = ["txt", "yaml", "yml"]; // the images of a YOLO dataset are not sent
const MAX_BYTES = 127 * 2 ** 20; // the server accepts 128 MiB
const MAX_FILES = 65_000; // a zip without extensions has at most 65,535

export function kindOf(name: string): string {
  return name.toLowerCase().split(".").pop() ?? "";
}

export function chosenFiles(files: Iterable<File>): GivenFile[] {
  return [...files].map((file) => {
    const below = file.webkitRelativePath.split("/").slice(1).join("/");
    return { path: below || file.name, file, loose: below === "" };
  });
}

/** List dropped files, and all files in dropped folders. */
export async function droppedFiles(data: DataTransfer): Promise<GivenFile[]> {
  const entries = [...data.items].map((one) => one.webkitGetAsEntry()).filter((one) => one !== null); // only during the event
  if (entries.length === 0) return chosenFiles(data.files);
  const only = entries.length === 1 ? entries[0] : undefined;
  return (await Promise.all(entries.map((one) => below(one, "", true, one === only)))).flat();
}

async function below(entry: FileSystemEntry, folder: string, loose: boolean, only = false): Promise<GivenFile[]> {
  if (entry.isFile) {
    const file = await new Promise<File>((done, failed) => (entry as FileSystemFileEntry).file(done, failed));
    return [{ path: folder + entry.name, file, loose }];
  }
  const reader = (entry as FileSystemDirectoryEntry).createReader();
  const found: GivenFile[] = [];
  for (;;) {
    const some = await new Promise<FileSystemEntry[]>((done, failed) => reader.readEntries(done, failed)); // a hundred at a time
    if (some.length === 0) return found;
    for (const one of some) found.push(...(await below(one, only ? "" : `${folder}${entry.name}/`, false)));
  }
}

/** Split files into those sent alone and those sent together, such as YOLO's text files; others are skipped. */
export function splitFiles(given: GivenFile[]): { alone: File[]; together: GivenFile[] } {
  if (given.length === 1 && given[0]?.loose) return { alone: [given[0].file], together: [] };
  const isYolo = given.some(({ path }) => /(^|\/)data\.ya?ml$/.test(path));
  const isAlone = ({ path, loose }: GivenFile): boolean => kindOf(path) === "zip" || (loose && !isYolo && kindOf(path) === "txt");
  const alone = given.filter(isAlone).map(({ file }) => file);
  const together = given.filter((one) => !isAlone(one) && (isYolo ? YOLO : RECORDS).includes(kindOf(one.path)));
  return { alone, together };
}

/** Message if there are too many files or bytes to send together, or null. */
export function limitProblem(files: GivenFile[]): string | null {
  const bytes = files.reduce((sum, { file }) => sum + file.size, 0);
  if (bytes <= MAX_BYTES && files.length <= MAX_FILES) return null;
  const size = `${count(files.length, "file")} of ${Math.ceil(bytes / 2 ** 20)} MiB`;
  return `at most ${MAX_FILES} files and ${MAX_BYTES / 2 ** 20} MiB can be imported at once, got ${size}; import fewer, or start with dct-seg annotate DIR --import PATH`;
}

export function isLoosePng({ path, loose }: GivenFile): boolean {
  return loose && kindOf(path) === "png";
}

/** Pack files into a zip without compression, since most are PNGs; besides the zip, only one chunk of a file is in memory. */
export async function zipOf(files: GivenFile[]): Promise<Blob> {
  const parts: Blob[] = [];
  const zip = new Zip((error, part) => {
    if (error) throw error;
    parts.push(new Blob([part as BlobPart]));
  });
  for (const [path, file] of new Map(files.map((one) => [one.path, one.file]))) {
    const entry = new ZipPassThrough(path);
    zip.add(entry);
    const chunks = file.stream().getReader();
    for (let chunk = await chunks.read(); !chunk.done; chunk = await chunks.read()) entry.push(chunk.value, false);
    entry.push(new Uint8Array(), true);
  }
  zip.end();
  return new Blob(parts);
}
