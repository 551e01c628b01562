/** Where the threads of a process may run, as the kernel tells it. */
import { readdirSync, readFileSync } from 'node:fs';
import { coreList } from '../../src/agent/option-values.ts';

export interface ThreadCores {
  readonly name: string;
  readonly cores: readonly number[];
}

/** Of what /proc has as `status`. */
export function coresOf(status: string): readonly number[] {
  return coreList(/^Cpus_allowed_list:\s*(\S+)$/m.exec(status)?.[1]);
}

export function threadCores(pid: number | 'self'): readonly ThreadCores[] {
  return readdirSync(`/proc/${pid}/task`).flatMap((thread) => {
    try {
      const status = readFileSync(`/proc/${pid}/task/${thread}/status`, 'utf8');
      return [{ name: /^Name:\s*(.*)$/m.exec(status)?.[1] ?? '', cores: coresOf(status) }];
    } catch {
      return []; // it has ended meanwhile
    }
  });
}
