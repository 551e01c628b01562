/** Time by injection, so that tests turn it by hand. Milliseconds. */
export interface Timers {
  /** Monotonic. */
  now(): number;
  /**
   * Calls back once. Such a timer alone does not keep the process alive.
   * @returns cancels; calling it late or twice is harmless
   */
  after(ms: number, run: () => void): () => void;
}

export interface Clock extends Timers {
  /** Since the epoch. */
  wallMs(): number;
}

export const systemClock: Clock = {
  now: () => performance.now(),
  wallMs: () => Date.now(),
  after: (ms, run) => {
    const timer = setTimeout(run, ms);
    timer.unref();
    return () => clearTimeout(timer);
  },
};
