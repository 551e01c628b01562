/**
 * The way down, derivable from a record alone: used by DEL, by GC, by reconciliation and to finish what a crashed agent
 * began. Every part is tried whatever the others do, succeeds when its object is already gone, and the record goes last.
 *
 * Traffic stops first: from then on the pod answers for no address and sends nothing, so that the lease may be given back
 * beside the removal of connection, OVS port and interface. A lease that is given back over the interface itself goes
 * before that.
 */
import { VirtioUserError } from '../errors.ts';
import { asksOverInterface, type IpamCall } from '../ipam/result.ts';
import type { RemoveRequest } from './api.ts';
import type { AttachmentDependencies } from './dependencies.ts';
import type { LiveAttachment } from './live-attachment.ts';
import { openRecordedNetns, sameNetns } from './netns.ts';
import type { AttachmentRecord } from './record.ts';
import type { AttachmentSpec } from './spec.ts';
import type { RecordStore } from './store.ts';

export type DetachStep = 'connection' | 'OVS port' | 'interface' | 'address' | 'device info' | 'record';

export interface DetachFailure {
  readonly step: DetachStep;
  readonly error: VirtioUserError;
}

/** What a switch gets to let go in order before its connection is cut. */
export const portStopMs = 2000;

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

/** @returns what could not be undone now; while there is something, the record stays (phase `deleting`) for a later try */
export async function detach(
  record: AttachmentRecord,
  live: LiveAttachment | null,
  store: RecordStore,
  dependencies: AttachmentDependencies,
  signal: AbortSignal,
): Promise<readonly DetachFailure[]> {
  const { ipam, deviceInfo, log } = dependencies;
  const { deviceInfoPath } = record.spec;
  const ifindex = record.phase === 'creating' ? null : record.ifindex;
  const deleting: AttachmentRecord = { ...common(record), phase: 'deleting', ifindex };
  const written = record.phase === 'deleting' ? Promise.resolve() : announceRemoval(deleting, store, dependencies);
  const call = ipamCall(record.spec);
  const overInterface = call !== null && asksOverInterface(call.type);
  const announced = overInterface ? written : Promise.all([written, live?.stopTraffic()]);
  // The plugin starts up meanwhile; it is told what to do when the record says so and no packet moves any more.
  const address = call === null ? Promise.resolve() : ipam.del(call, signal, announced);
  const asked = address.catch(() => undefined); // judged below
  await announced;
  if (overInterface) {
    await asked;
    await live?.stopTraffic();
  }
  const connection = live === null ? clearSocket(record, store, dependencies) : closeLive(live);
  const steps: readonly (readonly [DetachStep, Promise<unknown>])[] = [
    ['connection', connection],
    ['OVS port', record.spec.ovs === null ? connection : removePort(record.id, connection, dependencies, signal)],
    ['interface', removeLink(record, store, dependencies)],
    ['address', address],
    ['device info', deviceInfoPath === null ? Promise.resolve() : deviceInfo.remove(deviceInfoPath, record.id)],
  ];
  const outcomes = await Promise.allSettled(steps.map(([, work]) => work));
  const failures = outcomes.flatMap((outcome, index): DetachFailure[] => {
    const step = steps[index]?.[0];
    if (outcome.status === 'fulfilled' || step === undefined) return [];
    return [{ step, error: VirtioUserError.from(outcome.reason, `remove ${step} of ${record.id}`, 'SYSCALL_FAILED') }];
  });
  if (failures.length === 0) {
    try {
      await store.remove(record.id);
    } catch (thrown) {
      failures.push({ step: 'record', error: VirtioUserError.from(thrown, `remove record ${record.id}`) });
    }
  }
  for (const { step, error } of failures) log.warn({ id: record.id, step, error }, 'not removed yet');
  return failures;
}

/** DEL without a record: the lease may still exist, and a port with our tag. The interface goes with its namespace. */
export async function removeUnrecorded(
  id: string,
  request: RemoveRequest,
  { ipam, ovs, log }: AttachmentDependencies,
  signal: AbortSignal,
): Promise<void> {
  const { key, netnsPath, cniArgs, cniPath } = request;
  const port = ovs.remove(id, signal).catch((error: unknown) => {
    // Most nodes that never made a port have no OVS; where there is one, reconciliation finds the port by its tag.
    log.debug({ id, error }, 'cannot look for the port of an unknown attachment');
  });
  try {
    if (request.ipam === null) return;
    const { containerId, ifName } = key;
    await ipam.del({ ...request.ipam, containerId, netnsPath, ifName, cniArgs, cniPath }, signal);
  } catch (error) {
    // A plugin that does not exist has given no lease. Failing here would keep a pod whose ADD failed for the same
    // reason from ever being tried again.
    if (!(error instanceof VirtioUserError) || error.details['missing'] !== true) throw error;
    log.warn({ id, error }, 'DEL of an unknown attachment: there is no such IPAM plugin');
  } finally {
    await port;
  }
}

