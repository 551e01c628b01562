/** (d) Start-up of the CNI executable (VERSION) beyond a static process that does nothing. */
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { run } from '../support/process.ts';
import { executablePath } from '../support/runtime.ts';
import { summarize, type Summary } from './statistics.ts';

export interface ExecutableResult {
  readonly version: Summary;
  readonly nothing: Summary;
  readonly beyondMs: number;
  readonly residentMb: number;
}

export async function benchExecutable(directory: string, rounds: number): Promise<ExecutableResult> {
  const nothing = join(directory, 'nothing');
  const timer = join(directory, 'spawn_time');
  writeFileSync(`${nothing}.c`, 'int main(void) { return 0; }\n');
  await run('musl-gcc', ['-Os', '-static', '-o', nothing, `${nothing}.c`]);
  // Static too: a child's peak resident size counts what it shares with its parent before exec.
  await run('musl-gcc', ['-O2', '-static', '-o', timer, fileURLToPath(new URL('./spawn_time.c', import.meta.url))]);
  const lines = (await run(timer, [String(rounds), executablePath, nothing])).trim().split('\n');
  const values = (which: string, column: number): number[] =>
    lines.filter((line) => line.startsWith(which)).map((line) => Number(line.split(' ')[column]));
  const version = summarize(values('a', 1).map((us) => us / 1000));
  const empty = summarize(values('b', 1).map((us) => us / 1000));
  return {
    version,
    nothing: empty,
    beyondMs: version.median - empty.median,
    residentMb: summarize(values('a', 2)).median / 1024,
  };
}
