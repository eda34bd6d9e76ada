// Queue of changes: sent one at a time and repeated until the server responds, so that a lost connection loses nothing.
import { call, Refused, Unreachable } from "./api";

export type Change = () => Promise<void>;

const PAUSES = [300, 600, 1200, 2500, 4000]; // milliseconds before the next attempt

export class Changes {
  /** Number of changes that are waiting or in flight. */
  pending = 0;
  private last: Promise<void> = Promise.resolve();
  private wake: () => void = () => undefined;

  constructor(
    private readonly refused: (error: Refused) => Promise<void> | void,
    private readonly reached: (reached: boolean) => void,
    private readonly counted: () => void,
  ) {}

  /** Add a change to the queue. Each attempt calls it again; it looks up the current revision itself. */
  add(change: Change): Promise<void> {
    this.pending++;
    this.counted();
    const made = this.last.then(async () => {
      try {
        await this.attempt(change);
      } finally {
        this.pending--;
        this.counted();
      }
    });
    this.last = made.catch(() => undefined); // a failed change does not stop the next
    return made;
  }

  /** Send the waiting change again now. */
  retryNow(): void {
    this.wake();
  }

  private async attempt(change: Change): Promise<void> {
    for (let tried = 0; ; tried++) {
      try {
        await change();
        this.reached(true);
        return;
      } catch (error) {
        if (error instanceof Refused) {
          this.reached(true);
          await this.refused(error);
          return;
        }
        if (!(error instanceof Unreachable)) throw error;
        this.reached(false);
        await new Promise<void>((done) => {
          const timer = setTimeout(done, PAUSES[Math.min(tried, PAUSES.length - 1)]);
          this.wake = () => {
            clearTimeout(timer);
            done();
          };
        });
      }
    }
  }
}

/**
 * Make a change that is safe to repeat: after an attempt without a response, the server may have made the change already, so check the
 * revision first, and send only if it has not changed.
 */
export function repeatable<T extends { revision: number }>(
  path: string,
  revision: () => number,
  send: (revision: number) => Promise<T>,
  show: (result: T) => Promise<void> | void,
): Change {
  let sent: number | null = null;
  return async () => {
    if (sent !== null) {
      const now = await call<T>("GET", path);
      if (now.revision !== sent) return show(now);
    }
    sent = sent ?? revision();
    return show(await send(sent));
  };
}
