/**
 * The way up: ADD as steps with undo. One durable write before the first side effect, one before the answer. IPAM runs
 * beside the making of TAP, socket and OVS port, since they do not need an address; whatever has been done when one of
 * them fails is undone in reverse.
 */
import { errnoOf, messageOf, VirtioUserError } from '../errors.ts';
import type { IpamResult } from '../ipam/result.ts';
import type { NativeFd } from '../native/binding.ts';
import type { AttachmentDependencies } from './dependencies.ts';
import { ipamCall } from './detach.ts';
import { attachmentId } from './key.ts';
import { LiveAttachment } from './live-attachment.ts';
import { identityOf } from './netns.ts';
import { linkSetup, tapSpec } from './pod-link.ts';
import type { CreatingRecord, ReadyRecord } from './record.ts';
import { recordVersion } from './record.ts';
import { Rollback } from './rollback.ts';
import type { AttachmentResult, AttachmentSpec } from './spec.ts';
import type { RecordStore } from './store.ts';

/** Undo has a deadline of its own: the caller's has passed by then. */
const undoTimeoutMs = 20_000;

const noAddresses: IpamResult = { ips: [], routes: [], dns: null };

function throwIfAborted(signal: AbortSignal, id: string): void {
  if (signal.aborted) throw new VirtioUserError('CANCELLED', `ADD of ${id}: ${messageOf(signal.reason)}`);
}

function linkFailure(error: unknown, ifName: string): VirtioUserError {
  const errno = errnoOf(error);
  if (errno === 'EEXIST' || errno === 'EBUSY') {
    return new VirtioUserError('CONFLICT_INTERFACE', `interface ${ifName} exists already in the pod's namespace`, {
      cause: error,
    });
  }
  const resource = errno === 'ENOMEM' || errno === 'EMFILE' || errno === 'ENFILE' || errno === 'ENOBUFS';
  return new VirtioUserError(
    resource ? 'RESOURCE_EXHAUSTED' : 'SYSCALL_FAILED',
    `interface ${ifName}: ${messageOf(error)}`,
    {
      details: { errno: errno ?? 'none' },
      cause: error,
    },
  );
}

export interface Attached {
  readonly record: ReadyRecord;
  readonly live: LiveAttachment;
}

export async function attach(
  spec: AttachmentSpec,
  netns: NativeFd,
  store: RecordStore,
  dependencies: AttachmentDependencies,
  signal: AbortSignal,
): Promise<Attached> {
  const { binding, ipam, ovs, clock, options, log } = dependencies;
  const id = attachmentId(spec.key);
  const { ifName } = spec.key;
  const rollback = new Rollback();
  const record: CreatingRecord = {
    version: recordVersion,
    phase: 'creating',
    id,
    bootId: options.bootId,
    createdAtMs: clock.wallMs(),
    spec,
    netns: identityOf(netns),
  };
  const undoSignal = (): AbortSignal => AbortSignal.timeout(undoTimeoutMs);

  const addressStep = async (): Promise<IpamResult> => {
    const call = ipamCall(spec);
    if (call === null) return noAddresses;
    const result = await ipam.add(call, signal);
    rollback.push('address', () => ipam.del(call, undoSignal()));
    return result;
  };

  const deviceStep = async (): Promise<{ live: LiveAttachment; ifindex: number }> => {
    const tap = await binding.openTap(netns, tapSpec(ifName, spec.device, null)).catch((error: unknown) => {
      throw linkFailure(error, ifName);
    });
    rollback.push('interface', () => binding.deletePodLink(netns, ifName, tap.ifindex));
    const live = new LiveAttachment(id, spec, tap.queues, [], dependencies);
    rollback.push('device', () => live.close());
    live.open();
    if (spec.ovs !== null) {
      rollback.push('OVS port', () => ovs.remove(id, undoSignal()));
      await ovs.ensure(
        {
          name: id,
          bridge: spec.ovs.bridge,
          vlan: spec.ovs.vlan,
          socketPath: spec.backend.path,
          type: spec.backend.server ? 'dpdkvhostuserclient' : 'dpdkvhostuser',
          mtu: spec.device.mtu,
          externalIds: {
            'virtio-user-id': id,
            'virtio-user-node': options.nodeName,
            'iface-id': `${spec.pod?.namespace ?? ''}/${spec.pod?.name ?? spec.key.containerId}/${ifName}`,
            'attached-mac': spec.device.mac,
          },
        },
        signal,
      );
    }
    return { live, ifindex: tap.ifindex };
  };

  try {
    await store.write(record);
    rollback.push('record', () => store.remove(id));
    throwIfAborted(signal, id);
    const [addresses, device] = await Promise.allSettled([addressStep(), deviceStep()]);
    // The netconf's own mistakes are worth more to an admin than what they caused elsewhere: device first.
    if (device.status === 'rejected') throw device.reason;
    if (addresses.status === 'rejected') throw addresses.reason;
    throwIfAborted(signal, id);
    const { live, ifindex } = device.value;
    await binding.setupPodLink(netns, linkSetup(ifindex, addresses.value)).catch((error: unknown) => {
      throw linkFailure(error, ifName);
    });
    live.setAddresses(addresses.value.ips.map((ip) => ip.address));
    if (spec.backend.wait === 'required') await live.waitUntilRunning(spec.backend.waitTimeoutMs, signal);
    throwIfAborted(signal, id);
    const result: AttachmentResult = {
      ifName,
      netnsPath: spec.netnsPath,
      mac: spec.device.mac,
      mtu: spec.device.mtu,
      socketPath: spec.backend.path,
      ovsPort: spec.ovs === null ? null : id,
      ipam: addresses.value,
    };
    const ready: ReadyRecord = { ...record, phase: 'ready', ifindex, result };
    await store.write(ready);
    throwIfAborted(signal, id);
    return { record: ready, live };
  } catch (error) {
    const failures = await rollback.unwind();
    if (failures.length > 0) log.error({ id, failures }, 'ADD could not be undone completely; reconciliation goes on');
    throw VirtioUserError.from(error, `ADD of ${id}`);
  }
}
