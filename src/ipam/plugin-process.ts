/**
 * Runs a plugin once: stdin in, bounded stdout and stderr out, killed with its children at its deadline or when the
 * caller gives up. Resolves after the process has been reaped. Started by the addon, since a fork of the agent costs more
 * than what the plugin itself does.
 */
import { constants } from 'node:os';
import { errnoOf, messageOf } from '../errors.ts';
import type { ChildOutcome } from '../native/binding.ts';
import { loadNative } from '../native/load.ts';

export type PluginOutcome =
  | { readonly kind: 'exited'; readonly code: number; readonly stdout: string; readonly stderr: string }
  | { readonly kind: 'signalled'; readonly signal: string }
  | { readonly kind: 'timeout' }
  | { readonly kind: 'aborted' }
  | { readonly kind: 'flooded' }
  | { readonly kind: 'unstartable'; readonly errno: string };

/** stdout and stderr together. */
export const outputLimitBytes = 1 << 20;

export interface PluginRun {
  readonly path: string;
  /** All of it: nothing is inherited. */
  readonly environment: Readonly<Record<string, string>>;
  readonly stdin: string;
  readonly timeoutMs: number;
  readonly signal: AbortSignal;
  /** stdin is held back until it resolves, the plugin killed when it rejects. */
  readonly permission?: Promise<unknown> | undefined;
  /** Called before the end, at most once, with a stdout that looks whole. */
  readonly onPrinted?: (stdout: string) => void;
}

/** How a run goes on, whatever it runs. */
export type PluginRunTerms = Omit<PluginRun, 'path' | 'environment' | 'stdin'>;

/** Never rejects. */
export async function runPlugin(run: PluginRun): Promise<PluginOutcome> {
  if (run.signal.aborted) return { kind: 'aborted' };
  try {
    const child = loadNative().runChild({
      path: run.path,
      environment: Object.entries(run.environment).map(([name, value]) => `${name}=${value}`),
      input: run.stdin,
      holdInput: run.permission !== undefined,
      timeoutMs: run.timeoutMs,
      outputLimitBytes,
    });
    const onAbort = (): void => child.kill();
    run.signal.addEventListener('abort', onAbort, { once: true });
    run.permission?.then(
      () => child.feed(),
      () => child.kill(),
    );
    void child.printed.then((stdout) => stdout !== null && run.onPrinted?.(stdout));
    try {
      return pluginOutcome(await child.ended);
    } finally {
      run.signal.removeEventListener('abort', onAbort);
    }
  } catch (error) {
    return { kind: 'unstartable', errno: errnoOf(error) ?? messageOf(error) };
  }
}

function pluginOutcome(outcome: ChildOutcome): PluginOutcome {
  switch (outcome.kind) {
    case 'exited':
      return { kind: 'exited', code: outcome.code, stdout: outcome.stdout, stderr: outcome.stderr };
    case 'signalled':
      return { kind: 'signalled', signal: signalName(outcome.code) };
    case 'killed':
      return { kind: 'aborted' };
    case 'timeout':
    case 'flooded':
      return { kind: outcome.kind };
  }
}

function signalName(number: number): string {
  const entry = Object.entries(constants.signals).find(([, value]) => value === number);
  return entry?.[0] ?? `signal ${number}`;
}