/**
 * A DEL must not fail for a full disk: removing needs no space. What cannot be removed now is tried again as if this had
 * been written. The price is that an agent killed in between takes the attachment up again, until the runtime's next DEL.
 */
async function announceRemoval(
  deleting: AttachmentRecord,
  store: RecordStore,
  { log }: AttachmentDependencies,
): Promise<void> {
  try {
    await store.write(deleting);
  } catch (error) {
    log.error({ id: deleting.id, error }, 'removal goes on without having been written down');
    store.assume(deleting);
  }
}

/** An agent that was killed left the file of its socket. What cannot be cleared away is in nobody's way. */
async function clearSocket(
  { id, spec: { backend } }: AttachmentRecord,
  store: RecordStore,
  { createSource, log }: AttachmentDependencies,
): Promise<void> {
  // A path without `{id}` may be another attachment's by now.
  if (store.list().some((other) => other.id !== id && other.spec.backend.path === backend.path)) return;
  try {
    createSource(backend).clear();
  } catch (error) {
    log.debug({ id, error }, 'the socket of an attachment that does not run stays');
  }
}

async function removeLink(
  record: AttachmentRecord,
  store: RecordStore,
  { binding, options }: AttachmentDependencies,
): Promise<void> {
  if (record.bootId !== options.bootId) return;
  const netns = openRecordedNetns(binding, record.spec.netnsPath, record.netns);
  if (netns === null) return;
  try {
    const { ifName } = record.spec.key;
    const ifindex = record.phase === 'creating' ? null : record.ifindex;
    if (ifindex !== null) {
      await binding.deletePodLink(netns, ifName, ifindex);
      return;
    }
    // Half made: the index was not known yet. A TAP with our MAC under our name is ours, unless another record has it.
    if (store.list().some((other) => other.id !== record.id && sameInterface(other, record))) return;
    const link = await binding.inspectPodLink(netns, ifName);
    if (link?.kind !== 'tun' || link.mac !== record.spec.device.mac) return;
    await binding.deletePodLink(netns, ifName, link.ifindex);
  } finally {
    netns.close();
  }
}

function sameInterface(one: AttachmentRecord, other: AttachmentRecord): boolean {
  return sameNetns(one.netns, other.netns) && one.spec.key.ifName === other.spec.key.ifName;
}

/** Cut, the OVS port stays until later: a switch that is slow gets longer than one that loses no port. */
export function closeLive(live: LiveAttachment): Promise<void> {
  return live.close(live.spec.ovs === null ? undefined : portStopMs);
}

/**
 * When the connection has ended. A switch that removes a port while its vhost thread is still ending that connection
 * hangs for good: DPDK's removal spins until the thread is done (rte_vhost_driver_unregister), and the thread waits for
 * the spinning one (OVS 3.1, destroy_device in netdev-dpdk.c: ovsrcu_synchronize). One that was cut the switch may find
 * ended together with the removal, so the port is not removed at once then.
 * @throws VirtioUserError OVS_UNAVAILABLE after a cut: to be tried again
 */
export async function removePort(
  id: string,
  connection: Promise<unknown>,
  { ovs, cuts }: Pick<AttachmentDependencies, 'ovs' | 'cuts'>,
  signal: AbortSignal,
): Promise<boolean> {
  await connection.catch(() => undefined); // judged by its own step
  if (cuts.has(id)) {
    throw new VirtioUserError(
      'OVS_UNAVAILABLE',
      `OVS port ${id} is removed later: the switch did not let go of its connection, which was cut`,
      { details: { port: id }, remedy: 'The switch is slow or hangs: look at its log and its load.' },
    );
  }
  return ovs.remove(id, signal);
}

/** What a record of any phase has. */
function common({ version, id, bootId, createdAtMs, spec, netns, requestId }: AttachmentRecord) {
  return { version, id, bootId, createdAtMs, spec, netns, requestId };
}
