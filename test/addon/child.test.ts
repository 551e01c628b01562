import { readdirSync, readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';
import type { Child, ChildOutcome } from '../../src/native/binding.ts';
import { loadNative } from '../../src/native/load.ts';
import { openDescriptors } from '../support/open-descriptors.ts';
import { until } from '../support/process.ts';

const binding = loadNative();

/** Runs a script given on stdin: `sh` without arguments reads its commands there. */
function script(text: string, timeoutMs = 10_000): Child {
  return binding.runChild({
    path: '/bin/sh',
    environment: ['GREETING=hello'],
    input: text,
    timeoutMs,
    holdInput: false,
    outputLimitBytes: 1 << 16,
  });
}

describe('a child process', () => {
  it('gets the given environment alone, and its output and exit code come back', async () => {
    const outcome = await script('echo "$GREETING $HOME"; echo oops >&2; exit 3').ended;
    expect(outcome).toEqual({ kind: 'exited', code: 3, stdout: 'hello \n', stderr: 'oops\n' });
  });

  it('runs in the root directory with no signal blocked', async () => {
    const { stdout } = await script('pwd; grep SigBlk /proc/self/status').ended;
    expect(stdout).toBe('/\nSigBlk:\t0000000000000000\n');
  });

  it('that ends before it has read its stdin is no failure', async () => {
    const outcome = await binding.runChild({
      path: '/bin/true',
      environment: [],
      input: 'x'.repeat(1 << 20),
      timeoutMs: 10_000,
      holdInput: false,
      outputLimitBytes: 1024,
    }).ended;
    expect(outcome.kind).toBe('exited');
  });

  it('whose stdin is held waits for it, and can be ended while it waits', async () => {
    const start = (): Child =>
      binding.runChild({
        path: '/bin/cat',
        environment: [],
        input: 'now',
        holdInput: true,
        timeoutMs: 10_000,
        outputLimitBytes: 1024,
      });
    const fed = start();
    const first = await Promise.race([fed.ended, new Promise((resolve) => setTimeout(resolve, 100, 'waiting'))]);
    expect(first).toBe('waiting');
    fed.feed();
    expect(await fed.ended).toMatchObject({ kind: 'exited', code: 0, stdout: 'now' });
    const killed = start();
    killed.kill();
    expect(await killed.ended).toMatchObject({ kind: 'killed', stdout: '' });
  });

  it.each([0, 1 << 20])('gets %d held bytes when they are given, and then the end of its stdin', async (bytes) => {
    const child = binding.runChild({
      path: '/usr/bin/wc',
      environment: ['LC_ALL=C'],
      input: 'x'.repeat(bytes), // more than a pipe holds, for one
      holdInput: true,
      timeoutMs: 10_000,
      outputLimitBytes: 1024,
    });
    child.feed();
    child.feed();
    const outcome = await child.ended;
    expect(outcome).toMatchObject({ kind: 'exited', code: 0 });
    const [, , counted] = outcome.stdout.trim().split(/ +/); // lines, words, bytes
    expect(counted).toBe(String(bytes));
  });

  it('tells what looks like a whole answer before it ends, and null when there was none', async () => {
    const child = script('echo \'{"a":{}}\'; exec sleep 60');
    expect(await child.printed).toBe('{"a":{}}\n');
    child.kill();
    expect(await child.ended).toMatchObject({ kind: 'killed' });
    const silent = script('echo "{ no end"');
    expect(await silent.printed).toBeNull();
  });

  it('dying by a signal says which', async () => {
    expect(await script('kill -TERM $$').ended).toMatchObject({ kind: 'signalled', code: 15 });
  });

  it('printing too much is ended', async () => {
    expect((await script('while :; do echo aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa; done').ended).kind).toBe('flooded');
  });

  it('printing too much with four writers is ended, and what it printed is dropped', async () => {
    const text = 'cat /dev/zero & cat /dev/zero & cat /dev/zero >&2 & cat /dev/zero >&2 & wait';
    for (let round = 0; round < 5; round += 1)
      expect(await script(text).ended).toMatchObject({ kind: 'flooded', stdout: '', stderr: '' });
  });

  it.each(['timeout', 'killed'] as const)('%s: its children end with it', async (how) => {
    const marker = `${36_000 + Math.floor(Math.random() * 1000)}.${process.pid}`;
    const child = script(`sleep ${marker} & sleep ${marker}`, how === 'timeout' ? 300 : 20_000);
    const sleepers = (): number =>
      readdirSync('/proc').filter((pid) => /^\d+$/.test(pid) && commandLine(pid).includes(marker)).length;
    if (how === 'killed') {
      await until('the sleepers', () => sleepers() >= 2);
      child.kill();
    }
    expect((await child.ended).kind).toBe(how);
    await until('nobody sleeps any more', () => sleepers() === 0);
  });

  it('whose child holds the pipes open does not hold us up', async () => {
    const startedMs = performance.now();
    const outcome = await script('echo done; sleep 5 & exit 0').ended;
    expect(outcome).toMatchObject({ kind: 'exited', code: 0, stdout: 'done\n' });
    expect(performance.now() - startedMs).toBeLessThan(4_000);
  });

  it('that cannot be started rejects with the reason', async () => {
    const start = (path: string): Promise<ChildOutcome> =>
      binding.runChild({ path, environment: [], input: '', holdInput: false, timeoutMs: 1000, outputLimitBytes: 1024 })
        .ended;
    await expect(start('/nonexistent/plugin')).rejects.toMatchObject({ code: 'ENOENT' });
    await expect(start('/etc/passwd')).rejects.toMatchObject({ code: 'EACCES' });
  });

  it('leaves no descriptor and no zombie behind', async () => {
    await script('true').ended;
    const before = openDescriptors();
    await Promise.all(Array.from({ length: 40 }, () => script('echo x').ended));
    expect(openDescriptors()).toBeLessThanOrEqual(before);
    const zombies = readdirSync('/proc').filter((pid) => /^\d+$/.test(pid) && state(pid) === `Z ${process.pid}`);
    expect(zombies).toEqual([]);
  });
});

function commandLine(pid: string): string {
  return read(`/proc/${pid}/cmdline`);
}

/** State and parent of a process. */
function state(pid: string): string {
  const fields = read(`/proc/${pid}/stat`).split(') ')[1]?.split(' ') ?? [];
  return `${fields[0]} ${fields[1]}`;
}

function read(path: string): string {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return ''; // it has ended
  }
}
