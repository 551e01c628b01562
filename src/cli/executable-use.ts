/** Waits for the calls that still run an executable: one that was removed from its directory begins no other. */
import { open, type FileHandle } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { errnoOf } from '../errors.ts';

/** An ADD, the longest call, ends after 60 s. */
const limitMs = 65_000;
const pollMs = 50;

/** @returns null: there is no such file */
export async function openExecutable(path: string): Promise<FileHandle | null> {
  try {
    return await open(path, 'r');
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return null;
    throw error;
  }
}

/** Resolves when no process runs the file any more. (Linux 6.11 and 6.12 do not tell: then at once.) */
export async function waitUntilUnused(executable: FileHandle): Promise<void> {
  const deadlineMs = performance.now() + limitMs;
  while (performance.now() < deadlineMs && (await isRunning(executable))) await sleep(pollMs);
}

/** The kernel lets nobody write to a program that runs, in whichever container. */
async function isRunning(executable: FileHandle): Promise<boolean> {
  try {
    await (await open(`/proc/self/fd/${executable.fd}`, 'r+')).close();
    return false;
  } catch (error) {
    return errnoOf(error) === 'ETXTBSY';
  }
}
