/**
 * The OVS-DPDK of a machine, inside it: `/run/openvswitch`, its database kept over reboots as Debian keeps it. The bridge's
 * own port is the gateway of the pods, in the machine's network namespace; it dies with the switch and is set anew.
 */
import { existsSync } from 'node:fs';
import type { Cleanup } from '../../support/cleanup.ts';
import { type Daemon, until } from '../../support/process.ts';
import type { Machine } from './machine.ts';

const vswitchd = '/usr/lib/openvswitch-switch-dpdk/ovs-vswitchd-dpdk';
const schema = '/usr/share/openvswitch/vswitch.ovsschema';
const databasePath = '/var/lib/openvswitch/conf.db';
const control = '/run/openvswitch/vswitchd.ctl';
const memoryMiB = 256;

/** Of hugepages, to be reserved before; pages that are reserved and not yet taken count as free. */
export const switchMemoryMiB = memoryMiB + 64;

/** As the manifests name it. */
export const bridge = 'br-dpdk';

export interface Routing {
  /** `10.244.1.1/24`: the pods' gateway. */
  readonly gateway: string;
  /** Subnet of another node → its address. */
  readonly routes: Readonly<Record<string, string>>;
}

export class Switch {
  readonly #machine: Machine;
  #routing: Routing | null = null;
  #daemon: Daemon | null = null;

  private constructor(machine: Machine) {
    this.#machine = machine;
  }

  static async start(machine: Machine, cleanup: Cleanup): Promise<Switch> {
    const made = new Switch(machine);
    cleanup.add(`switch of ${machine.name}`, () => made.kill());
    await made.boot();
    return made;
  }

  /** Database and switch; after a reboot with the ports of before. */
  async boot(): Promise<void> {
    await this.#machine.exec('mkdir', '-p', '/run/openvswitch');
    if (!existsSync(this.#machine.hostPath(databasePath))) {
      await this.#machine.exec('ovsdb-tool', 'create', databasePath, schema);
    }
    this.#machine.daemon(
      'ovsdb-server',
      'ovsdb-server',
      databasePath,
      '--remote=punix:/run/openvswitch/db.sock',
      '--unixctl=/run/openvswitch/ovsdb.ctl',
    );
    await until(
      'ovsdb-server',
      async () => (await this.#machine.execAny('ovs-vsctl', ['--no-wait', 'init'])).code === 0,
    );
    await this.vsctl(
      '--no-wait',
      'set',
      'Open_vSwitch',
      '.',
      'other_config:dpdk-init=true',
      `other_config:dpdk-socket-mem=${memoryMiB}`,
      `other_config:dpdk-socket-limit=${memoryMiB}`,
      'other_config:dpdk-lcore-mask=0x1',
      'other_config:pmd-cpu-mask=0x2',
      // Two switches, a cluster and the tests share two cores: an idle polling thread sleeps.
      'other_config:pmd-maxsleep=200',
      `other_config:dpdk-extra="--huge-dir /run/hugepages --file-prefix ${this.#machine.name} --no-pci --no-telemetry"`,
    );
    await this.run();
  }

  /** Starts the switch itself, and gives the bridge its addresses again. */
  async run(): Promise<void> {
    const daemon = this.#machine.daemon(
      'ovs-vswitchd',
      vswitchd,
      'unix:/run/openvswitch/db.sock',
      `--unixctl=${control}`,
    );
    this.#daemon = daemon;
    await until(
      `ovs-vswitchd of ${this.#machine.name}`,
      async () => {
        if (!daemon.alive) throw new Error(`ovs-vswitchd ended (${daemon.exit}):\n${daemon.logTail()}`);
        return (await this.#machine.execAny('ovs-appctl', ['-t', control, 'version'])).code === 0;
      },
      30_000,
    );
    await this.vsctl('--may-exist', 'add-br', bridge, '--', 'set', 'bridge', bridge, 'datapath_type=netdev');
    if (this.#routing !== null) await this.route(this.#routing);
  }

  /** Makes the bridge the pods' gateway, and this machine a router to the other ones. */
  async route(routing: Routing): Promise<void> {
    this.#routing = routing;
    const script = [
      `ip address replace ${routing.gateway} dev ${bridge}`,
      `ip link set ${bridge} up`,
      ...Object.entries(routing.routes).map(([subnet, via]) => `ip route replace ${subnet} via ${via}`),
      'echo 1 > /proc/sys/net/ipv4/ip_forward',
    ];
    await this.#machine.exec('sh', '-ec', script.join('\n'));
  }

  get alive(): boolean {
    return this.#daemon?.alive === true;
  }

  get log(): string {
    return this.#daemon?.logTail(30) ?? '';
  }

  /** SIGKILL, as a crash. */
  async kill(): Promise<void> {
    await this.#daemon?.stop('SIGKILL');
  }

  vsctl(...args: string[]): Promise<string> {
    return this.#machine.exec('ovs-vsctl', ...args);
  }

  async ports(): Promise<string[]> {
    return (await this.vsctl('list-ports', bridge)).split('\n').filter((line) => line !== '');
  }
}
