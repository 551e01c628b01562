/** Network namespaces that stand for pods. Names start with `vu-`, so that strays are recognised. */
import type { Cleanup } from './cleanup.ts';
import { Daemon, type Finished, run, runAny, type RunOptions, until } from './process.ts';

/** Where commands can be run: a namespace of ours, or that of a real pod. */
export type Inside = Pick<Netns, 'name' | 'run' | 'runAny' | 'daemon'>;

export class Netns {
  readonly name: string;

  private constructor(name: string) {
    this.name = name;
  }

  static async create(name: string, cleanup: Cleanup): Promise<Netns> {
    await run('ip', ['netns', 'add', name]);
    const netns = new Netns(name);
    cleanup.add(`namespace ${name}`, () => netns.delete());
    await netns.run('ip', 'link', 'set', 'lo', 'up');
    return netns;
  }

  /** As a runtime passes it: the link /var/run → /run is part of the path. */
  get path(): string {
    return `/var/run/netns/${this.name}`;
  }

  run(command: string, ...args: string[]): Promise<string> {
    return run('ip', ['netns', 'exec', this.name, command, ...args]);
  }

  runAny(command: string, args: readonly string[], options: RunOptions = {}): Promise<Finished> {
    return runAny('ip', ['netns', 'exec', this.name, command, ...args], options);
  }

  /** A long-running command inside; `ip netns exec` replaces itself, so the pid is the command's. */
  daemon(name: string, logPath: string, command: string, ...args: string[]): Daemon {
    return new Daemon(name, 'ip', ['netns', 'exec', this.name, command, ...args], logPath);
  }

  /** Whether the pod's interface has a backend. */
  async carrier(): Promise<boolean> {
    return (await this.run('ip', 'link', 'show', 'eth0')).includes('LOWER_UP');
  }

  waitForCarrier(wanted = true, timeoutMs?: number): Promise<true> {
    return until(
      `carrier ${wanted ? 'on' : 'off'} in ${this.name}`,
      async () => (await this.carrier()) === wanted,
      timeoutMs,
    );
  }

  async delete(): Promise<void> {
    await runAny('ip', ['netns', 'del', this.name]);
  }
}
