/** A node in small: private OVS-DPDK, agent, pods. One per e2e file; everything is undone by `close`. */
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Agent, type AgentOptions } from './agent.ts';
import { Cleanup } from './cleanup.ts';
import { Netns } from './netns.ts';
import { Ovs } from './ovs.ts';
import { type CniResult, hostLocal, type Netconf, newContainerId, type PodCall } from './runtime.ts';

export const bridge = 'br-vu-e2e';

export interface Pod {
  readonly netns: Netns;
  readonly call: PodCall;
  readonly netconf: Netconf;
  readonly result: CniResult;
  readonly ipv4: string;
  readonly ipv6: string;
}

export interface WorldOptions {
  readonly tag: string;
  readonly ovs?: { readonly tso: boolean } | null;
  readonly agent?: AgentOptions;
}

export class World {
  readonly tag: string;
  readonly directory: string;
  readonly cleanup: Cleanup;
  readonly agent: Agent;
  readonly #ovs: Ovs | null;
  #podCount = 0;

  private constructor(tag: string, directory: string, cleanup: Cleanup, ovs: Ovs | null, agent: Agent) {
    this.tag = tag;
    this.directory = directory;
    this.cleanup = cleanup;
    this.#ovs = ovs;
    this.agent = agent;
  }

  static async create(options: WorldOptions): Promise<World> {
    const cleanup = new Cleanup();
    const directory = mkdtempSync(`/run/vu-${options.tag}-`);
    cleanup.add('directory', () => rmSync(directory, { recursive: true, force: true }));
    try {
      let ovs: Ovs | null = null;
      if (options.ovs !== null) {
        ovs = await Ovs.start(join(directory, 'ovs'), options.ovs ?? { tso: true }, cleanup);
        await ovs.addBridge(bridge);
      }
      const agent = await Agent.start(
        join(directory, 'agent'),
        { ...(ovs === null ? {} : { ovsdb: ovs.databaseRemote }), ...options.agent },
        cleanup,
      );
      return new World(options.tag, directory, cleanup, ovs, agent);
    } catch (error) {
      await cleanup.run();
      throw error;
    }
  }

  get ovs(): Ovs {
    if (this.#ovs === null) throw new Error('this world has no OVS');
    return this.#ovs;
  }

  netconf(extra: Readonly<Record<string, unknown>> = {}, cniVersion = '1.0.0'): Netconf {
    return {
      cniVersion,
      name: 'dpdk-net',
      type: 'virtio-user',
      ...(this.#ovs === null ? {} : { ovs: { bridge } }),
      ipam: hostLocal(this.directory, ['10.77.0.0/24', 'fd77::/64']),
      ...extra,
    };
  }

  netns(): Promise<Netns> {
    this.#podCount += 1;
    return Netns.create(`vu-${this.tag}-${this.#podCount}`, this.cleanup);
  }

  async addPod(netconf: Netconf = this.netconf()): Promise<Pod> {
    const netns = await this.netns();
    const call = { containerId: newContainerId(), netnsPath: netns.path, podName: netns.name };
    const result = await this.agent.runtime.add(netconf, call);
    this.cleanup.add(`pod ${netns.name}`, () => this.agent.runtime.del(netconf, call));
    const address = (family: ':' | '.'): string =>
      result.ips?.map((ip) => ip.address.split('/')[0] ?? '').find((text) => text.includes(family)) ?? '';
    return { netns, call, netconf, result, ipv4: address('.'), ipv6: address(':') };
  }

  /** Names of the pod's links, without lo. */
  async links(netns: Netns): Promise<string[]> {
    const links = JSON.parse(await netns.run('ip', '-j', 'link')) as { ifname: string }[];
    return links.map((link) => link.ifname).filter((name) => name !== 'lo');
  }

  leases(): string[] {
    return files(join(this.directory, 'ipam')).filter((name) => !/lock$|last_reserved_ip/.test(name));
  }

  records(): string[] {
    return files(join(this.agent.stateDir, 'attachments'));
  }

  vhostSockets(): string[] {
    return files(join(this.agent.runDir, 'vhost'));
  }

  /** Everything of this world undone; throws when an undo failed, and when the switch had died by itself. */
  async close(): Promise<void> {
    const aborted = this.#ovs !== null && !this.#ovs.alive ? this.#ovs.log : null;
    const failures = await this.cleanup.run();
    if (aborted !== null) throw new Error(`ovs-vswitchd had ended by itself:\n${aborted}`);
    if (failures.length > 0) throw new Error(`clean-up: ${failures.join('; ')}`);
  }
}

function files(directory: string): string[] {
  try {
    return readdirSync(directory, { recursive: true, withFileTypes: true })
      .filter((entry) => !entry.isDirectory())
      .map((entry) => entry.name)
      .sort();
  } catch {
    return [];
  }
}
