// The exported graphs in onnxruntime-web: encode an image, then a mask after each click.
import * as ort from "onnxruntime-web/wasm";
import wasm from "onnxruntime-web/ort-wasm-simd-threaded.wasm?url";
import { correctionRadius, markClicks, shortenPredictedRadii, type Click } from "./clicks";

ort.env.wasm.wasmPaths = { wasm };
ort.env.wasm.numThreads = 1; // more threads need a cross-origin isolated site

/** Content of dct_seg.json; src/dct_seg/methods/exported.py documents each field. */
interface Card {
  kind: string;
  is_late: boolean;
  multiple: number;
  has_drag_head: boolean;
  version: number;
}

/** Image at the size of the network's input. */
export interface Encoded {
  height: number;
  width: number;
  image: ort.Tensor;
  features: Record<string, ort.Tensor> | null;
}

export class Network {
  private constructor(
    private readonly folder: string,
    readonly card: Card,
    private readonly sessions: Map<string, ort.InferenceSession>,
  ) {}

  /** Load the graphs that each click uses. */
  static async load(folder: string): Promise<Network> {
    const answer = await fetch(`${folder}/dct_seg.json`);
    if (!answer.ok) throw new Error(`${folder}/dct_seg.json is missing; run dct-seg export --out ${folder}`);
    const card = (await answer.json()) as Card;
    if (card.kind !== "onnx" || card.version > 1) throw new Error(`${folder} must be an ONNX export of version 1, got ${card.kind} of version ${card.version}; run dct-seg export --format onnx --out ${folder}`);
    const network = new Network(folder, card, new Map());
    for (const name of card.is_late ? ["encoder", "decoder"] : ["network"]) await network.session(name);
    return network;
  }

  /** Size of an image for the network: longer side near `longest`, both sides multiples of `card.multiple`. */
  size(height: number, width: number, longest: number): { height: number; width: number } {
    const scale = Math.min(1, longest / Math.max(height, width));
    const fit = (side: number): number =>
      Math.max(1, Math.round((side * scale) / this.card.multiple)) * this.card.multiple;
    return { height: fit(height), width: fit(width) };
  }

  /** Encode an image, RGBA as read from a canvas. */
  async encode({ data, height, width }: ImageData): Promise<Encoded> {
    const plane = height * width;
    const values = new Float32Array(3 * plane);
    for (let i = 0; i < plane; i++) for (let c = 0; c < 3; c++) values[c * plane + i] = data[4 * i + c]! / 255;
    const image = new ort.Tensor("float32", values, [1, 3, height, width]);
    const encoded: Encoded = { height, width, image, features: null };
    if (this.card.is_late) await this.features(encoded);
    return encoded;
  }

  /** Fill in missing radii, compute the probabilities after the last click, and mark the clicks in them. */
  async predict(seen: Encoded, clicks: Click[], before: Float32Array): Promise<{ clicks: Click[]; probs: Float32Array }> {
    const filled = await this.withRadii(seen, clicks, before);
    const prompt = this.prompt(seen, shortenPredictedRadii(filled), before);
    const feeds = this.card.is_late ? { ...(await this.features(seen)), ...prompt } : { image: seen.image, ...prompt };
    const logits = (await this.run(this.card.is_late ? "decoder" : "network", feeds))["logits"]!.data as Float32Array;
    const probs = logits.map((logit) => 1 / (1 + Math.exp(-logit)));
    markClicks({ height: seen.height, width: seen.width, values: probs }, filled);
    return { clicks: filled, probs };
  }

  private async withRadii(seen: Encoded, given: Click[], before: Float32Array): Promise<Click[]> {
    const mask = { height: seen.height, width: seen.width, values: before };
    const clicks = given.map((click) => (click.radius === null ? { ...click, radius: correctionRadius(click, mask), predicted: true } : click));
    if (clicks.every((click) => click.radius !== null)) return clicks;
    if (!this.card.has_drag_head) throw new Error("a click must have a radius, since this network does not predict one; drag instead");
    const { radii: _, ...prompt } = this.prompt(seen, clicks, before);
    const answer = await this.run("radii", { ...(await this.features(seen)), ...prompt });
    const radii = answer["radii"]!.data as Float32Array;
    return clicks.map((click, i) => ({ ...click, radius: click.radius ?? radii[i]! }));
  }

  private async features(seen: Encoded): Promise<Record<string, ort.Tensor>> {
    seen.features ??= await this.run("encoder", { image: seen.image });
    return seen.features;
  }

  private prompt(seen: Encoded, clicks: Click[], before: Float32Array): Record<string, ort.Tensor> {
    const [count, { height, width }] = [clicks.length, seen];
    const float = (values: number[], shape: number[]): ort.Tensor =>
      new ort.Tensor("float32", Float32Array.from(values), shape);
    const whole = (values: number[], shape: number[]): ort.Tensor =>
      new ort.Tensor("int64", BigInt64Array.from(values.map(BigInt)), shape);
    return {
      coords: float(clicks.flatMap(({ row, col }) => [row, col]), [1, count, 2]),
      labels: whole(clicks.map(({ positive }) => (positive ? 1 : 0)), [1, count]),
      radii: float(clicks.map(({ radius }) => radius ?? NaN), [1, count]),
      previous: new ort.Tensor("float32", before, [1, 1, height, width]),
      size: whole([height, width], [2]),
    };
  }

  private async run(name: string, feeds: Record<string, ort.Tensor>): Promise<Record<string, ort.Tensor>> {
    const session = await this.session(name);
    const taken = Object.fromEntries(session.inputNames.map((input) => [input, feeds[input]!]));
    return (await session.run(taken)) as Record<string, ort.Tensor>;
  }

  private async session(name: string): Promise<ort.InferenceSession> {
    let session = this.sessions.get(name);
    if (session === undefined) {
      session = await ort.InferenceSession.create(`${this.folder}/${name}.onnx`, { executionProviders: ["wasm"] });
      this.sessions.set(name, session);
    }
    return session;
  }
}
