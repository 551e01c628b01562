/** Child processes of tests, demo and benchmark: run to the end, or started and ended by pid. */
import { type ChildProcess, type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { once } from 'node:events';
import { closeSync, openSync, readFileSync } from 'node:fs';

export interface Finished {
  readonly code: number | null;
  readonly signal: NodeJS.Signals | null;
  readonly stdout: string;
  readonly stderr: string;
}

export interface RunOptions {
  readonly env?: NodeJS.ProcessEnv;
  readonly stdin?: string | Buffer;
  readonly timeoutMs?: number;
}

/** Runs a command to its end, whatever its exit code. */
export async function runAny(command: string, args: readonly string[], options: RunOptions = {}): Promise<Finished> {
  const child = spawn(command, args, { env: options.env ?? process.env, stdio: ['pipe', 'pipe', 'pipe'] });
  child.stdin.on('error', () => undefined); // a command that exits early does not read its stdin
  child.stdin.end(options.stdin ?? '');
  const timer = setTimeout(() => child.kill('SIGKILL'), options.timeoutMs ?? 60_000);
  const finished = await outputOf(child);
  clearTimeout(timer);
  return finished;
}

/** What a child prints from now on, and how it ends. */
export async function outputOf(child: ChildProcessWithoutNullStreams): Promise<Finished> {
  const stdout: Buffer[] = [];
  const stderr: Buffer[] = [];
  child.stdout.on('data', (chunk: Buffer) => stdout.push(chunk));
  child.stderr.on('data', (chunk: Buffer) => stderr.push(chunk));
  const [code, signal] = (await once(child, 'close')) as [number | null, NodeJS.Signals | null];
  return { code, signal, stdout: Buffer.concat(stdout).toString(), stderr: Buffer.concat(stderr).toString() };
}

/** Runs a command that must succeed; its stdout. */
export async function run(command: string, args: readonly string[], options: RunOptions = {}): Promise<string> {
  const finished = await runAny(command, args, options);
  if (finished.code !== 0) {
    const said = (finished.stderr || finished.stdout).trim().slice(-2000);
    throw new Error(`${command} ${args.join(' ')}: ${finished.signal ?? `exit ${finished.code}`}: ${said}`);
  }
  return finished.stdout;
}

/** A long-running child whose output goes to a log file. */
export class Daemon {
  readonly #child: ChildProcess;
  readonly #ended: Promise<void>;
  readonly name: string;
  readonly logPath: string;
  #exit: string | null = null;

  constructor(name: string, command: string, args: readonly string[], logPath: string, env = process.env) {
    this.name = name;
    this.logPath = logPath;
    const log = openSync(logPath, 'a');
    this.#child = spawn(command, args, { env, stdio: ['ignore', log, log] });
    closeSync(log);
    this.#ended = new Promise((resolve) => {
      this.#child.once('error', (error) => {
        this.#exit = error.message;
        resolve();
      });
      this.#child.once('exit', (code, signal) => {
        this.#exit = signal ?? `exit ${code}`;
        resolve();
      });
    });
  }

  get pid(): number {
    if (this.#child.pid === undefined) throw new Error(`${this.name} did not start: ${this.#exit}`);
    return this.#child.pid;
  }

  get alive(): boolean {
    return this.#exit === null;
  }

  /** How it ended, or null. */
  get exit(): string | null {
    return this.#exit;
  }

  get ended(): Promise<void> {
    return this.#ended;
  }

  logTail(lines = 15): string {
    return readFileSync(this.logPath, 'utf8').trimEnd().split('\n').slice(-lines).join('\n');
  }

  /** For a signal that does not end it. */
  signal(signal: NodeJS.Signals): void {
    this.#child.kill(signal);
  }

  /** Sends the signal and waits for the end; SIGKILL after `graceMs`. */
  async stop(signal: NodeJS.Signals = 'SIGTERM', graceMs = 10_000): Promise<void> {
    if (!this.alive) return;
    this.#child.kill(signal);
    const timer = setTimeout(() => this.#child.kill('SIGKILL'), graceMs);
    await this.#ended;
    clearTimeout(timer);
  }
}

/** Polls a condition of another process: there is no event to wait for. Throws after `timeoutMs`, saying `what`. */
export async function until<T>(
  what: string,
  probe: () => Promise<T | null | false> | T | null | false,
  timeoutMs = 10_000,
  everyMs = 20,
): Promise<T> {
  const deadline = performance.now() + timeoutMs;
  for (;;) {
    const value = await probe();
    if (value !== null && value !== false) return value;
    if (performance.now() > deadline) throw new Error(`waited ${timeoutMs} ms in vain for: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, everyMs));
  }
}
