/**
 * Attachments whose last connection was cut before the backend had given its rings back. A switch may still be ending
 * such a connection, or find its end when it goes on after a stop, and its OVS port must stay meanwhile (`removePort` in
 * `detach.ts`). Kept beside the attachments, since a second DEL finds none that runs.
 */
import type { Timers } from '../clock.ts';

/** A switch that works has seen the end by then; shorter than the wait before a removal is tried again. */
export const settlingMs = 20_000;

export class CutConnections {
  readonly #timers: Pick<Timers, 'now'>;
  /** By id, in the order of the cuts. */
  readonly #cutAtMs = new Map<string, number>();

  constructor(timers: Pick<Timers, 'now'>) {
    this.#timers = timers;
  }

  add(id: string): void {
    this.#expire();
    this.#cutAtMs.delete(id);
    this.#cutAtMs.set(id, this.#timers.now());
  }

  /** A later connection runs: the switch is done with the one before. */
  forget(id: string): void {
    this.#cutAtMs.delete(id);
  }

  has(id: string): boolean {
    this.#expire();
    return this.#cutAtMs.has(id);
  }

  #expire(): void {
    for (const [id, atMs] of this.#cutAtMs) {
      if (this.#timers.now() - atMs < settlingMs) return;
      this.#cutAtMs.delete(id);
    }
  }
}
