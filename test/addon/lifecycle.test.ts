/** How processes and workers with the addon end: by themselves when they may, at once when they must, never by a signal. */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import net from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { Readable, Writable } from 'node:stream';
import { createInterface } from 'node:readline';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { type Finished, run, runAny } from '../support/process.ts';

const childPath = join(import.meta.dirname, '../support/addon-child.ts');
const flags = ['--no-warnings', '--expose-gc', childPath];
let directory = '';
const started: Starved[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vu-life-'));
});

afterEach(() => {
  for (const starved of started.splice(0)) starved.kill();
  rmSync(directory, { recursive: true });
});

function child(scenario: string, launcher: readonly string[]): Promise<Finished> {
  const [command, ...args] = [...launcher, process.execPath, ...flags, scenario, directory];
  return runAny(command, args, {
    env: { ...process.env, NODE_OPTIONS: '' },
    timeoutMs: 20_000,
  });
}

/** Ended by itself with 0, printed the lines, left no socket file. */
async function expectEnd(scenario: string, lines: readonly string[], launcher: readonly string[] = []): Promise<void> {
  const { code, signal, stdout, stderr } = await child(scenario, launcher);
  expect({ code, signal, stderr, lines: stdout.split('\n').slice(0, -1) }).toEqual({
    code: 0,
    signal: null,
    stderr: '',
    lines,
  });
  expect(readdirSync(directory).filter((name) => name.endsWith('.sock'))).toEqual([]);
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

describe('an agent that is PID 1 of its container', () => {
  it('leaves no zombie of a program that is ended with its children', async () => {
    const lines = ['killed', 'timeout', 'flooded', 'PID 1, 0 others'];
    await expectEnd('ends programs as PID 1', lines, ['unshare', '--fork', '--pid', '--mount-proc']);
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

/** A process that says to which limit of open files it wants to be set. */
class Starved {
  readonly #process: ChildProcessByStdio<Writable, Readable, null>;
  readonly #lines: AsyncIterator<string>;
  readonly exit: Promise<unknown[]>;

  constructor(scenario: string) {
    this.#process = spawn(process.execPath, [...flags, scenario, directory], {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, NODE_OPTIONS: '' },
    });
    started.push(this);
    this.exit = once(this.#process, 'exit');
    this.#lines = createInterface({ input: this.#process.stdout })[Symbol.asyncIterator]();
  }

  async said(): Promise<string> {
    return String((await this.#lines.next()).value);
  }

  async starve(): Promise<void> {
    await this.setLimit(/^limit (\d+)$/.exec(await this.said())?.[1] ?? '');
  }

  async setLimit(soft: string): Promise<void> {
    await run('prlimit', ['--pid', String(this.#process.pid), `--nofile=${soft}:`]);
  }

  tell(line: string): void {
    this.#process.stdin.write(`${line}\n`);
  }

  kill(): void {
    this.#process.kill('SIGKILL');
  }

  letEnd(): void {
    this.#process.stdin.end();
  }
}

describe('a process out of descriptors', () => {
  it('turns peers away and says so; when there are some again, it accepts', async () => {
    const starved = new Starved('runs out of descriptors');
    await starved.starve();
    for (let peer = 0; peer < 3; peer += 1) {
      const socket = net.connect(join(directory, 'vhost.sock')).on('error', () => undefined);
      expect(await starved.said()).toBe('fault EMFILE');
      if (!socket.closed) await once(socket, 'close');
    }
    await starved.setLimit('1024');
    const socket = net.connect(join(directory, 'vhost.sock')).on('error', () => undefined);
    expect(await starved.said()).toBe('accepted');
    socket.destroy();
    starved.letEnd();
    expect(await starved.exit).toEqual([0, null]);
  });

  it('runs programs to their end, their deadline or an abort also without a descriptor of theirs', async () => {
    const starved = new Starved('runs programs without a pidfd');
    await starved.starve();
    starved.tell('go on');
    expect(await starved.said()).toBe('more than a pipe holds: exited 0 200000');
    expect(await starved.said()).toBe('an exit code: exited 3 0');
    expect(await starved.said()).toMatch(/^a deadline: timeout/);
    expect(await starved.said()).toMatch(/^an abort: killed/);
    starved.letEnd();
    expect(await starved.exit).toEqual([0, null]);
  }, 30_000);
});
