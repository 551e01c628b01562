/** The clock of this room, injected so that tests own time. Monotonic, milliseconds. */
export interface Timers {
  now(): number;
  /** @returns cancels; calling it late or twice is harmless */
  after(milliseconds: number, run: () => void): () => void;
}

export const systemTimers: Timers = {
  now: () => performance.now(),
  after: (milliseconds, run) => {
    const timer = setTimeout(run, milliseconds);
    return () => clearTimeout(timer);
  },
};
