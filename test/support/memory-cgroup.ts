/** A memory cgroup with a limit, as the pod has in which somebody runs the executable; version 1 or 2, as the machine has. */
import { existsSync, mkdirSync, readFileSync, rmdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Cleanup } from './cleanup.ts';
import { until } from './process.ts';

const version1 = '/sys/fs/cgroup/memory';
const version2 = '/sys/fs/cgroup';

export class MemoryCgroup {
  readonly path: string;
  readonly #isVersion2: boolean;

  private constructor(path: string, isVersion2: boolean) {
    this.path = path;
    this.#isVersion2 = isVersion2;
  }

  static create(name: string, limitBytes: number, cleanup: Cleanup): MemoryCgroup {
    const isVersion2 = !existsSync(version1);
    const path = join(isVersion2 ? version2 : version1, name);
    mkdirSync(path);
    const cgroup = new MemoryCgroup(path, isVersion2);
    cleanup.add(`cgroup ${name}`, () => cgroup.#remove());
    writeFileSync(join(path, isVersion2 ? 'memory.max' : 'memory.limit_in_bytes'), String(limitBytes));
    return cgroup;
  }

  /** Command and arguments that run another command inside. */
  within(command: string): readonly [string, readonly string[]] {
    return ['/bin/sh', ['-c', 'echo $$ >"$1/cgroup.procs" && exec "$2"', 'sh', this.path, command]];
  }

  get peakBytes(): number {
    return Number(this.#read(this.#isVersion2 ? 'memory.peak' : 'memory.max_usage_in_bytes'));
  }

  /** How often the limit was hit, processes killed for it included. */
  get limitHits(): number {
    if (!this.#isVersion2) return Number(this.#read('memory.failcnt'));
    const events = this.#read('memory.events').matchAll(/^(?:max|oom|oom_kill) (\d+)$/gm);
    return [...events].reduce((sum, [, count]) => sum + Number(count), 0);
  }

  #read(file: string): string {
    return readFileSync(join(this.path, file), 'utf8').trim();
  }

  /** The kernel notices the end of its last process a moment later. */
  #remove(): Promise<true> {
    return until(`cgroup ${this.path} to be empty`, () => {
      try {
        rmdirSync(this.path);
        return true;
      } catch {
        return false;
      }
    });
  }
}
