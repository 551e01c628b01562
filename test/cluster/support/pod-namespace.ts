/** The network namespace of a running pod, entered by one of its processes. */
import type { Inside } from '../../support/netns.ts';
import { Daemon, type Finished, run, runAny, type RunOptions } from '../../support/process.ts';

export class PodNamespace implements Inside {
  readonly name: string;
  readonly #enter: readonly string[];

  constructor(name: string, pid: number) {
    this.name = name;
    this.#enter = ['-t', String(pid), '-n', '--'];
  }

  run(command: string, ...args: string[]): Promise<string> {
    return run('nsenter', [...this.#enter, command, ...args]);
  }

  runAny(command: string, args: readonly string[], options: RunOptions = {}): Promise<Finished> {
    return runAny('nsenter', [...this.#enter, command, ...args], options);
  }

  daemon(name: string, logPath: string, command: string, ...args: string[]): Daemon {
    return new Daemon(name, 'nsenter', [...this.#enter, command, ...args], logPath);
  }
}
