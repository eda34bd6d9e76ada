// Segment an object in an image through `dct-seg serve`; Node 18 or newer, no packages.
// node docs/examples/serve_client.mjs http://127.0.0.1:8766 image.jpg ROW COL [RADIUS] > mask.png
import { readFile } from "node:fs/promises";
import { extname } from "node:path";

const TYPES = { ".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp" };
const [server, file, row, col, radius] = process.argv.slice(2);
const token = process.env.DCT_SEG_TOKEN;

async function call(path, body, type) {
  const headers = { "Content-Type": type, ...(token && { Authorization: `Bearer ${token}` }) };
  const answer = await fetch(`${server}/api/v1${path}`, { method: "POST", headers, body });
  if (!answer.ok) throw new Error((await answer.json()).error);
  return answer;
}

const image = await (await call("/images", await readFile(file), TYPES[extname(file).toLowerCase()])).json();
const click = { row: Number(row), col: Number(col), radius: radius === undefined ? null : Number(radius) };
const prompt = JSON.stringify({ clicks: [click] });
const found = await (await call(`/images/${image.id}/predict`, prompt, "application/json")).json();
console.error(`${found.area} of ${image.height}x${image.width} pixels, box ${JSON.stringify(found.bbox)}`);
const mask = await call(`/images/${image.id}/mask.png`, prompt, "application/json");
process.stdout.write(Buffer.from(await mask.arrayBuffer()));
