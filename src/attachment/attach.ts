/**
 * The way up: ADD as steps with undo. One durable write before the first side effect, one before the answer. IPAM runs
 * beside the making of TAP and socket, since they do not need an address. The OVS port comes last: each one that comes or
 * goes makes the switch stop its threads for a moment, which an ADD that fails is not worth, and the switch's work with it
 * then falls after the answer and not before.
 * When one step fails, the others are told to stop, and whatever has been done is undone in reverse.
 */
import { errnoOf, messageOf, VirtioUserError } from '../errors.ts';
import type { IpamResult } from '../ipam/result.ts';
import type { NativeFd } from '../native/binding.ts';
import type { CallContext } from './api.ts';
import type { AttachmentDependencies } from './dependencies.ts';
import { ipamCall } from './detach.ts';
import { deviceInfo } from './device-info.ts';
import { attachmentId } from './key.ts';
import { LiveAttachment, type PodInterface } from './live-attachment.ts';
import { identityOf } from './netns.ts';
import { ovsPortSpec } from './ovs-port.ts';
import { linkSetup, tapSpec } from './pod-link.ts';
import type { CreatingRecord, ReadyRecord } from './record.ts';
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

class Climb {
  readonly id: string;
  readonly #spec: AttachmentSpec;
  readonly #netns: NativeFd;
  readonly #store: RecordStore;
  readonly #dependencies: AttachmentDependencies;
  readonly #rollback = new Rollback();
  readonly #record: CreatingRecord;
  /** Aborted when a step fails, so that the one beside it does not go on for nothing. */
  readonly #stop = new AbortController();
  readonly #caller: AbortSignal;
  readonly #signal: AbortSignal;
  #ifindex: number | null = null;

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
    const { backend } = this.#spec;
    this.#proceed();
    // The plugin starts up while the record is written; it is told what to do when that is on disk.
    const recorded = this.#store.write(this.#record).then(() => this.#proceed());
    const [{ live, ifindex }, ipam] = await this.#together(this.#device(recorded), this.#address(recorded));
    this.#proceed();
    const ready = this.#ready(ifindex, ipam);
    const link = this.#setUpLink(ifindex, ipam).then(() => live.setAddresses(ipam.ips.map(({ address }) => address)));
    const described = this.#together(link, this.#describeDevice());
    if (backend.wait === 'required') {
      await described;
      await this.#ovsPort();
      await live.waitUntilRunning(backend.waitTimeoutMs, this.#caller);
      this.#proceed();
      await this.#store.write(ready);
    } else {
      // The runtime has no answer before all are done; killed in between, it calls DEL.
      await this.#together(described, this.#store.write(ready));
      this.#proceed();
      await this.#ovsPort();
    }
    this.#proceed();
    return { record: ready, live };
  }

  /** Never rejects. */
  async undo(): Promise<void> {
    const { log } = this.#dependencies;
    const failures = await this.#rollback.unwind();
    try {
      if (failures.length === 0) {
        await this.#store.remove(this.id);
        return;
      }
      log.error({ id: this.id, failures }, 'ADD could not be undone completely yet');
      await this.#store.write({ ...this.#record, phase: 'deleting', ifindex: this.#ifindex });
    } catch (error) {
      // The record on disk is `creating` or `ready`: either leads to the undo, at the latest when the namespace is gone.
      log.error({ id: this.id, error }, 'the undo of an ADD could not be written down');
    }
  }

