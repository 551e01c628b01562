/** Timers by injection, so that tests turn the clock by hand. */
export interface Clock {
  /** Calls back once; the returned function cancels. Such a timer alone does not keep the process alive. */
  after(delayMs: number, callback: () => void): () => void;
}

export const systemClock: Clock = {
  after: (delayMs, callback) => {
    const timer = setTimeout(callback, delayMs);
    timer.unref();
    return () => clearTimeout(timer);
  },
};

/** ±10 %, so that the nodes of a cluster do not act in step. */
export function jittered(delayMs: number): number {
  return Math.round(delayMs * (0.9 + Math.random() * 0.2));
}
