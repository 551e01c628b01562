/** Where the threads of this process may run, as the kernel tells it. */
import { afterEach, describe, expect, it } from '@jest/globals';
import { allowedCores } from '../../src/agent/limits.ts';
import type { Child } from '../../src/native/binding.ts';
import { loadNative } from '../../src/native/load.ts';
import { until } from '../support/process.ts';
import { threadCores, type ThreadCores } from '../support/thread-cores.ts';

const binding = loadNative();
const all = allowedCores();
const polled = all.at(-1) ?? 0;
const rest = all.slice(0, -1);

const isPump = ({ name }: ThreadCores): boolean => name.startsWith('vu-test-pump');
const isRunner = ({ name }: ThreadCores): boolean => name === 'vu-child';
const isWhole = ({ cores }: ThreadCores): boolean => cores.length === all.length;

/** A program that says where it may run. */
function askedProgram(holdInput: boolean): Child {
  return binding.runChild({
    path: '/bin/sh',
    environment: [],
    input: 'grep Cpus_allowed_list /proc/self/status',
    holdInput,
    timeoutMs: 10_000,
    outputLimitBytes: 1024,
  });
}

describe('with a core that is polled', () => {
  afterEach(() => {
    binding.keepOffCores([]);
    expect(threadCores('self').every(isWhole)).toBe(true);
  });

  it('this machine has another one', () => {
    expect(rest).not.toEqual([]);
  });

  it('every thread but the pumps keeps off, whichever was there first', async () => {
    const before = binding.createPump({ name: 'vu-test-pump-0', spinUs: 0 });
    expect(binding.keepOffCores([polled])).toBe(true);
    const after = binding.createPump({ name: 'vu-test-pump-1', spinUs: 0 });
    const pumps = (): readonly ThreadCores[] => threadCores('self').filter(isPump);
    await until('both pumps to run anywhere', () => pumps().length === 2 && pumps().every(isWhole));
    const others = threadCores('self').filter((thread) => !isPump(thread));
    expect(others.length).toBeGreaterThan(2);
    expect(others.filter(({ cores }) => cores.includes(polled))).toEqual([]);
    before.close();
    after.close();
  });

  it('as many programs as there are other cores keep off, and the next one runs anywhere', async () => {
    binding.keepOffCores([polled]);
    const running = Array.from({ length: rest.length + 1 }, () => askedProgram(true));
    const runners = (): readonly ThreadCores[] => threadCores('self').filter(isRunner);
    await until('one of all to run anywhere', () => runners().length === running.length && runners().some(isWhole));
    for (const child of running) child.feed();
    const cores = await Promise.all(running.map(async (child) => allowedCores((await child.ended).stdout).join()));
    expect(cores.sort()).toEqual([...rest.map(() => rest.join()), all.join()].sort());
  });

  it('a program that is started when another has ended keeps off, too', async () => {
    binding.keepOffCores([polled]);
    for (let round = 0; round < 20; round++) {
      expect(allowedCores((await askedProgram(false).ended).stdout)).toEqual(rest);
    }
  });

  it('that is the last one nothing changes', () => {
    expect(binding.keepOffCores(all)).toBe(false);
    expect(allowedCores()).toEqual(all);
  });

  it.each([[[-1]], [[1.5]], [['1']], [[2 ** 32]], [null], [undefined], ['1']])('%j names none', (cores) => {
    expect((): unknown => Reflect.apply(binding.keepOffCores, binding, [cores])).toThrow('cores: expected');
  });
});
