/** The descriptors of this process: a test asks whether all that it opened are closed again. */
import { readdirSync, readlinkSync } from 'node:fs';
import { until } from './process.ts';

const directory = '/proc/self/fd';

export function openDescriptors(): number {
  return readdirSync(directory).length;
}

/** Number of each descriptor, and what it stands for: a path, `socket:[inode]`, … */
export function descriptorLinks(): (readonly [string, string])[] {
  return readdirSync(directory).flatMap((name) => {
    try {
      return [[name, readlinkSync(`${directory}/${name}`)] as const];
    } catch {
      // The descriptor of the directory that is being read.
      return [];
    }
  });
}

/**
 * Resolves once there are `most` or fewer. Fewer: what earlier tests of the process left to the garbage collector, or to
 * the kernel, may go meanwhile. Throws after 10 s, with what is open.
 */
export async function descriptorsBackTo(most: number): Promise<void> {
  await until('descriptors are back', () => openDescriptors() <= most).catch((error: unknown) => {
    throw new Error(`${openDescriptors()} descriptors are open, not ${most}: ${descriptorLinks().join('; ')}`, {
      cause: error,
    });
  });
}
