/** Runs a plugin once: stdin in, bounded stdout and stderr out, killed at its deadline or when the caller gives up. */
import { spawn } from 'node:child_process';
import { errnoOf, messageOf } from '../errors.ts';

export type PluginOutcome =
  | { readonly kind: 'exited'; readonly code: number; readonly stdout: string; readonly stderr: string }
  | { readonly kind: 'signalled'; readonly signal: string }
  | { readonly kind: 'timeout' }
  | { readonly kind: 'aborted' }
  | { readonly kind: 'flooded' }
  | { readonly kind: 'unstartable'; readonly errno: string };

const outputLimitBytes = 1 << 20;

export function runPlugin(
  path: string,
  environment: Readonly<Record<string, string>>,
  stdin: string,
  timeoutMs: number,
  signal: AbortSignal,
): Promise<PluginOutcome> {
  return new Promise((resolve) => {
    if (signal.aborted) {
      resolve({ kind: 'aborted' });
      return;
    }
    // A group of its own, so that children of a shell script end with it.
    const child = spawn(path, [], {
      env: { ...environment },
      stdio: ['pipe', 'pipe', 'pipe'],
      detached: true,
      cwd: '/',
    });
    const output: Record<'stdout' | 'stderr', Buffer[]> = { stdout: [], stderr: [] };
    let bytes = 0;
    let verdict: PluginOutcome | null = null;
    const end = (outcome: PluginOutcome): void => {
      verdict ??= outcome;
      if (child.pid === undefined) return;
      try {
        process.kill(-child.pid, 'SIGKILL');
      } catch {
        // the group has ended
      }
    };
    const timer = setTimeout(() => end({ kind: 'timeout' }), timeoutMs);
    const onAbort = (): void => end({ kind: 'aborted' });
    signal.addEventListener('abort', onAbort, { once: true });
    const finish = (outcome: PluginOutcome): void => {
      clearTimeout(timer);
      signal.removeEventListener('abort', onAbort);
      resolve(verdict ?? outcome);
    };
    for (const name of ['stdout', 'stderr'] as const) {
      child[name].on('data', (chunk: Buffer) => {
        bytes += chunk.length;
        if (bytes > outputLimitBytes) end({ kind: 'flooded' });
        else output[name].push(chunk);
      });
    }
    child.stdin.on('error', () => undefined); // a plugin may exit before it has read everything
    child.stdin.end(stdin);
    child.on('error', (error) => finish({ kind: 'unstartable', errno: errnoOf(error) ?? messageOf(error) }));
    child.on('close', (code, killedBy) => {
      if (code === null) finish({ kind: 'signalled', signal: killedBy ?? 'unknown' });
      else {
        const text = (name: 'stdout' | 'stderr'): string => Buffer.concat(output[name]).toString('utf8');
        finish({ kind: 'exited', code, stdout: text('stdout'), stderr: text('stderr') });
      }
    });
  });
}
