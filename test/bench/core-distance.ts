/**
 * Keeps the distance between two cores out of a comparison. Hypervisors move virtual CPUs between caches while a guest
 * runs, every few seconds here, and a frame that goes over both cores is slower by a third when they are far apart:
 * whichever row has more of that by chance looks worse.
 */
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { run } from '../support/process.ts';

/** Looks for the nearest that they get, before anything is measured. */
const firstLooks = 30;
const lookEveryMs = 100;
const waitMs = 10_000;
const tries = 3;

export class CoreDistance {
  readonly #probe: string;
  readonly #cores: readonly [number, number];
  #nearestNs = Number.POSITIVE_INFINITY;

  private constructor(probe: string, cores: readonly [number, number]) {
    this.#probe = probe;
    this.#cores = cores;
  }

  static async between(one: number, other: number, directory: string): Promise<CoreDistance> {
    const probe = join(directory, 'core_distance');
    await run('gcc', ['-O2', '-pthread', '-o', probe, fileURLToPath(new URL('./core_distance.c', import.meta.url))]);
    const distance = new CoreDistance(probe, [one, other]);
    for (let look = 0; look < firstLooks; look++) {
      distance.#nearestNs = Math.min(distance.#nearestNs, await distance.ns());
      await delay(lookEveryMs);
    }
    return distance;
  }

  /** Nanoseconds that a line of cache takes from one to the other and back, now. */
  async ns(): Promise<number> {
    return Number(await run(this.#probe, this.#cores.map(String)));
  }

  async #near(): Promise<boolean> {
    return (await this.ns()) < 2 * this.#nearestNs;
  }

  /**
   * Measures while the cores are as near as they get, before and after; three tries of at most 10 s each for that, then
   * as it is. `apart` is told how that was.
   */
  async whileNear<T>(measure: () => Promise<T>, apart: (wasApart: boolean) => void): Promise<T> {
    for (let attempt = 1; ; attempt++) {
      const end = performance.now() + waitMs;
      while (!(await this.#near()) && performance.now() < end) await delay(lookEveryMs);
      const value = await measure();
      const near = await this.#near();
      if (!near && attempt < tries) continue;
      apart(!near);
      return value;
    }
  }
}
