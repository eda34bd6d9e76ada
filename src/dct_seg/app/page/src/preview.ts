// The live mask: at most one request in flight, the newest drag sent when it answers. It drops frames, and never lags behind.
import { call, type Click, type Preview } from "./api";

export class LivePreview {
  private waiting: { id: string; revision: number; click: Click } | null = null;
  private busy = false;
  private seq = 0;
  private oldest = 0;

  /** `show` gets each answer that is still wanted; `failed` what went wrong. */
  constructor(
    private readonly show: (preview: Preview, click: Click) => Promise<void>,
    private readonly failed: (error: unknown) => void,
  ) {}

  /** Ask for the mask of a click; an earlier wish that has not been sent is dropped. */
  ask(id: string, revision: number, click: Click): void {
    this.waiting = { id, revision, click };
    if (!this.busy) void this.run();
  }

  /** Answers to what was asked before are not wanted any more. */
  forget(): void {
    this.waiting = null;
    this.oldest = this.seq + 1;
  }

  private async run(): Promise<void> {
    this.busy = true;
    while (this.waiting !== null) {
      const { id, revision, click } = this.waiting;
      this.waiting = null;
      const seq = ++this.seq;
      try {
        const answer = await call<Preview | undefined>("POST", `pictures/${id}/preview`, { revision, click, seq });
        if (answer !== undefined && seq >= this.oldest) await this.show(answer, click);
      } catch (error) {
        if (seq >= this.oldest) this.failed(error);
      }
    }
    this.busy = false;
  }
}
