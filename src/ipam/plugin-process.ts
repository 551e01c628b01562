/**
 * Runs a plugin once: stdin in, bounded stdout and stderr out, killed with its children at its deadline or when the
 * caller gives up. Resolves after the process has been reaped.
 */
import { type ChildProcessByStdio, spawn } from 'node:child_process';
import type { Readable, Writable } from 'node:stream';
import { errnoOf, messageOf } from '../errors.ts';

export type PluginOutcome =
  | { readonly kind: 'exited'; readonly code: number; readonly stdout: string; readonly stderr: string }
  | { readonly kind: 'signalled'; readonly signal: string }
  | { readonly kind: 'timeout' }
  | { readonly kind: 'aborted' }
  | { readonly kind: 'flooded' }
  | { readonly kind: 'unstartable'; readonly errno: string };

/** stdout and stderr together. */
export const outputLimitBytes = 1 << 20;
/** After the plugin has ended: what it left running may hold the pipes open for ever. */
const drainMs = 250;

export interface PluginRun {
  readonly path: string;
  /** All of it: nothing is inherited. */
  readonly environment: Readonly<Record<string, string>>;
  readonly stdin: string;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
}

type Child = ChildProcessByStdio<Writable, Readable, Readable>;

/** Never rejects. */
export function runPlugin(run: PluginRun): Promise<PluginOutcome> {
  if (run.signal.aborted) return Promise.resolve({ kind: 'aborted' });
  let child: Child;
  try {
    // A group of its own, so that the children of a shell script end with it.
    child = spawn(run.path, [], {
      env: { ...run.environment },
      stdio: ['pipe', 'pipe', 'pipe'],
      detached: true,
      cwd: '/',
    });
  } catch (error) {
    return Promise.resolve(unstartable(error)); // some errors of exec are thrown (ETXTBSY), some emitted (ENOENT)
  }
  return new Promise((resolve) => {
    const failed = (error: Error): void => resolve(unstartable(error));
    child.on('error', failed);
    // Without a process there may be no pipes either (EMFILE); the error event comes next.
    if (child.pid === undefined) return;
    child.off('error', failed);
    child.on('error', () => undefined); // a signal that could not be sent: the process has ended
    new Supervised(child, child.pid, run, resolve).start();
  });
}

function unstartable(error: unknown): PluginOutcome {
  return { kind: 'unstartable', errno: errnoOf(error) ?? messageOf(error) };
}

class Supervised {
  readonly #child: Child;
  readonly #pid: number;
  readonly #run: PluginRun;
  readonly #resolve: (outcome: PluginOutcome) => void;
  readonly #output: Record<'stdout' | 'stderr', Buffer[]> = { stdout: [], stderr: [] };
  #bytes = 0;
  /** Why it was killed; wins over how it ended. */
  #verdict: PluginOutcome | null = null;
  #timer: NodeJS.Timeout | null = null;

  constructor(child: Child, pid: number, run: PluginRun, resolve: (outcome: PluginOutcome) => void) {
    this.#child = child;
    this.#pid = pid;
    this.#run = run;
    this.#resolve = resolve;
  }

  start(): void {
    const { stdin, timeoutMs, signal } = this.#run;
    const onAbort = (): void => this.#kill({ kind: 'aborted' });
    signal.addEventListener('abort', onAbort, { once: true });
    this.#timer = setTimeout(() => this.#kill({ kind: 'timeout' }), timeoutMs);
    for (const name of ['stdout', 'stderr'] as const) {
      this.#child[name].on('data', (chunk: Buffer) => this.#take(name, chunk));
      this.#child[name].on('error', () => undefined);
    }
    this.#child.stdin.on('error', () => undefined); // a plugin may exit before it has read everything
    this.#child.stdin.end(stdin);
    this.#child.on('exit', () => {
      this.#clearTimer();
      this.#timer = setTimeout(() => this.#letPipesGo(), drainMs);
    });
    this.#child.on('close', (code, killedBy) => {
      this.#clearTimer();
      signal.removeEventListener('abort', onAbort);
      this.#resolve(this.#verdict ?? this.#ended(code, killedBy));
    });
  }

  #ended(code: number | null, killedBy: string | null): PluginOutcome {
    if (code === null) return { kind: 'signalled', signal: killedBy ?? 'unknown' };
    const text = (name: 'stdout' | 'stderr'): string => Buffer.concat(this.#output[name]).toString('utf8');
    return { kind: 'exited', code, stdout: text('stdout'), stderr: text('stderr') };
  }

  #take(name: 'stdout' | 'stderr', chunk: Buffer): void {
    this.#bytes += chunk.length;
    if (this.#bytes <= outputLimitBytes) this.#output[name].push(chunk);
    else this.#kill({ kind: 'flooded' });
  }

  #kill(verdict: PluginOutcome): void {
    this.#verdict ??= verdict;
    try {
      process.kill(-this.#pid, 'SIGKILL');
    } catch {
      // the group has ended
    }
    this.#letPipesGo();
  }

  #letPipesGo(): void {
    this.#child.stdout.destroy();
    this.#child.stderr.destroy();
  }

  #clearTimer(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
  }
}
