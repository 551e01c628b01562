/**
 * The way up: ADD as phases of steps, each step with its undo. One durable write before the first side effect, one before
 * the answer. When a step fails, those beside it are told to stop, and whatever has been done is undone in reverse.
 */
import { messageOf, VirtioUserError } from '../errors.ts';
import { asksOverInterface, type IpamResult } from '../ipam/result.ts';
import type { NativeFd } from '../native/binding.ts';
import type { CallContext } from './api.ts';
import type { AttachmentDependencies } from './dependencies.ts';
import { closeLive, ipamCall, removePort } from './detach.ts';
import { deviceInfo } from './device-info.ts';
import { attachmentId } from './key.ts';
import { linkFailure } from './link-failure.ts';
import { LiveAttachment, type PodInterface } from './live-attachment.ts';
import { identityOf } from './netns.ts';
import { ovsPortSpec } from './ovs-port.ts';
import { linkSetup, tapSpec } from './pod-link.ts';
import type { CreatingRecord, DeletingRecord, ReadyRecord } from './record.ts';
import { recordVersion } from './record.ts';
import { Rollback } from './rollback.ts';
import type { AttachmentSpec } from './spec.ts';
import type { RecordStore } from './store.ts';

/** Undo has a deadline of its own: the caller's has passed by then. */
const undoTimeoutMs = 20_000;

export interface Attached {
  readonly record: ReadyRecord;
  readonly live: LiveAttachment;
}

/** @throws VirtioUserError; then nothing is left, or a record of phase `deleting` says what is */
export async function attach(
  spec: AttachmentSpec,
  netns: NativeFd,
  store: RecordStore,
  dependencies: AttachmentDependencies,
  context: CallContext,
): Promise<Attached> {
  const climb = new Climb(spec, netns, store, dependencies, context);
  try {
    return await climb.run();
  } catch (thrown) {
    await climb.undo();
    throw VirtioUserError.from(thrown, `ADD of ${climb.id}`);
  }
}

type Step = () => Promise<void>;

/** What an earlier phase has made. */
interface Made {
  readonly live: LiveAttachment;
  readonly ifindex: number;
}

const noAddress: IpamResult = { ips: [], routes: [], dns: null };

class Climb {
  readonly id: string;
  readonly #spec: AttachmentSpec;
  readonly #netns: NativeFd;
  readonly #store: RecordStore;
  readonly #dependencies: AttachmentDependencies;
  readonly #rollback = new Rollback();
  readonly #record: CreatingRecord;
  /** Aborted when a step fails, so that those beside it do not go on for nothing. */
  readonly #stop = new AbortController();
  readonly #caller: AbortSignal;
  readonly #signal: AbortSignal;
  /** The first durable write. */
  #recorded: Promise<void> = Promise.resolve();
  #ifindex: number | null = null;
  #live: LiveAttachment | null = null;
  #ipam: IpamResult = noAddress;
  /** The IPAM plugin has ended well. */
  #confirmed: Promise<void> = Promise.resolve();

