/** A clock that stands still until the test moves it. */
import type { Timers } from '../../src/clock.ts';

interface Alarm {
  readonly at: number;
  readonly run: () => void;
}

export class ManualTimers implements Timers {
  #now = 0;
  readonly #alarms = new Set<Alarm>();

  now(): number {
    return this.#now;
  }

  after(milliseconds: number, run: () => void): () => void {
    const alarm = { at: this.#now + milliseconds, run };
    this.#alarms.add(alarm);
    return () => this.#alarms.delete(alarm);
  }

  /** Delays still to come, ascending. */
  get pending(): number[] {
    return [...this.#alarms].map(({ at }) => at - this.#now).sort((a, b) => a - b);
  }

  /** Lets time pass; due alarms run in order, those they set too. */
  advance(milliseconds: number): void {
    const until = this.#now + milliseconds;
    for (;;) {
      const next = [...this.#alarms].filter(({ at }) => at <= until).sort((a, b) => a.at - b.at)[0];
      if (next === undefined) break;
      this.#alarms.delete(next);
      this.#now = next.at;
      next.run();
    }
    this.#now = until;
  }
}
