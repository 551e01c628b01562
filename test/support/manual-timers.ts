/** A clock that stands still until the test moves it. */
import type { Timers } from '../../src/clock.ts';

interface Alarm {
  readonly at: number;
  readonly run: () => void;
}

export class ManualTimers implements Timers {
  #now: number;
  readonly #alarms = new Set<Alarm>();

  constructor(startMs = 0) {
    this.#now = startMs;
  }

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
    const end = this.#now + milliseconds;
    while (this.runNext(end));
  }

  /** Lets time pass up to the next alarm and runs it. With none until `end` it is `end`, and the answer false. */
  runNext(end: number): boolean {
    const next = [...this.#alarms].filter(({ at }) => at <= end).sort((a, b) => a.at - b.at)[0];
    this.#now = next?.at ?? end;
    if (next === undefined) return false;
    this.#alarms.delete(next);
    next.run();
    return true;
  }
}
