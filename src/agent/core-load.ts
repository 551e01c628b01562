/** How idle each core of the node was, as /proc/stat counts it (proc_stat(5)); in a container, too. */
import { readFileSync } from 'node:fs';

interface Ticks {
  readonly idle: number;
  readonly all: number;
}

export class CoreLoad {
  readonly #read: () => string;
  #last: ReadonlyMap<number, Ticks> = new Map();

  constructor(read = (): string => readFileSync('/proc/stat', 'utf8')) {
    this.#read = read;
  }

  /** Core → idle share (0 to 1) since the last call; without cores that are new or whose ticks stand still. */
  idleShares(): ReadonlyMap<number, number> {
    const now = ticksOf(this.#read());
    const shares = new Map<number, number>();
    for (const [core, { idle, all }] of now) {
      const last = this.#last.get(core);
      if (last !== undefined && all > last.all) shares.set(core, (idle - last.idle) / (all - last.all));
    }
    this.#last = now;
    return shares;
  }
}

/** `cpuN user nice system idle iowait irq softirq steal …`, in ticks; what a guest used is in `user` and `nice`, too. */
function ticksOf(stat: string): ReadonlyMap<number, Ticks> {
  const cores = new Map<number, Ticks>();
  for (const [, core, fields] of stat.matchAll(/^cpu(\d+) (.*)$/gm)) {
    const counts = (fields ?? '').split(' ').slice(0, 8).map(Number);
    const [, , , idle = 0, ioWait = 0] = counts;
    cores.set(Number(core), { idle: idle + ioWait, all: counts.reduce((sum, count) => sum + count, 0) });
  }
  return cores;
}
