/** How processes and workers with the addon end: by themselves when they may, at once when they must, never by a signal. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { type Finished, run, runAny } from '../support/process.ts';

const childPath = join(import.meta.dirname, '../support/addon-child.ts');
const flags = ['--no-warnings', '--expose-gc', childPath];
let directory = '';

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vu-life-'));
});

afterEach(() => rmSync(directory, { recursive: true }));

function child(scenario: string): Promise<Finished> {
  return runAny(process.execPath, [...flags, scenario, directory], {
    env: { ...process.env, NODE_OPTIONS: '' },
    timeoutMs: 20_000,
  });
}

/** Ended by itself with 0, printed the lines, left no socket file. */
async function expectEnd(scenario: string, lines: readonly string[]): Promise<void> {
  const { code, signal, stdout, stderr } = await child(scenario);
  expect({ code, signal, stderr, lines: stdout.split('\n').slice(0, -1) }).toEqual({
    code: 0,
    signal: null,
    stderr: '',
    lines,
  });
  expect(readdirSync(directory)).toEqual([]);
}

describe('a process', () => {
  it.each<readonly [string, readonly string[]]>([
    ['loads and ends', ['loaded']],
    ['closes everything and ends by itself', ['closed']],
    ['leaves it to shutdown', ['shut down']],
    ['ends with a promise under way', ['lo 1']],
    ['process.exit with a promise under way', ['exit']],
    ['process.exit in a handler', ['exit']],
    ['an uncaught exception with everything alive', ['out of the blue']],
    ['a handler throws', ['uncaught handler of first', 'then second']],
    ['continuations run after an event', ['tick promise at once']],
    ['forgotten descriptors are collected', ['100 forgotten, 0 left']],
    ['an open listener keeps the process', ['late']],
  ])('%s', expectEnd);

  it('process.exit in the middle of everything, ten times', async () => {
    for (let round = 0; round < 10; round += 1) await expectEnd('process.exit in the middle', ['exit']);
  });
});

describe('a worker', () => {
  it.each<readonly [string, readonly string[]]>([
    ['a worker is terminated, twice', ['terminated']],
    ['a worker ends, twice, while the main thread uses the addon too', ['ended']],
  ])('%s', expectEnd);

  it('terminated in the middle of everything, five times over', async () => {
    for (let round = 0; round < 5; round += 1) await expectEnd('a worker is terminated, twice', ['terminated']);
  });
});

describe('a process out of descriptors', () => {
  it('turns peers away and says so; when there are some again, it accepts', async () => {
    const process_ = spawn(process.execPath, [...flags, 'runs out of descriptors', directory], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, NODE_OPTIONS: '' },
    });
    const exit = once(process_, 'exit');
    const lines = createInterface({ input: process_.stdout })[Symbol.asyncIterator]();
    const said = async (): Promise<string> => String((await lines.next()).value);
    const setLimit = (soft: string): Promise<string> =>
      run('prlimit', ['--pid', String(process_.pid), `--nofile=${soft}:`]);
    const limit = /^limit (\d+)$/.exec(await said());
    await setLimit(limit?.[1] ?? '');
    for (let peer = 0; peer < 3; peer += 1) {
      const socket = net.connect(join(directory, 'vhost.sock')).on('error', () => undefined);
      expect(await said()).toBe('fault EMFILE');
      if (!socket.closed) await once(socket, 'close');
    }
    await setLimit('1024');
    const socket = net.connect(join(directory, 'vhost.sock')).on('error', () => undefined);
    expect(await said()).toBe('accepted');
    socket.destroy();
    process_.stdin.end();
    expect(await exit).toEqual([0, null]);
  });
});
