/**
 * Multus (thick, 4.x) as its delegates see it, without its five minutes of building: what it puts into environment and
 * stdin, in which order it calls, what it makes of the answers. Told from its behaviour (pkg/types/conf.go,
 * pkg/multus/multus.go), libcni's (capabilities, cache of results) and the NPWG client library's (device-info,
 * network-status); test/deploy/multus.test.ts holds it against the real one.
 */
import { existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { MemoryCgroup } from './memory-cgroup.ts';
import type { Netns } from './netns.ts';
import { runAny } from './process.ts';
import { type CniOutcome, type CniResult, executablePath, outcomeOf } from './runtime.ts';

/** A NetworkAttachmentDefinition: `config` as its author wrote it. */
export interface Network {
  readonly name: string;
  readonly namespace: string;
  readonly config: Readonly<Record<string, unknown>>;
}

/** An entry of the pod's annotation, and what a device plugin allocated. */
export interface Selection {
  readonly network: Network;
  readonly interface?: string;
  readonly mac?: string;
  readonly ips?: readonly string[];
  readonly deviceID?: string;
  readonly cniArgs?: Readonly<Record<string, unknown>>;
  /** From the kubelet's PodResources, where the definition names a resource. */
  readonly allocated?: { readonly resourceName: string; readonly deviceID: string };
}

export interface MultusPod {
  readonly containerId: string;
  readonly netns: Netns;
  readonly name: string;
  readonly uid?: string;
  readonly selections: readonly Selection[];
}

export interface NetworkStatus {
  readonly name: string;
  readonly interface: string;
  readonly ips: readonly string[];
  readonly mac: string;
  readonly mtu?: number;
  readonly gateway?: readonly string[];
  readonly dns: object;
  readonly 'device-info'?: unknown;
}

export interface MultusOptions {
  /** Leads the executable to the agent of the test. */
  readonly environment: Readonly<Record<string, string>>;
  /** In the place of /var/run/k8s.cni.cncf.io/devinfo/cni. */
  readonly deviceInfoDir: string;
  readonly cgroup: MemoryCgroup;
  /** In the place of ours. */
  readonly executable?: string;
}

interface Delegate {
  readonly ifName: string;
  readonly stdin: Readonly<Record<string, unknown>>;
  readonly cniArgs: string;
  readonly deviceInfoFile: string | null;
  readonly selection: Selection;
}

/** Variables of the daemon's container; libcni hands on all of them. */
const daemonEnvironment = {
  PATH: '/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin',
  HOSTNAME: 'node1',
  HOME: '/root',
  MULTUS_NODE_NAME: 'node1',
  KUBERNETES_SERVICE_HOST: '10.96.0.1',
  KUBERNETES_SERVICE_PORT: '443',
  KUBERNETES_PORT_443_TCP_ADDR: '10.96.0.1',
};

export class Multus {
  readonly #options: MultusOptions;
  /** libcni's: results by container and interface. */
  readonly #cache = new Map<string, CniResult>();

  constructor(options: MultusOptions) {
    this.#options = options;
  }

  /** Adds every selected network, or none. */
  async add(pod: MultusPod): Promise<readonly NetworkStatus[]> {
    const statuses: NetworkStatus[] = [];
    for (const [index, delegate] of this.#delegates(pod, true).entries()) {
      await this.#refuseTakenName(pod.netns, delegate.ifName);
      this.#copyFromDevicePlugin(delegate);
      const outcome = await this.call('ADD', pod, delegate);
      if (!outcome.ok) {
        await this.del({ ...pod, selections: pod.selections.slice(0, index + 1) });
        throw new Error(`delegateAdd: code ${outcome.error.code}: ${outcome.error.msg}; ${outcome.error.details}`);
      }
      const result = JSON.parse(outcome.stdout) as CniResult;
      this.#cache.set(`${pod.containerId}-${delegate.ifName}`, result);
      statuses.push(...this.#statuses(delegate, result));
    }
    return statuses;
  }

  /** In reverse; what fails does not keep the rest from being deleted. `netnsPath` is empty when kubelet's GC calls. */
  async del(pod: MultusPod, netnsPath: string = pod.netns.path): Promise<void> {
    const failures: string[] = [];
    for (const delegate of [...this.#delegates(pod, false)].reverse()) {
      const outcome = await this.call('DEL', pod, delegate, netnsPath);
      if (!outcome.ok) failures.push(`${delegate.ifName}: ${outcome.error.msg}`);
      else if (outcome.stdout !== '') failures.push(`DEL printed ${outcome.stdout}`);
      else this.#cache.delete(`${pod.containerId}-${delegate.ifName}`);
      if (delegate.deviceInfoFile !== null) rmSync(delegate.deviceInfoFile, { force: true });
    }
    if (failures.length > 0) throw new Error(failures.join('; '));
  }

  /** As for a network of Multus' own configuration: only those are checked. */
  async check(pod: MultusPod): Promise<readonly CniOutcome[]> {
    const outcomes: CniOutcome[] = [];
    for (const delegate of this.#delegates(pod, false)) outcomes.push(await this.call('CHECK', pod, delegate));
    return outcomes;
  }

  /** One call of libcni. */
  async call(verb: string, pod: MultusPod, delegate: Delegate, netnsPath = pod.netns.path): Promise<CniOutcome> {
    const prevResult = verb === 'ADD' ? undefined : this.#cache.get(`${pod.containerId}-${delegate.ifName}`);
    const [command, args] = this.#options.cgroup.within(this.#options.executable ?? executablePath);
    const startedMs = performance.now();
    const finished = await runAny(command, args, {
      env: {
        ...daemonEnvironment,
        ...this.#options.environment,
        CNI_COMMAND: verb,
        CNI_CONTAINERID: pod.containerId,
        CNI_NETNS: netnsPath,
        CNI_ARGS: delegate.cniArgs,
        CNI_IFNAME: delegate.ifName,
        CNI_PATH: '/usr/lib/cni',
      },
      stdin: goJson({ ...delegate.stdin, ...(prevResult === undefined ? {} : { prevResult }) }),
    });
    return outcomeOf(finished, performance.now() - startedMs);
  }

  #delegates(pod: MultusPod, isAdd: boolean): readonly Delegate[] {
    // The cluster's own network is number 0.
    return pod.selections.map((selection, index) => this.#delegate(pod, selection, index + 1, isAdd));
  }

  #delegate(pod: MultusPod, selection: Selection, index: number, isAdd: boolean): Delegate {
    const { network, mac, ips, allocated, cniArgs } = selection;
    const ifName = selection.interface ?? `net${index}`;
    const deviceID = allocated?.deviceID ?? selection.deviceID;
    const fileName = `${network.namespace}/${network.name}-${pod.containerId}_${ifName}`.replaceAll('/', '-');
    const deviceInfoFile = deviceID === undefined ? null : join(this.#options.deviceInfoDir, fileName);
    const capabilityArgs = { mac, ips, deviceID, CNIDeviceInfoFile: deviceInfoFile ?? undefined };
    const declared = (network.config['capabilities'] ?? {}) as Readonly<Record<string, boolean>>;
    const runtimeConfig = Object.fromEntries(
      Object.entries(capabilityArgs).filter(([name, value]) => value !== undefined && declared[name] === true),
    );
    const args = [
      ['IgnoreUnknown', 'true'],
      ['K8S_POD_NAMESPACE', 'default'],
      ['K8S_POD_NAME', pod.name],
      ['K8S_POD_INFRA_CONTAINER_ID', pod.containerId],
      ['K8S_POD_UID', pod.uid ?? '57cd01b0-d0c6-4db7-adb7-a6af2e8b86b7'],
      // Deprecated since 3.5, and still there.
      ...(isAdd && mac !== undefined ? [['MAC', mac]] : []),
      ...(isAdd && ips !== undefined ? [['IP', ips.join(',')]] : []),
    ];
    return {
      ifName,
      selection,
      deviceInfoFile: 'CNIDeviceInfoFile' in runtimeConfig ? deviceInfoFile : null,
      cniArgs: args.map((pair) => pair.join('=')).join(';'),
      stdin: {
        name: network.name,
        ...network.config,
        ...(allocated === undefined ? {} : { deviceID: allocated.deviceID, pciBusID: allocated.deviceID }),
        ...(cniArgs === undefined ? {} : { args: { cni: cniArgs } }),
        // A definition's own runtimeConfig stays when there is nothing to inject.
        ...(Object.keys(runtimeConfig).length === 0 ? {} : { runtimeConfig }),
      },
    };
  }

  async #refuseTakenName(netns: Netns, ifName: string): Promise<void> {
    const { code } = await netns.runAny('ip', ['link', 'show', ifName]);
    if (code === 0) throw new Error(`validateIfName: interface name ${ifName} already exists`);
  }

  /** What the device plugin wrote at the allocation of the device, if it writes any. */
  #copyFromDevicePlugin({ selection: { allocated }, deviceInfoFile }: Delegate): void {
    if (allocated === undefined || deviceInfoFile === null) return;
    const name = `${allocated.resourceName.replaceAll('/', '-')}-${allocated.deviceID.replaceAll('/', '-')}-device.json`;
    const written = join(this.#options.deviceInfoDir, '../dp', name);
    if (!existsSync(written)) return;
    if (!existsSync(this.#options.deviceInfoDir)) mkdirSync(this.#options.deviceInfoDir, { mode: 0 });
    if (existsSync(deviceInfoFile)) throw new Error(`Device Information file already exists: ${basename(written)}`);
    writeFileSync(deviceInfoFile, readFileSync(written), { mode: 0o444 });
  }

  #statuses({ selection: { network }, deviceInfoFile }: Delegate, result: CniResult): NetworkStatus[] {
    const info = deviceInfoFile !== null && existsSync(deviceInfoFile) ? readFileSync(deviceInfoFile, 'utf8') : null;
    const defaults = (result.routes ?? []).filter(({ dst }) => dst === '0.0.0.0/0' || dst === '::/0');
    // Go's net.IP: a gateway that is missing reads "<nil>".
    const gateway = defaults.map(({ gw }) => gw ?? '<nil>');
    return result.interfaces.flatMap((one, index): NetworkStatus[] => {
      // Only interfaces in a sandbox are the pod's.
      if (one.sandbox === undefined || one.sandbox === '') return [];
      const ips = (result.ips ?? []).filter((ip) => result.interfaces.length === 1 || ip.interface === index);
      return [
        {
          name: `${network.namespace}/${network.name}`,
          interface: one.name,
          ips: ips.map(({ address }) => address.split('/')[0] ?? ''),
          mac: one.mac ?? '',
          ...(one.mtu === undefined ? {} : { mtu: one.mtu }),
          ...(gateway.length === 0 ? {} : { gateway }),
          dns: {},
          ...(info === null ? {} : { 'device-info': JSON.parse(info) as unknown }),
        },
      ];
    });
  }
}

/** encoding/json writes the keys of a map in order. */
function goJson(value: Readonly<Record<string, unknown>>): string {
  return JSON.stringify(Object.fromEntries(Object.entries(value).sort(([one], [other]) => (one < other ? -1 : 1))));
}
