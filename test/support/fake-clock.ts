/** Time that passes when a test says so, and waits that end with events. */
import type { Clock } from '../../src/clock.ts';
import { ManualTimers } from './manual-timers.ts';

export class FakeClock implements Clock {
  readonly #timers = new ManualTimers(1_000_000);

  now(): number {
    return this.#timers.now();
  }

  wallMs(): number {
    return 1_700_000_000_000 + this.now();
  }

  after(ms: number, run: () => void): () => void {
    return this.#timers.after(ms, run);
  }

  /** Runs what falls due, in order, letting promises settle in between. */
  async advance(ms: number): Promise<void> {
    const end = this.now() + ms;
    do await settle();
    while (this.#timers.runNext(end));
    await settle();
  }
}

/** Lets every promise that can settle without input or a timer do so: many turns of what a fake's operation takes. */
export async function settle(): Promise<void> {
  for (let index = 0; index < 20; index += 1) await turn();
}

/** What an operation of a fake takes: it is never done on the caller's stack. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Turns of the event loop until the condition holds; a test that hangs here ends at its time limit. */
export async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await settle();
}
