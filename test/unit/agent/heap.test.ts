import { spawnSync } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from '@jest/globals';

const heap = fileURLToPath(new URL('../../../src/agent/heap.ts', import.meta.url));

/** Runs a program in a process of its own: V8 flags are the whole process's. */
function run(program: string): number[] {
  const child = spawnSync(process.execPath, ['--no-warnings', '--input-type=module', '-e', program], {
    encoding: 'utf8',
  });
  expect(child.stderr).toBe('');
  return child.stdout.trim().split(' ').map(Number);
}

const preferSmall = `import { preferSmallHeap } from '${heap}'; preferSmallHeap();`;

describe('the heap of an agent', () => {
  it('gives back what a burst of calls left behind', () => {
    const [before = 0, after = 0] = run(`
      import { HeapTrimmer } from '${heap}';
      import { getHeapStatistics } from 'node:v8';
      const trimmer = new HeapTrimmer();
      let garbage = Array.from({ length: 400_000 }, (_, index) => ({ index, text: 'x' + index }));
      garbage = null;
      const before = getHeapStatistics().total_heap_size;
      trimmer.touch();
      const look = setInterval(() => {
        const after = getHeapStatistics().total_heap_size;
        if (after < before / 2 || performance.now() > 20_000) {
          clearInterval(look);
          console.log(before, after);
        }
      }, 20);`);
    expect(after).toBeLessThan(before / 2);
  });

  it('keeps its young generation small', () => {
    const [bounded = 0, free = 0] = [preferSmall, ''].map(
      (first) =>
        run(`${first}
          import { getHeapSpaceStatistics } from 'node:v8';
          const kept = [];
          for (let index = 0; index < 2_000_000; index++) {
            const made = { index, text: 'x' + index };
            if (index % 50 === 0) kept.push(made);
          }
          console.log(getHeapSpaceStatistics().find((space) => space.space_name === 'new_space').space_size);`)[0] ?? 0,
    );
    expect(bounded).toBeLessThan(free / 2);
  });

  it('holds no optimized code, however often a function ran', () => {
    /** Of %GetOptimizationStatus, `OptimizationStatus` in V8's src/runtime/runtime.h. */
    const optimized = 1 << 4;
    /** Whether the function came to be, and the milliseconds that it ran. */
    const busyFor = (mostMs: number, first: string): number[] =>
      run(`${first}
        import { setFlagsFromString } from 'node:v8';
        setFlagsFromString('--allow-natives-syntax');
        const status = new Function('of', 'return %GetOptimizationStatus(of)');
        const busy = (to) => { let sum = 0; for (let index = 0; index < to; index++) sum += index % 7; return sum; };
        const began = performance.now();
        const ran = () => performance.now() - began;
        while (ran() < ${mostMs} && (status(busy) & ${optimized}) === 0) {
          for (let round = 0; round < 100; round++) busy(1_000);
        }
        console.log(status(busy) & ${optimized}, ran());`);
    const [free, tookMs = 0] = busyFor(10_000, '');
    expect(free).toBe(optimized);
    expect(busyFor(2 * tookMs + 200, preferSmall)[0]).toBe(0);
  });
});
