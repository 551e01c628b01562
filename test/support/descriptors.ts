/** A process that has no descriptor left, for a while. */
import { closeSync, openSync, readdirSync, readFileSync } from 'node:fs';
import { errnoOf } from '../../src/errors.ts';
import { run } from './process.ts';

/** What starts and ends the want: pipes of `prlimit`. */
const spareCount = 16;

async function limitTo(soft: number): Promise<void> {
  await run('prlimit', ['--pid', String(process.pid), `--nofile=${soft}:`]);
}

/** Runs `work` while this process can open nothing. */
export async function withoutDescriptors<T>(work: () => Promise<T>): Promise<T> {
  const limit = Number(/^Max open files +(\d+)/m.exec(readFileSync('/proc/self/limits', 'utf8'))?.[1]);
  const spares = Array.from({ length: spareCount }, () => openSync('/dev/null', 'r'));
  try {
    await limitTo(Math.max(...readdirSync('/proc/self/fd').map(Number)) + 1 + spareCount);
    for (;;) spares.push(openSync('/dev/null', 'r'));
  } catch (error) {
    if (errnoOf(error) !== 'EMFILE') throw error;
  }
  try {
    return await work();
  } finally {
    for (const fd of spares) closeSync(fd);
    await limitTo(limit);
  }
}
