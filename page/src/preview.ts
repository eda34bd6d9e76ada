// Live masks: at most two requests in flight, so that one is computed while the other is in transit. The newest drag is sent when a
// response arrives: frames are dropped, but the mask never lags behind.
import { call, type Click, type Preview } from "./api";

const IN_FLIGHT = 2;
const REST = 160; // milliseconds without movement before a coarse live mask is replaced with the exact one

interface PendingPreview {
  id: string;
  revision: number;
  click: Click;
  live: boolean;
  at: number;
}

export class LivePreview {
  private waiting: PendingPreview | null = null;
  private flying = 0;
  private seq = 0;
  private oldest = 0;
  private rest: ReturnType<typeof setTimeout> | undefined;

  /** `show` receives each current response and its age in milliseconds; `failed` receives errors. */
  constructor(
    private readonly show: (preview: Preview, click: Click, age: () => number) => Promise<void>,
    private readonly failed: (error: unknown) => void,
  ) {}

  /** Request the mask of a click; an earlier request that has not been sent is dropped. */
  request(id: string, revision: number, click: Click, after = 0): void {
    this.schedule({ id, revision, click, live: true, at: performance.now() }, after);
  }

  /** Ignore the responses to all earlier requests. */
  forget(): void {
    clearTimeout(this.rest);
    this.waiting = null;
    this.oldest = this.seq + 1;
  }

  private schedule(pending: PendingPreview, after: number): void {
    clearTimeout(this.rest);
    if (after > 0) {
      this.rest = setTimeout(() => this.schedule({ ...pending, at: performance.now() }, 0), after);
      return;
    }
    this.waiting = pending;
    if (this.flying < IN_FLIGHT) void this.run();
  }

  private async run(): Promise<void> {
    this.flying++;
    while (this.waiting !== null) {
      const { id, revision, click, live, at } = this.waiting;
      this.waiting = null;
      const seq = ++this.seq;
      try {
        const answer = await call<Preview | undefined>("POST", `pictures/${id}/preview`, { revision, click, live, seq });
        if (answer === undefined || seq < this.oldest) continue;
        this.oldest = seq + 1; // an older response that arrives late is ignored
        if (!answer.exact && this.waiting === null) this.schedule({ id, revision, click, live: false, at }, REST);
        void this.show(answer, click, () => performance.now() - at).catch(this.failed); // drawn while the next one is computed
      } catch (error) {
        if (seq >= this.oldest) this.failed(error);
      }
    }
    this.flying--;
  }
}
