/** 2 MiB hugepages for DPDK backends: reserved for the run, given back afterwards. */
import { readFileSync, writeFileSync } from 'node:fs';
import type { Cleanup } from './cleanup.ts';

const total = '/proc/sys/vm/nr_hugepages';

function meminfo(name: string): number {
  return Number(new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(readFileSync('/proc/meminfo', 'utf8'))?.[1] ?? 0);
}

/** Makes sure that `sizeMiB` are free. */
export function reserveHugepages(sizeMiB: number, cleanup: Cleanup): void {
  const wanted = Math.ceil(sizeMiB / 2);
  const lacking = wanted - meminfo('HugePages_Free');
  if (lacking <= 0) return;
  const before = Number(readFileSync(total, 'utf8'));
  writeFileSync(total, String(before + lacking));
  cleanup.add('hugepages', () => {
    const now = Number(readFileSync(total, 'utf8'));
    writeFileSync(total, String(Math.max(0, now - lacking)));
  });
  if (meminfo('HugePages_Free') < wanted) throw new Error(`the kernel has no ${sizeMiB} MiB of free hugepages`);
}
