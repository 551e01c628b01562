/**
 * The way down, derivable from a record alone: used by DEL, by GC, by reconciliation and to finish what a crashed agent
 * began. Every part is tried whatever the others do, succeeds when its object is already gone, and the record goes last.
 */
import { messageOf, VirtioUserError } from '../errors.ts';
import type { IpamCall } from '../ipam/result.ts';
import type { AttachmentDependencies } from './dependencies.ts';
import type { LiveAttachment } from './live-attachment.ts';
import { openRecordedNetns } from './netns.ts';
import type { AttachmentRecord } from './record.ts';
import type { AttachmentSpec } from './spec.ts';
import type { RecordStore } from './store.ts';

export function ipamCall(spec: AttachmentSpec): IpamCall | null {
  if (spec.ipam === null) return null;
  return {
    type: spec.ipam.type,
    netconf: spec.ipam.netconf,
    containerId: spec.key.containerId,
    netnsPath: spec.netnsPath,
    ifName: spec.key.ifName,
    cniArgs: spec.cniArgs,
    cniPath: spec.cniPath,
  };
}

async function removeLink(record: AttachmentRecord, dependencies: AttachmentDependencies): Promise<void> {
  const { binding } = dependencies;
  const netns = openRecordedNetns(binding, record.spec.netnsPath, record.netns);
  if (netns === null) return;
  try {
    const { ifName } = record.spec.key;
    const recorded = record.phase === 'creating' ? null : record.ifindex;
    let ifindex = recorded;
    if (ifindex === null) {
      // Half made: only a TAP with our MAC under our name can be ours.
      const link = await binding.inspectPodLink(netns, ifName);
      if (link?.kind !== 'tun' || link.mac !== record.spec.device.mac) return;
      ifindex = link.ifindex;
    }
    await binding.deletePodLink(netns, ifName, ifindex);
  } finally {
    netns.close();
  }
}

export interface DetachOutcome {
  /** What could not be undone now; the record stays (phase `deleting`) until a later try has done it. */
  readonly failures: readonly VirtioUserError[];
}

export async function detach(
  record: AttachmentRecord,
  live: LiveAttachment | null,
  store: RecordStore,
  dependencies: AttachmentDependencies,
  signal: AbortSignal,
): Promise<DetachOutcome> {
  const { ovs, ipam, log } = dependencies;
  if (record.phase !== 'deleting') {
    await store.write({ ...record, phase: 'deleting', ifindex: record.phase === 'ready' ? record.ifindex : null });
  }
  await live?.stopTraffic();
  const call = ipamCall(record.spec);
  const parts: readonly (readonly [string, Promise<unknown>])[] = [
    ['connection', live?.close() ?? Promise.resolve()],
    ['OVS port', record.spec.ovs === null ? Promise.resolve() : ovs.remove(record.id, signal)],
    ['interface', removeLink(record, dependencies)],
    ['address', call === null ? Promise.resolve() : ipam.del(call, signal)],
  ];
  const outcomes = await Promise.allSettled(parts.map(([, part]) => part));
  const failures = outcomes.flatMap((outcome, index) =>
    outcome.status === 'rejected'
      ? [VirtioUserError.from(outcome.reason, `remove ${parts[index]?.[0] ?? ''} of ${record.id}`, 'SYSCALL_FAILED')]
      : [],
  );
  if (failures.length === 0) await store.remove(record.id);
  else log.warn({ id: record.id, failures: failures.map(messageOf) }, 'detach is not complete yet');
  return { failures };
}
