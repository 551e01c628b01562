/** Where the threads of a process may run, as the kernel tells it. */
import { readdirSync, readFileSync } from 'node:fs';
import { allowedCores } from '../../src/agent/limits.ts';

export interface ThreadCores {
  readonly name: string;
  readonly cores: readonly number[];
}

export function threadCores(pid: number | 'self'): readonly ThreadCores[] {
  return readdirSync(`/proc/${pid}/task`).flatMap((thread) => {
    try {
      const status = readFileSync(`/proc/${pid}/task/${thread}/status`, 'utf8');
      return [{ name: /^Name:\s*(.*)$/m.exec(status)?.[1] ?? '', cores: allowedCores(status) }];
    } catch {
      return []; // it has ended meanwhile
    }
  });
}
