/** One attachment as it runs: the pod's TAP (port), its device, and the policy of its backend connections. */
import type { ReadyDevice, VirtioUserDevice } from '../device/api.ts';
import { VirtioUserError } from '../errors.ts';
import type { NetState } from '../device/net-state.ts';
import type { NativeFd, PodLinkWatch, Port, PortCounters, Pump } from '../native/binding.ts';
import type { AttachmentIdentity } from '../telemetry/channels.ts';
import { statusNames } from '../virtio/status.ts';
import { announcements } from './announce.ts';
import type { AttachmentDependencies } from './dependencies.ts';
import { openRecordedNetns } from './netns.ts';
import { PodDriver } from './pod-driver.ts';
import type { NetnsIdentity } from './record.ts';
import { type LinkState, Reconnect } from './reconnect.ts';
import type { AttachmentSpec } from './spec.ts';

/** What a view says of an attachment that runs. */
export interface LiveView {
  readonly state: LinkState;
  readonly reason: string | null;
  readonly carrier: boolean;
  readonly statusNames: readonly string[];
  readonly ready: ReadyDevice | null;
  readonly mtu: number;
  readonly activePairs: number;
  readonly net: NetState | null;
  readonly backendPid: number | null;
  readonly connections: number;
  readonly lastOutageMs: number | null;
}

/** The pod's interface as it was made or taken up. */
export interface PodInterface {
  /** Taken, also when the constructor throws. */
  readonly taps: readonly NativeFd[];
  readonly ifindex: number;
  readonly netns: NetnsIdentity;
}

/** What is settled after the spec; of an ADD under way, nothing is. */
export interface Settled {
  readonly addresses: readonly string[];
  readonly wantedPairs: number | null;
}

export class LiveAttachment {
  readonly id: string;
  readonly spec: AttachmentSpec;
  readonly #dependencies: AttachmentDependencies;
  readonly #port: Port;
  readonly #device: VirtioUserDevice;
  readonly #reconnect: Reconnect;
  /** null without a control queue. */
  readonly #driver: PodDriver | null;
  readonly #pod: PodInterface;
  /** At the pod's interface, once per connection; it has a descriptor of the namespace meanwhile. */
  #macLook: Promise<string> | null = null;
  readonly #waiters = new Set<() => void>();
  #addresses: readonly string[];

