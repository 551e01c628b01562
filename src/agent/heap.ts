/**
 * Keeps the agent's JavaScript heap near what it needs. V8 grows it for throughput: a burst of CNI calls leaves tens of
 * megabytes of empty pages behind, which an idle agent would hold for ever. The young generation is kept from growing,
 * code is not optimized, and some time after the last call a full collection gives the rest back. It costs a few tens of
 * milliseconds of the JavaScript thread while nobody waits; packets are moved by other threads.
 */
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';

/** Quiet time after the last call before the heap is trimmed, milliseconds. */
const quietMs = 2_000;

type Collect = (options: {
  readonly type: 'major';
  readonly execution: 'async';
  readonly flavor: 'last-resort';
}) => Promise<void>;

/**
 * Call once, before anything allocates much. The optimizing compilers are off: an agent serves a call now and then, and
 * what they would make of it is megabytes of code, by threads that on a node with one free core take more from the calls
 * than they give (measured: ADD a tenth quicker without them, 8 MB less with 250 interfaces).
 */
export function preferSmallHeap(): void {
  for (const flag of ['--semi-space-growth-factor=1', '--no-opt', '--no-maglev']) setFlagsFromString(flag);
}

export class HeapTrimmer {
  readonly #collect: Collect;
  #timer: NodeJS.Timeout | null = null;

  constructor() {
    setFlagsFromString('--expose-gc');
    this.#collect = runInNewContext('gc') as Collect;
  }

  /** A call was served. */
  touch(): void {
    if (this.#timer !== null) {
      this.#timer.refresh();
      return;
    }
    this.#timer = setTimeout(() => {
      this.#timer = null;
      void this.#collect({ type: 'major', execution: 'async', flavor: 'last-resort' });
    }, quietMs);
    this.#timer.unref();
  }

  stop(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }
}
