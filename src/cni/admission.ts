/**
 * Bounds on one kind of call: so many run, so many wait in order, the rest is turned away at once. Calls come in groups,
 * each with a bound of its own below the whole: one network whose switch or IPAM plugin hangs must not hold up the pods
 * of the others. Free places go to the groups in turn.
 */
import { messageOf, VirtioUserError } from '../errors.ts';

export interface AdmissionLimits {
  /** For messages: the verb. */
  readonly what: string;
  readonly running: number;
  readonly runningOfGroup: number;
  readonly waiting: number;
}

interface Group {
  running: number;
  readonly waiting: (() => void)[];
}

export class Admission {
  readonly #limits: AdmissionLimits;
  /** What runs or waits; the one whose turn is longest ago comes first. */
  readonly #groups = new Map<string, Group>();
  #running = 0;
  #waiting = 0;

  constructor(limits: AdmissionLimits) {
    this.#limits = limits;
  }

  /** @throws RESOURCE_EXHAUSTED when the queue is full, CANCELLED when the signal ends the wait */
  async run<T>(name: string, signal: AbortSignal, work: () => Promise<T>): Promise<T> {
    const group = this.#groups.get(name) ?? { running: 0, waiting: [] };
    this.#groups.set(name, group);
    try {
      // Nobody who may run waits: places are handed over at once, so that who comes now overtakes nobody.
      if (this.#mayRun(group)) this.#begin(group);
      else await this.#wait(group, signal);
    } catch (error) {
      this.#forgetIfIdle(name, group);
      throw error;
    }
    try {
      return await work();
    } finally {
      group.running -= 1;
      this.#running -= 1;
      this.#handOver();
      this.#forgetIfIdle(name, group);
    }
  }

  #mayRun(group: Group): boolean {
    return this.#running < this.#limits.running && group.running < this.#limits.runningOfGroup;
  }

  #begin(group: Group): void {
    group.running += 1;
    this.#running += 1;
  }

  #handOver(): void {
    for (const [name, group] of [...this.#groups]) {
      if (!this.#mayRun(group)) continue;
      const start = group.waiting.shift();
      if (start === undefined) continue;
      this.#groups.delete(name);
      this.#groups.set(name, group);
      this.#begin(group);
      start();
    }
  }

  #forgetIfIdle(name: string, group: Group): void {
    // By now the name may be that of a later group.
    if (this.#groups.get(name) !== group) return;
    if (group.running === 0 && group.waiting.length === 0) this.#groups.delete(name);
  }

  /** Resolves with a place taken. */
  #wait(group: Group, signal: AbortSignal): Promise<void> {
    const { what, waiting } = this.#limits;
    if (this.#waiting >= waiting) {
      throw new VirtioUserError(
        'RESOURCE_EXHAUSTED',
        `${what}: ${this.#running} run and ${this.#waiting} wait already`,
      );
    }
    return new Promise((resolve, reject) => {
      const leave = (): void => {
        const at = group.waiting.indexOf(start);
        if (at !== -1) {
          group.waiting.splice(at, 1);
          this.#waiting -= 1;
        }
        reject(new VirtioUserError('CANCELLED', `${what} waited for its turn: ${messageOf(signal.reason)}`));
      };
      const start = (): void => {
        this.#waiting -= 1;
        signal.removeEventListener('abort', leave);
        resolve();
      };
      if (signal.aborted) {
        leave();
        return;
      }
      signal.addEventListener('abort', leave, { once: true });
      group.waiting.push(start);
      this.#waiting += 1;
    });
  }
}
