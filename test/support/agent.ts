/** The real agent as a child with private directories; killed, restarted and asked as an admin would. */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Cleanup } from './cleanup.ts';
import { Daemon, run, until } from './process.ts';
import { Runtime } from './runtime.ts';

const mainPath = fileURLToPath(new URL('../../dist/main.js', import.meta.url));

let nextPort = 21_000 + (process.pid % 4_000);

export interface AgentOptions {
  readonly ovsdb?: string;
  readonly backendDirs?: readonly string[];
  readonly extraArgs?: readonly string[];
  readonly stateDir?: string;
  readonly deviceInfoDir?: string;
  readonly logPath?: string;
}

export class Agent {
  readonly directory: string;
  readonly stateDir: string;
  readonly runDir: string;
  readonly socketPath: string;
  readonly deviceInfoDir: string;
  readonly metricsAddress: string;
  readonly #args: readonly string[];
  readonly #logPath: string;
  #daemon: Daemon | null = null;

  private constructor(directory: string, options: AgentOptions) {
    this.directory = directory;
    this.stateDir = options.stateDir ?? join(directory, 'state');
    this.runDir = join(directory, 'run');
    this.socketPath = join(this.runDir, 'agent.sock');
    this.deviceInfoDir = options.deviceInfoDir ?? join(directory, 'devinfo/cni');
    this.#logPath = options.logPath ?? join(directory, 'agent.log');
    this.metricsAddress = `127.0.0.1:${nextPort++}`;
    this.#args = [
      mainPath,
      'agent',
      `--socket=${this.socketPath}`,
      `--state-dir=${this.stateDir}`,
      `--run-dir=${this.runDir}`,
      '--cni-bin-dir=/usr/lib/cni',
      `--metrics-address=${this.metricsAddress}`,
      '--node-name=test-node',
      `--device-info-dir=${this.deviceInfoDir}`,
      '--kubernetes=off',
      `--ovsdb=${options.ovsdb ?? `unix:${join(directory, 'no-ovs.sock')}`}`,
      `--backend-dirs=${[join(this.runDir, 'vhost'), ...(options.backendDirs ?? [])].join(',')}`,
      ...(options.extraArgs ?? []),
    ];
  }

  static async start(directory: string, options: AgentOptions, cleanup: Cleanup): Promise<Agent> {
    mkdirSync(directory, { recursive: true });
    const agent = new Agent(directory, options);
    cleanup.add('agent', () => agent.stop());
    await agent.start();
    return agent;
  }

  /** Runtime environment that leads the executable here. */
  get environment(): Readonly<Record<string, string>> {
    return { VIRTIO_USER_AGENT_SOCKET: this.socketPath, VIRTIO_USER_STATE_DIR: this.stateDir };
  }

  get runtime(): Runtime {
    return new Runtime(this.environment);
  }

  get pid(): number {
    if (this.#daemon === null) throw new Error('the agent was never started');
    return this.#daemon.pid;
  }

  get alive(): boolean {
    return this.#daemon?.alive === true;
  }

  /** How it ended, or null. */
  get exit(): string | null {
    return this.#daemon?.exit ?? null;
  }

  get log(): string {
    return this.#daemon?.logTail(40) ?? '';
  }

  async start(): Promise<void> {
    const daemon = new Daemon('agent', process.execPath, this.#args, this.#logPath);
    this.#daemon = daemon;
    await until(
      'the agent to be ready',
      async () => {
        if (!daemon.alive) throw new Error(`the agent ended (${daemon.exit}):\n${daemon.logTail(40)}`);
        return (await this.get('/readyz'))?.ok === true;
      },
      20_000,
    );
  }

  async kill(): Promise<void> {
    await this.#daemon?.stop('SIGKILL');
  }

  async stop(): Promise<void> {
    await this.#daemon?.stop('SIGTERM', 15_000);
  }

  async get(path: string): Promise<{ readonly ok: boolean; readonly body: string } | null> {
    try {
      const response = await fetch(`http://${this.metricsAddress}${path}`);
      return { ok: response.ok, body: await response.text() };
    } catch {
      return null;
    }
  }

  /** The command line tool against this agent. */
  cli(...args: string[]): Promise<string> {
    return run(process.execPath, [mainPath, ...args, `--run-dir=${this.runDir}`]);
  }
}
