/**
 * How long a source waits before it serves a backend again: 100 ms to 1 s, doubling until a connection has settled, with
 * ±20 % jitter, since hundreds of attachments must not knock, or negotiate, together.
 */
export const firstWaitMs = 100;
export const longestWaitMs = 1000;
const jitter = 0.2;

/** A connection that ended sooner did not work out. */
export const settledMs = 1000;

export class Backoff {
  readonly #random: () => number;
  /** Waits since a connection last settled. */
  #waits = 0;

  constructor(random: () => number = Math.random) {
    this.#random = random;
  }

  reset(): void {
    this.#waits = 0;
  }

  nextMs(): number {
    const delay = Math.min(firstWaitMs * 2 ** Math.min(this.#waits, 16), longestWaitMs);
    this.#waits += 1;
    return this.jittered(delay);
  }

  jittered(delay: number): number {
    return delay * (1 + jitter * (2 * this.#random() - 1));
  }
}
