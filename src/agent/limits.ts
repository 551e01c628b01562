/** Limits of this process, as the kernel reports them. */
import { readFileSync } from 'node:fs';
import { coreList } from './option-values.ts';

/** Descriptors per attachment: TAP, memfd, kick and call per ring, socket; 250 attachments must fit with room to spare. */
export const comfortableOpenFiles = 8192;

/** Soft RLIMIT_NOFILE, or null when unlimited. Node.js has raised it to the hard limit at its start. */
export function openFilesLimit(): number | null {
  const soft = /^Max open files\s+(\S+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1];
  return soft === undefined || soft === 'unlimited' ? null : Number(soft);
}

/** Cores that a process or thread may use, ascending. @param status text of its /proc/…/status */
export function allowedCores(status = readFileSync('/proc/self/status', 'utf8')): readonly number[] {
  return coreList(/^Cpus_allowed_list:\s*(\S+)$/m.exec(status)?.[1]);
}
