/** Bounds on one kind of call: so many run, so many wait in order, the rest is turned away at once. */
import { messageOf, VirtioUserError } from '../errors.ts';

export interface AdmissionLimits {
  /** For messages: the verb. */
  readonly what: string;
  readonly running: number;
  readonly waiting: number;
}

export class Admission {
  readonly #limits: AdmissionLimits;
  #running = 0;
  readonly #waiting: (() => void)[] = [];

  constructor(limits: AdmissionLimits) {
    this.#limits = limits;
  }

  /** @throws RESOURCE_EXHAUSTED when the queue is full, CANCELLED when the signal ends the wait */
  async run<T>(signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    if (this.#running >= this.#limits.running) await this.#wait(signal);
    else this.#running += 1;
    try {
      return await work();
    } finally {
      const next = this.#waiting.shift();
      if (next === undefined) this.#running -= 1;
      else next(); // the place is handed over, not given back
    }
  }

  #wait(signal: AbortSignal): Promise<void> {
    const { what, waiting } = this.#limits;
    if (this.#waiting.length >= waiting) {
      throw new VirtioUserError(
        'RESOURCE_EXHAUSTED',
        `${what}: ${this.#running} run and ${this.#waiting.length} wait already`,
      );
    }
    return new Promise((resolve, reject) => {
      const leave = (): void => {
        const at = this.#waiting.indexOf(start);
        if (at !== -1) this.#waiting.splice(at, 1);
        reject(new VirtioUserError('CANCELLED', `${what} waited for its turn: ${messageOf(signal.reason)}`));
      };
      const start = (): void => {
        signal.removeEventListener('abort', leave);
        resolve();
      };
      if (signal.aborted) {
        leave();
        return;
      }
      signal.addEventListener('abort', leave, { once: true });
      this.#waiting.push(start);
    });
  }
}