  constructor(
    spec: AttachmentSpec,
    netns: NativeFd,
    store: RecordStore,
    dependencies: AttachmentDependencies,
    { requestId, signal }: CallContext,
  ) {
    this.id = attachmentId(spec.key);
    this.#spec = spec;
    this.#netns = netns;
    this.#store = store;
    this.#dependencies = dependencies;
    this.#caller = signal;
    this.#signal = AbortSignal.any([signal, this.#stop.signal]);
    this.#record = {
      version: recordVersion,
      phase: 'creating',
      id: this.id,
      bootId: dependencies.options.bootId,
      createdAtMs: dependencies.clock.wallMs(),
      spec,
      netns: identityOf(netns),
      requestId,
    };
  }

  async run(): Promise<Attached> {
    this.#proceed();
    this.#recorded = this.#store.write(this.#record).then(() => this.#proceed());
    for (const phase of this.#phases()) {
      await this.#together(phase);
      this.#proceed();
    }
    return { record: this.#ready(), live: this.#made.live };
  }

  /**
   * What comes after what; the steps of a phase run beside each other.
   *
   * IPAM runs beside the making of TAP and socket, which do not need an address; its plugin starts up while the record is
   * still being written, and goes away while what it printed is made use of. The OVS port comes last: each one that comes
   * or goes makes the switch stop its threads for a moment, which an ADD that fails is not worth, and the switch's work
   * with it then falls after the answer.
   */
  #phases(): readonly (readonly Step[])[] {
    const { backend, ipam } = this.#spec;
    const device = (): Promise<void> => this.#makeDevice();
    const address = (): Promise<void> => this.#askAddress();
    const link = (): Promise<void> => this.#setUpLink();
    const info = (): Promise<void> => this.#describeDevice();
    const port = (): Promise<void> => this.#makeOvsPort();
    const backendThere = (): Promise<void> => this.#waitForBackend();
    // The runtime has no answer before all are done; killed in between, it calls DEL.
    const ready = (): Promise<void> => this.#store.write(this.#ready());
    const confirmed = (): Promise<void> => this.#confirmed;
    if (ipam !== null && asksOverInterface(ipam.type)) {
      return [[device], [link], [port], [backendThere], [address], [ready, link, info, confirmed]];
    }
    return backend.wait === 'required'
      ? [[device, address], [link, info, confirmed], [port], [backendThere], [ready]]
      : [[device, address], [ready, link, info, confirmed], [port]];
  }

  /** Never rejects. */
  async undo(): Promise<void> {
    const { log } = this.#dependencies;
    const failures = await this.#rollback.unwind();
    if (failures.length > 0) log.error({ id: this.id, failures }, 'ADD could not be undone completely yet');
    const deleting: DeletingRecord = { ...this.#record, phase: 'deleting', ifindex: this.#ifindex };
    try {
      if (failures.length === 0) await this.#store.remove(this.id);
      else await this.#store.write(deleting);
    } catch (error) {
      // The record on disk is `creating` or `ready`: either leads to the undo, at the latest when the namespace is gone.
      log.error({ id: this.id, error }, 'the undo of an ADD could not be written down');
      this.#store.assume(deleting);
    }
  }

  async #askAddress(): Promise<void> {
    const { ipam } = this.#dependencies;
    const call = ipamCall(this.#spec);
    if (call === null) {
      this.#ipam = { ...noAddress, ips: this.#spec.addresses.map((address) => ({ address, gateway: null })) };
      return;
    }
    const undo = async (): Promise<void> => {
      await this.#confirmed.catch(() => undefined); // one run of the plugin after the other
      // The address may be another pod's as soon as it is given back; asked over the interface, the plugin needs it.
      if (!asksOverInterface(call.type)) await this.#live?.stopTraffic();
      await ipam.del(call, undoSignal());
    };
    try {
      const answer = await ipam.add(call, this.#signal, this.#recorded);
      this.#ipam = answer.result;
      this.#confirmed = answer.confirmed;
      this.#rollback.push('address', undo);
    } catch (thrown) {
      // An ADD that fails gives back itself what it may have taken, if it can.
      if (thrown instanceof VirtioUserError && thrown.details['undone'] === false) this.#rollback.push('address', undo);
      throw thrown;
    }
  }

  async #makeDevice(): Promise<void> {
    await this.#recorded;
    const { binding } = this.#dependencies;
    const { ifName } = this.#spec.key;
    const tap = await this.#onLink(() => binding.openTap(this.#netns, tapSpec(ifName, this.#spec.device, null)));
    this.#ifindex = tap.ifindex;
    this.#rollback.push('interface', () => binding.deletePodLink(this.#netns, ifName, tap.ifindex));
    const live = this.#makeLive({ taps: tap.queues, ifindex: tap.ifindex, netns: this.#record.netns });
    this.#live = live;
    this.#rollback.push('device', () => live.close());
    this.#proceed();
    // Before the port: a switch that finds no socket comes back only a second later.
    live.open();
  }

  #makeLive(pod: PodInterface): LiveAttachment {
    try {
      return new LiveAttachment(this.id, this.#spec, pod, { addresses: [], wantedPairs: null }, this.#dependencies);
    } catch (error) {
      throw linkFailure(error, this.#spec.key.ifName);
    }
  }

  /** The binding throws at once what it finds before it has begun: no descriptor left, say. */
  async #onLink<T>(work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (error) {
      throw linkFailure(error, this.#spec.key.ifName);
    }
  }

  async #makeOvsPort(): Promise<void> {
    const { ovs, options } = this.#dependencies;
    const port = ovsPortSpec(this.id, this.#spec, options.nodeName);
    if (port === null) return;
    const { live } = this.#made;
    const undo = (): Promise<boolean> => removePort(this.id, closeLive(live), this.#dependencies, undoSignal());
    try {
      await ovs.ensure(port, this.#signal);
      this.#rollback.push('OVS port', undo);
    } catch (thrown) {
      const certain = thrown instanceof VirtioUserError && thrown.details['committed'] === 'no';
      if (!certain) this.#rollback.push('OVS port', undo);
      throw thrown;
    }
  }

  async #describeDevice(): Promise<void> {
    const { deviceInfoPath: path, backend } = this.#spec;
    if (path === null) return;
    const { deviceInfo: files } = this.#dependencies;
    this.#rollback.push('device info', () => files.remove(path, this.id)); // of a half, too
    await files.write(path, this.id, deviceInfo(backend));
  }

  /** Up, with what addresses there are: once more when they come later. */
  async #setUpLink(): Promise<void> {
    const { binding } = this.#dependencies;
    const { live, ifindex } = this.#made;
    await this.#onLink(() => binding.setupPodLink(this.#netns, linkSetup(ifindex, this.#ipam)));
    live.setAddresses(this.#ipam.ips.map(({ address }) => address));
  }

  async #waitForBackend(): Promise<void> {
    await this.#made.live.waitUntilRunning(this.#spec.backend.waitTimeoutMs, this.#caller);
  }

  get #made(): Made {
    if (this.#live === null || this.#ifindex === null) throw new VirtioUserError('BUG', 'a phase came too early');
    return { live: this.#live, ifindex: this.#ifindex };
  }

  #ready(): ReadyRecord {
    const { key, netnsPath, device, backend, ovs } = this.#spec;
    return {
      ...this.#record,
      phase: 'ready',
      ifindex: this.#made.ifindex,
      result: {
        ifName: key.ifName,
        netnsPath,
        mac: device.mac,
        mtu: device.mtu,
        socketPath: backend.path,
        ovsPort: ovs === null ? null : this.id,
        ipam: this.#ipam,
      },
      wantedPairs: null,
    };
  }

  /** All of them, or the failure that came first after all have ended: undo must not run beside a step. */
  async #together(steps: readonly Step[]): Promise<void> {
    const failures: unknown[] = [];
    const noted = async (step: Step): Promise<void> => {
      try {
        await step();
      } catch (thrown) {
        failures.push(thrown);
        this.#stop.abort(thrown);
      }
    };
    await Promise.all(steps.map(noted));
    if (failures.length === 0) return;
    this.#proceed();
    throw failures[0];
  }

  /** @throws CANCELLED when the caller is gone */
  #proceed(): void {
    if (!this.#caller.aborted) return;
    const { containerId, ifName } = this.#spec.key;
    const why = messageOf(this.#caller.reason);
    throw new VirtioUserError('CANCELLED', `ADD of ${ifName} in container ${containerId} rolled back: ${why}`);
  }
}

function undoSignal(): AbortSignal {
  return AbortSignal.timeout(undoTimeoutMs);
}
