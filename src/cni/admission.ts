/** Bounds on ADDs: so many run, so many wait in order, the rest is turned away at once. Other verbs are never held up. */
import { VirtioUserError } from '../errors.ts';

const runningLimit = 16;
const waitingLimit = 512;

export class Admission {
  #running = 0;
  readonly #waiting: (() => void)[] = [];

  /** @throws RESOURCE_EXHAUSTED when the queue is full, CANCELLED when the caller left it */
  async run<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    if (this.#running >= runningLimit) await this.#wait(signal);
    else this.#running += 1;
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#running -= 1;
      else next();
    }
  }

  #wait(signal: AbortSignal): Promise<void> {
    if (this.#waiting.length >= waitingLimit) {
      throw new VirtioUserError(
        'RESOURCE_EXHAUSTED',
        `ADD: ${this.#running} run and ${this.#waiting.length} wait already`,
      );
    }
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        const at = this.#waiting.indexOf(start);
        if (at !== -1) this.#waiting.splice(at, 1);
        reject(new VirtioUserError('CANCELLED', 'ADD: the caller left the queue'));
      };
      const start = (): void => {
        signal.removeEventListener('abort', onAbort);
        resolve();
      };
      signal.addEventListener('abort', onAbort, { once: true });
      this.#waiting.push(start);
      if (signal.aborted) onAbort();
    });
  }
}
