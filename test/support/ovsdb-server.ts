/** A real ovsdb-server with the schema of Open vSwitch and no switch behind it. */
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, watch } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

const schema = '/usr/share/openvswitch/vswitch.ovsschema';

export class OvsdbServer {
  readonly directory: string;
  readonly socketPath: string;
  #child: ChildProcess | null = null;

  constructor() {
    this.directory = mkdtempSync(join(tmpdir(), 'vu-ovsdb-'));
    this.socketPath = join(this.directory, 'db.sock');
    execFileSync('ovsdb-tool', ['create', join(this.directory, 'conf.db'), schema]);
  }

  async start(): Promise<void> {
    const appeared = new Promise<void>((resolve) => {
      const watcher = watch(this.directory, () => {
        if (!existsSync(this.socketPath)) return;
        watcher.close();
        resolve();
      });
    });
    const child = spawn(
      'ovsdb-server',
      [
        join(this.directory, 'conf.db'),
        `--remote=punix:${this.socketPath}`,
        `--unixctl=${join(this.directory, 'ctl')}`,
        '--verbose=off',
      ],
      { stdio: 'ignore' },
    );
    this.#child = child;
    await Promise.race([
      appeared,
      once(child, 'exit').then(() => Promise.reject(new Error('ovsdb-server ended at once'))),
    ]);
    // The file appears with bind(), connections are taken from listen() on, a moment later.
    while (!(await this.#answers())) continue;
  }

  async #answers(): Promise<boolean> {
    const socket = connect(this.socketPath);
    try {
      await once(socket, 'connect');
      return true;
    } catch {
      return false;
    } finally {
      socket.destroy();
    }
  }

  /** Runs ovs-vsctl on this database. @returns what it printed, trimmed */
  vsctl(...args: readonly string[]): string {
    const options = { encoding: 'utf8' as const, stdio: ['ignore', 'pipe', 'ignore'] as ['ignore', 'pipe', 'ignore'] };
    return execFileSync('ovs-vsctl', ['--no-wait', `--db=unix:${this.socketPath}`, ...args], options).trim();
  }

  signal(name: NodeJS.Signals): void {
    this.#child?.kill(name);
  }

  async stop(): Promise<void> {
    const child = this.#child;
    this.#child = null;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, 'exit');
    child.kill('SIGKILL');
    await ended;
    rmSync(this.socketPath, { force: true });
  }

  async destroy(): Promise<void> {
    await this.stop();
    rmSync(this.directory, { recursive: true, force: true });
  }
}