  constructor(
    id: string,
    spec: AttachmentSpec,
    pod: PodInterface,
    { addresses, wantedPairs }: Settled,
    dependencies: AttachmentDependencies,
  ) {
    this.id = id;
    this.spec = spec;
    this.#pod = pod;
    this.#addresses = addresses;
    this.#dependencies = dependencies;
    const { createDevice, createSource, clock, options } = dependencies;
    const log = dependencies.log.child({ id, containerId: spec.key.containerId, network: spec.key.networkName });
    this.#port = createPort(id, pod.taps, dependencies, (event) => this.#reconnect.portEvent(event));
    try {
      const { softwareOffloads } = options;
      const device = createDevice({ ...spec.device, softwareOffloads, wantedPairs }, this.#port);
      this.#device = device;
      this.#driver = spec.device.cq
        ? new PodDriver({
            device,
            openWatch: (onChange) => openWatch(spec, pod, dependencies, onChange),
            onMacChange: () => this.#reconnect.announce(),
            clock,
            log,
          })
        : null;
      this.#reconnect = new Reconnect({
        identity: identityOf(id, spec),
        port: this.#port,
        device: this.#device,
        createSource: () => createSource(spec.backend),
        holdMs: options.holdMs,
        configuredPairs: spec.device.queues,
        clock,
        log,
        onChange: () => {
          for (const waiter of [...this.#waiters]) waiter();
        },
        onRunning: (running) => {
          if (running) {
            dependencies.cuts.forget(id);
            this.#macLook = null;
            this.#driver?.start();
          } else {
            this.#driver?.stop();
          }
        },
        onCut: () => dependencies.cuts.add(id),
        onAnnounced: () => this.#driver?.announced(),
        announcements: () => this.#announcements(this.#addresses),
      });
    } catch (error) {
      void this.#port.close();
      throw error;
    }
  }

  get state(): LinkState {
    return this.#reconnect.state;
  }

  /** Starts to listen or connect. @throws VirtioUserError when it can never work */
  open(): void {
    this.#reconnect.open();
  }

  /** The same for an interface that an earlier agent made; never throws. */
  resume(): void {
    this.#reconnect.resume();
  }

  /** Told once IPAM has answered; announced when the backend is there already. */
  setAddresses(addresses: readonly string[]): void {
    this.#addresses = addresses;
    this.#reconnect.announce();
  }

  /**
   * Resolves when the device runs.
   * @throws VirtioUserError after the time: BACKEND_ABSENT, or what was wrong with the backend that came; CANCELLED on
   *   abort
   */
  async waitUntilRunning(timeoutMs: number, signal: AbortSignal): Promise<void> {
    if (this.state === 'running') return;
    const { path, wait } = this.spec.backend;
    await new Promise<void>((resolve, reject) => {
      const finish = (error: VirtioUserError | null): void => {
        cancelTimer();
        signal.removeEventListener('abort', onAbort);
        this.#waiters.delete(onChange);
        if (error === null) resolve();
        else reject(error);
      };
      const cancelTimer = this.#dependencies.clock.after(timeoutMs, () => {
        const why = this.#reconnect.reason ?? this.state;
        const what = `backend ${path} did not come up within ${timeoutMs} ms: ${why}`;
        const { failure } = this.#reconnect;
        const start =
          wait === 'required'
            ? 'Start the switch, or use backend.wait "optional".'
            : 'Start the switch: the IPAM plugin asks over it for an address.';
        const details = { ...failure?.details, path, state: this.state };
        const remedy =
          failure === null ? start : (failure.remedy ?? 'The logs of the switch and the agent have the reason.');
        finish(
          new VirtioUserError(failure?.code ?? 'BACKEND_ABSENT', what, {
            details,
            remedy,
            ...(failure === null ? {} : { cause: failure }),
          }),
        );
      });
      const onAbort = (): void =>
        finish(new VirtioUserError('CANCELLED', `waiting for backend ${path}: the caller is gone`));
      const onChange = (): void => {
        if (this.state === 'running') finish(null);
      };
      signal.addEventListener('abort', onAbort, { once: true });
      this.#waiters.add(onChange);
      if (signal.aborted) onAbort();
    });
  }

  /** Drops the connection, if there is one, and starts anew. */
  reconnect(): void {
    this.#reconnect.reconnect();
  }

  /** @throws VirtioUserError as the device's `control` does */
  async setQueuePairs(pairs: number): Promise<void> {
    await this.#device.control({ kind: 'queue-pairs', pairs });
    this.#dependencies.log.info({ id: this.id, pairs }, 'queue pairs switched');
  }

  /** No frame moves after it resolves; the TAP's descriptors are let go. Idempotent. */
  async stopTraffic(): Promise<void> {
    await Promise.all([this.#reconnect.stopTraffic(), this.#driver?.close(), this.#macLook]);
  }

  /**
   * The whole end: traffic, connection, memory, socket. The TAP itself stays. Idempotent.
   * @param patienceMs what a living backend gets to let go in order
   */
  async close(patienceMs?: number): Promise<void> {
    await Promise.all([this.#reconnect.close(patienceMs), this.#driver?.close(), this.#macLook]);
  }

  counters(): PortCounters | null {
    return this.state === 'closing' ? null : this.#port.counters();
  }

  async #announcements(addresses: readonly string[]): Promise<readonly Uint8Array[]> {
    return addresses.length === 0 ? [] : announcements(await this.#mac(), addresses);
  }

  /** The pod's address as the device knows it; where no driver has told it yet, or none will, as its interface has it. */
  async #mac(): Promise<string> {
    return this.#device.driverMac ?? (await (this.#macLook ??= this.#lookAtMac()));
  }

  /** Never rejects. */
  async #lookAtMac(): Promise<string> {
    const { mac } = this.spec.device;
    try {
      return (await readMac(this.spec, this.#pod, this.#dependencies)) ?? mac;
    } catch (error) {
      this.#dependencies.log.debug(
        { id: this.id, error },
        "the pod's address could not be read; announced as it was made",
      );
      return mac;
    }
  }

  get view(): LiveView {
    const { state, reason, carrier, ready, backendPid, connections, lastOutageMs } = this.#reconnect;
    const names = statusNames(this.#device.status);
    const { mtu, activePairs, net } = this.#device;
    return {
      state,
      reason,
      carrier,
      statusNames: names,
      ready,
      mtu,
      activePairs,
      net,
      backendPid,
      connections,
      lastOutageMs,
    };
  }
}

export function identityOf(id: string, { key, pod }: AttachmentSpec): AttachmentIdentity {
  return { id, networkName: key.networkName, containerId: key.containerId, ifName: key.ifName, pod };
}

function createPort(
  id: string,
  taps: readonly NativeFd[],
  { binding, pumps }: AttachmentDependencies,
  onEvent: Parameters<AttachmentDependencies['binding']['createPort']>[0]['onEvent'],
): Port {
  try {
    return binding.createPort({ taps, pumps: turned(pumps, id), onEvent });
  } catch (error) {
    for (const tap of taps) tap.close();
    throw error;
  }
}

async function openWatch(
  { netnsPath }: AttachmentSpec,
  { netns, ifindex }: PodInterface,
  { binding }: AttachmentDependencies,
  onChange: () => void,
): Promise<PodLinkWatch | null> {
  const fd = openRecordedNetns(binding, netnsPath, netns);
  if (fd === null) return null;
  try {
    return await binding.watchPodLink(fd, ifindex, onChange);
  } finally {
    fd.close();
  }
}

/** By its index: a pod may rename it. null: it is gone, or its namespace. */
async function readMac(
  spec: AttachmentSpec,
  pod: PodInterface,
  dependencies: AttachmentDependencies,
): Promise<string | null> {
  const watch = await openWatch(spec, pod, dependencies, () => undefined);
  try {
    return (await watch?.read())?.mac ?? null;
  } finally {
    watch?.close();
  }
}

/** Pair 0 of every attachment on the first pump would leave the others idle: each begins elsewhere. */
function turned(pumps: readonly Pump[], id: string): readonly Pump[] {
  const first = parseInt(id.slice(-4), 16) % Math.max(pumps.length, 1);
  return [...pumps.slice(first), ...pumps.slice(0, first)];
}
