/**
 * A private OVS-DPDK for tests: own database, own sockets, own hugepage files, nothing of the machine's own switch.
 * The daemons run as children in the foreground, so that they are ended by pid.
 */
import { chmodSync, existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Cleanup } from './cleanup.ts';
import { reserveHugepages } from './hugepages.ts';
import { Daemon, run, runAny, until } from './process.ts';

const vswitchd = '/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk';
const schema = '/usr/share/openvswitch/vswitch.ovsschema';

export interface OvsOptions {
  /** userspace-tso-enable: the backend then offers checksum and segmentation offloads. */
  readonly tso: boolean;
  readonly memoryMiB?: number;
}

/** CPU number of the switch's one polling thread. */
export const pollingCore = 1;

/** A persistent TAP that the first bridge in user space brings along. */
const datapathLink = 'ovs-netdev';

export class Ovs {
  readonly directory: string;
  readonly #env: NodeJS.ProcessEnv;
  #database: Daemon | null = null;
  #switch: Daemon | null = null;
  /** Links to be deleted in the end, that of the datapath among them unless it is another switch's. */
  readonly #links = new Set<string>(existsSync(`/sys/class/net/${datapathLink}`) ? [] : [datapathLink]);

  private constructor(directory: string) {
    this.directory = directory;
    this.#env = { ...process.env, OVS_RUNDIR: directory, OVS_LOGDIR: directory, OVS_DBDIR: directory };
  }

  /** Starts database and switch; returns when the switch answers and DPDK is initialised. */
  static async start(directory: string, options: OvsOptions, cleanup: Cleanup): Promise<Ovs> {
    mkdirSync(directory, { recursive: true });
    chmodSync(directory, 0o755);
    const memoryMiB = options.memoryMiB ?? 256;
    reserveHugepages(memoryMiB + 64, cleanup);
    // Files of its own: with --in-memory DPDK 22.11 fails to fall back to smaller mempools.
    const huge = join(directory, 'huge');
    mkdirSync(huge);
    await run('mount', ['-t', 'hugetlbfs', '-o', 'pagesize=2M', 'none', huge]);
    cleanup.add('hugetlbfs', () => run('umount', [huge]));
    const ovs = new Ovs(directory);
    cleanup.add('OVS', () => ovs.stop());
    await run('ovsdb-tool', ['create', join(directory, 'conf.db'), schema]);
    ovs.#database = new Daemon(
      'ovsdb-server',
      'ovsdb-server',
      [join(directory, 'conf.db'), `--remote=punix:${ovs.databasePath}`, `--unixctl=${join(directory, 'ovsdb.ctl')}`],
      join(directory, 'ovsdb-server.log'),
      ovs.#env,
    );
    await until('ovsdb-server', () => existsSync(ovs.databasePath));
    await ovs.vsctl('--no-wait', 'init');
    await ovs.vsctl(
      '--no-wait',
      'set',
      'Open_vSwitch',
      '.',
      'other_config:dpdk-init=true',
      `other_config:dpdk-socket-mem=${memoryMiB}`,
      'other_config:dpdk-lcore-mask=0x1',
      `other_config:pmd-cpu-mask=0x${(1 << pollingCore).toString(16)}`,
      `other_config:dpdk-extra="--huge-dir ${huge} --file-prefix vu-${process.pid} --no-pci --no-telemetry"`,
      `other_config:dpdk-socket-limit=${memoryMiB}`,
      `other_config:userspace-tso-enable=${options.tso}`,
    );
    await ovs.startSwitch();
    return ovs;
  }

  get databasePath(): string {
    return join(this.directory, 'db.sock');
  }

  /** For the agent's `--ovsdb`. */
  get databaseRemote(): string {
    return `unix:${this.databasePath}`;
  }

  get switchPid(): number {
    if (this.#switch === null) throw new Error('ovs-vswitchd was never started');
    return this.#switch.pid;
  }

  /** False also when the switch died by itself: OVS 3.1 has aborted on its own assertion with userspace TSO on. */
  get alive(): boolean {
    return this.#switch?.alive === true;
  }

  get log(): string {
    return this.#switch?.logTail(30) ?? '';
  }

  async startSwitch(): Promise<void> {
    const control = join(this.directory, 'vswitchd.ctl');
    const daemon = new Daemon(
      'ovs-vswitchd',
      vswitchd,
      [this.databaseRemote, `--unixctl=${control}`],
      join(this.directory, 'ovs-vswitchd.log'),
      this.#env,
    );
    this.#switch = daemon;
    await until(
      'ovs-vswitchd',
      async () => {
        if (!daemon.alive) throw new Error(`ovs-vswitchd ended (${daemon.exit}):\n${daemon.logTail()}`);
        const state = await runAny('ovs-vsctl', [
          `--db=${this.databaseRemote}`,
          '--no-wait',
          'get',
          'Open_vSwitch',
          '.',
          'dpdk_initialized',
        ]);
        if (state.stdout.trim() !== 'true') return false;
        return (await runAny('ovs-appctl', ['-t', control, 'version'])).code === 0;
      },
      30_000,
    );
  }

  /** SIGKILL, as a crash. Returns when the process is gone. */
  async killSwitch(): Promise<void> {
    await this.#switch?.stop('SIGKILL');
  }

  async stop(): Promise<void> {
    if (this.alive) {
      // `--cleanup` removes the internal ports, which are TAPs that would outlive the daemon.
      await runAny('ovs-appctl', ['-t', join(this.directory, 'vswitchd.ctl'), 'exit', '--cleanup'], {
        timeoutMs: 5_000,
      });
    }
    await this.#switch?.stop('SIGTERM', 5_000);
    await this.#database?.stop();
    // What a switch that died could not remove, nor the next one, which found it there.
    for (const link of this.#links) await runAny('ip', ['link', 'del', link]);
  }

  vsctl(...args: string[]): Promise<string> {
    return run('ovs-vsctl', [`--db=${this.databaseRemote}`, ...args]);
  }

  appctl(...args: string[]): Promise<string> {
    return run('ovs-appctl', ['-t', join(this.directory, 'vswitchd.ctl'), ...args]);
  }

  async addBridge(name: string): Promise<void> {
    this.#links.add(name);
    await this.vsctl('--may-exist', 'add-br', name, '--', 'set', 'bridge', name, 'datapath_type=netdev');
  }

  async ports(bridge: string): Promise<string[]> {
    return (await this.vsctl('list-ports', bridge)).split('\n').filter((line) => line !== '');
  }
}