  async #address(recorded: Promise<void>): Promise<IpamResult> {
    const { ipam } = this.#dependencies;
    const call = ipamCall(this.#spec);
    if (call === null) {
      return { ips: this.#spec.addresses.map((address) => ({ address, gateway: null })), routes: [], dns: null };
    }
    const undo = (): Promise<void> => ipam.del(call, undoSignal());
    try {
      const result = await ipam.add(call, this.#signal, recorded);
      this.#rollback.push('address', undo);
      return result;
    } catch (thrown) {
      // An ADD that fails gives back itself what it may have taken, if it can.
      if (thrown instanceof VirtioUserError && thrown.details['undone'] === false) this.#rollback.push('address', undo);
      throw thrown;
    }
  }

  async #device(recorded: Promise<void>): Promise<{ readonly live: LiveAttachment; readonly ifindex: number }> {
    await recorded;
    const { binding } = this.#dependencies;
    const { ifName } = this.#spec.key;
    const tap = await binding
      .openTap(this.#netns, tapSpec(ifName, this.#spec.device, null))
      .catch((error: unknown) => Promise.reject(linkFailure(error, ifName)));
    this.#ifindex = tap.ifindex;
    this.#rollback.push('interface', () => binding.deletePodLink(this.#netns, ifName, tap.ifindex));
    const live = this.#makeLive({ taps: tap.queues, ifindex: tap.ifindex, netns: this.#record.netns });
    this.#rollback.push('device', () => live.close());
    this.#proceed();
    // Before the port: a switch that finds no socket comes back only a second later.
    live.open();
    return { live, ifindex: tap.ifindex };
  }

  #makeLive(pod: PodInterface): LiveAttachment {
    try {
      return new LiveAttachment(this.id, this.#spec, pod, [], this.#dependencies);
    } catch (error) {
      throw linkFailure(error, this.#spec.key.ifName);
    }
  }

  async #ovsPort(): Promise<void> {
    const { ovs, options } = this.#dependencies;
    const port = ovsPortSpec(this.id, this.#spec, options.nodeName);
    if (port === null) return;
    const undo = (): Promise<boolean> => ovs.remove(this.id, undoSignal());
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

  #setUpLink(ifindex: number, ipam: IpamResult): Promise<void> {
    const { binding } = this.#dependencies;
    return binding
      .setupPodLink(this.#netns, linkSetup(ifindex, ipam))
      .catch((error: unknown) => Promise.reject(linkFailure(error, this.#spec.key.ifName)));
  }

  #ready(ifindex: number, ipam: IpamResult): ReadyRecord {
    const { key, netnsPath, device, backend, ovs } = this.#spec;
    return {
      ...this.#record,
      phase: 'ready',
      ifindex,
      result: {
        ifName: key.ifName,
        netnsPath,
        mac: device.mac,
        mtu: device.mtu,
        socketPath: backend.path,
        ovsPort: ovs === null ? null : this.id,
        ipam,
      },
    };
  }

  /** Both, or the failure that came first after both have ended: undo must not run beside a step. */
  async #together<A, B>(one: Promise<A>, other: Promise<B>): Promise<[A, B]> {
    let first: unknown;
    let failed = false;
    const noted = async <T>(work: Promise<T>): Promise<T> => {
      try {
        return await work;
      } catch (thrown) {
        if (!failed) first = thrown;
        failed = true;
        this.#stop.abort(thrown);
        throw thrown;
      }
    };
    const [a, b] = await Promise.allSettled([noted(one), noted(other)]);
    if (a.status === 'fulfilled' && b.status === 'fulfilled') return [a.value, b.value];
    this.#proceed();
    throw first;
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

function linkFailure(error: unknown, ifName: string): VirtioUserError {
  if (error instanceof VirtioUserError) return error;
  const errno = errnoOf(error);
  const options = { details: { errno }, cause: error };
  switch (errno) {
    case 'EEXIST':
    case 'EBUSY':
      return new VirtioUserError(
        'CONFLICT_INTERFACE',
        `interface ${ifName} exists already in the pod's namespace`,
        options,
      );
    case 'ENOMEM':
    case 'EMFILE':
    case 'ENFILE':
    case 'ENOBUFS':
      return new VirtioUserError('RESOURCE_EXHAUSTED', `interface ${ifName}: ${messageOf(error)}`, options);
    default:
      return new VirtioUserError('SYSCALL_FAILED', `interface ${ifName}: ${messageOf(error)}`, options);
  }
}
