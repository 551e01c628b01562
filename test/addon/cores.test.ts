/** Where the threads of this process may run, as the kernel tells it. */
import { readdirSync, readFileSync } from 'node:fs';
import { afterEach, describe, expect, it } from '@jest/globals';
import { loadNative } from '../../src/native/load.ts';
import { until } from '../support/process.ts';

const binding = loadNative();

/** `0-2,5` → [0, 1, 2, 5] */
function coresOf(status: string): number[] {
  const list = /^Cpus_allowed_list:\s*(\S+)$/m.exec(status)?.[1] ?? '';
  return list.split(',').flatMap((range) => {
    const [first, last = first] = range.split('-').map(Number);
    return Array.from({ length: (last ?? 0) - (first ?? 0) + 1 }, (_, index) => (first ?? 0) + index);
  });
}

const all = coresOf(readFileSync('/proc/self/status', 'utf8'));
const polled = all.at(-1) ?? 0;
const rest = all.slice(0, -1);

/** Name of each thread → its cores. */
function threads(): ReadonlyMap<string, readonly number[]> {
  return new Map(
    readdirSync('/proc/self/task').map((thread) => {
      const status = readFileSync(`/proc/self/task/${thread}/status`, 'utf8');
      return [`${/^Name:\s*(.*)$/m.exec(status)?.[1] ?? ''} ${thread}`, coresOf(status)];
    }),
  );
}

const isPump = (name: string): boolean => name.startsWith('vu-test-pump');

describe('with a core that is polled', () => {
  afterEach(() => {
    binding.keepOffCores([]);
    expect([...threads().values()].every((cores) => cores.length === all.length)).toBe(true);
  });

  it('this machine has another one', () => {
    expect(rest).not.toEqual([]);
  });

  it('every thread but the pumps keeps off, whichever was there first', async () => {
    const before = binding.createPump({ name: 'vu-test-pump-0', spinUs: 0 });
    expect(binding.keepOffCores([polled])).toBe(true);
    const after = binding.createPump({ name: 'vu-test-pump-1', spinUs: 0 });
    await until('both pumps to be there', () => [...threads().keys()].filter(isPump).length === 2);
    await until('both to run anywhere', () =>
      [...threads()].filter(([name]) => isPump(name)).every(([, cores]) => cores.length === all.length),
    );
    const others = [...threads()].filter(([name]) => !isPump(name));
    expect(others.length).toBeGreaterThan(2);
    expect(others.filter(([, cores]) => cores.includes(polled))).toEqual([]);
    before.close();
    after.close();
  });

  it('a program that runs alone keeps off, one more than there are other cores runs anywhere', async () => {
    binding.keepOffCores([polled]);
    const running = Array.from({ length: rest.length + 1 }, () =>
      binding.runChild({
        path: '/bin/sh',
        environment: [],
        input: 'grep Cpus_allowed_list /proc/self/status; read forever',
        holdInput: false,
        timeoutMs: 10_000,
        outputLimitBytes: 1024,
      }),
    );
    const cores = await Promise.all(running.map(async (child) => coresOf((await child.ended).stdout)));
    expect(cores.slice(0, -1)).toEqual(rest.map(() => rest));
    expect(cores.at(-1)).toEqual(all);
  });

  it('that is the last one nothing changes', () => {
    expect(binding.keepOffCores(all)).toBe(false);
    expect(coresOf(readFileSync('/proc/self/status', 'utf8'))).toEqual(all);
  });

  it.each([[[-1]], [[1.5]], [['1']], [[2 ** 32]], [null], [undefined], ['1']])('%j names none', (cores) => {
    expect((): unknown => Reflect.apply(binding.keepOffCores, binding, [cores])).toThrow('cores: expected');
  });
});
