/** All attachments of this node: implements what the verbs and the agent ask for. One lock per container. */
import { errnoOf, messageOf, VirtioUserError } from '../errors.ts';
import type { NativeFd } from '../native/binding.ts';
import { publish } from '../telemetry/channels.ts';
import type { Attachments, AttachmentView, CallContext, CheckRequest, GarbageRequest, RemoveRequest } from './api.ts';
import { attach } from './attach.ts';
import { assertLink } from './check.ts';
import type { AttachmentDependencies } from './dependencies.ts';
import { detach, ipamCall } from './detach.ts';
import { attachmentId } from './key.ts';
import { LiveAttachment } from './live-attachment.ts';
import { KeyedLock } from './lock.ts';
import { openRecordedNetns } from './netns.ts';
import { NetnsWatch } from './netns-watch.ts';
import { tapSpec } from './pod-link.ts';
import { reconcile, type ReconcileReport, Strikes } from './reconcile.ts';
import type { AttachmentRecord, ReadyRecord } from './record.ts';
import type { AttachmentResult, AttachmentSpec, IpamSpec } from './spec.ts';
import { RecordStore } from './store.ts';

/** GC leaves younger records alone: the caller's list may be older than they are. */
const garbageGraceMs = 60_000;
/** Bound of background work on one attachment. */
const backgroundTimeoutMs = 30_000;
/** Attachments restored at the same time. */
const restoreConcurrency = 32;

export interface RestoreReport {
  readonly adopted: number;
  readonly finished: number;
  /** Records whose namespace or interface is not there any more; reconciliation decides. */
  readonly absent: number;
  readonly corrupt: number;
}

export class AttachmentManager implements Attachments {
  readonly #dependencies: AttachmentDependencies;
  readonly #store: RecordStore;
  readonly #locks = new KeyedLock();
  readonly #live = new Map<string, LiveAttachment>();
  readonly #strikes = new Strikes();
  readonly #netnsWatch: NetnsWatch;
  #corruptRecords = 0;
  #usesOvs = false;

  constructor(dependencies: AttachmentDependencies) {
    this.#dependencies = dependencies;
    this.#store = new RecordStore(dependencies.options.stateDir);
    this.#netnsWatch = new NetnsWatch((path) => this.#netnsGone(path));
  }

  /** Records set aside since the start. */
  get corruptRecords(): number {
    return this.#corruptRecords;
  }

  /** Reads the records and takes up what they name. Call once, before anything else. */
  async restore(): Promise<RestoreReport> {
    const { records, corrupt } = await this.#store.load();
    this.#corruptRecords = corrupt.length;
    for (const { path, reason } of corrupt) {
      this.#dependencies.log.error({ path, reason }, 'a record cannot be read and was set aside');
      publish('stateCorrupt', { path, reason });
    }
    let adopted = 0;
    let finished = 0;
    let absent = 0;
    const queue = [...records];
    const worker = async (): Promise<void> => {
      for (let record = queue.shift(); record !== undefined; record = queue.shift()) {
        const current = record;
        if (current.spec.ovs !== null) this.#usesOvs = true;
        await this.#locks.run(current.spec.key.containerId, async () => {
          if (current.phase !== 'ready') {
            if (await this.#finish(current, `its ${current.phase} was interrupted`)) finished += 1;
          } else if (await this.#adopt(current)) adopted += 1;
          else absent += 1;
        });
      }
    };
    await Promise.all(Array.from({ length: restoreConcurrency }, worker));
    return { adopted, finished, absent, corrupt: corrupt.length };
  }

  async add(spec: AttachmentSpec, netns: NativeFd, context: CallContext): Promise<AttachmentResult> {
    const id = attachmentId(spec.key);
    return this.#locks.run(spec.key.containerId, async () => {
      if (context.signal.aborted) throw new VirtioUserError('CANCELLED', `ADD of ${id}: the caller is gone`);
      const existing = this.#store.get(id);
      if (existing !== null) await this.#clearTheWay(existing);
      if (spec.ovs !== null) this.#usesOvs = true;
      const { live } = await attach(spec, netns, this.#store, this.#dependencies, context.signal).then((attached) => {
        this.#live.set(id, attached.live);
        return attached;
      });
      this.#netnsWatch.add(spec.netnsPath);
      const record = this.#store.get(live.id);
      if (record?.phase !== 'ready')
        throw new VirtioUserError('BUG', `ADD of ${id} left the record ${record?.phase ?? 'absent'}`);
      return record.result;
    });
  }

  async remove(request: RemoveRequest, context: CallContext): Promise<void> {
    const id = attachmentId(request.key);
    await this.#locks.run(request.key.containerId, async () => {
      const record = this.#store.get(id);
      if (record === null) {
        await this.#removeWithoutRecord(id, request, context);
        return;
      }
      if (record.createdAtMs > request.askedAtMs) return; // a queued DEL of an earlier life
      const { failures } = await this.#detach(record, context.signal);
      const fatal = failures.find((failure) => failure.code !== 'OVS_UNAVAILABLE' && failure.code !== 'TIMEOUT');
      if (fatal !== undefined) throw fatal;
    });
  }

  async check({ spec, prevResult }: CheckRequest, context: CallContext): Promise<void> {
    const id = attachmentId(spec.key);
    const record = this.#store.get(id);
    if (record?.phase !== 'ready') {
      throw new VirtioUserError(
        'ATTACHMENT_UNKNOWN',
        `CHECK: this agent has no attachment ${spec.key.ifName} of container ${spec.key.containerId}`,
      );
    }
    const { binding, ipam } = this.#dependencies;
    const netns = openRecordedNetns(binding, record.spec.netnsPath, record.netns);
    if (netns === null) {
      throw new VirtioUserError('CHECK_MISMATCH', `attachment ${id}: the namespace ${record.spec.netnsPath} is gone`);
    }
    try {
      assertLink(record, await binding.inspectPodLink(netns, spec.key.ifName));
    } finally {
      netns.close();
    }
    if (this.#live.get(id)?.state === 'tap-gone') {
      throw new VirtioUserError('CHECK_MISMATCH', `attachment ${id}: the interface is not the one that ADD made`);
    }
    const call = ipamCall({ ...record.spec, ipam: spec.ipam ?? record.spec.ipam });
    if (call !== null) await ipam.check(call, prevResult, context.signal);
  }

  async collectGarbage(request: GarbageRequest, context: CallContext): Promise<void> {
    const valid = new Set(request.valid.map(({ containerId, ifName }) => `${containerId}/${ifName}`));
    const failures: string[] = [];
    const nowMs = this.#dependencies.clock.wallMs();
    for (const record of this.#store.list()) {
      const { networkName, containerId, ifName } = record.spec.key;
      if (networkName !== request.networkName || valid.has(`${containerId}/${ifName}`)) continue;
      if (nowMs - record.createdAtMs < garbageGraceMs) continue;
      await this.#locks.run(containerId, async () => {
        const current = this.#store.get(record.id);
        if (current === null || current.createdAtMs !== record.createdAtMs) return;
        try {
          const outcome = await this.#detach(current, context.signal);
          failures.push(...outcome.failures.map(messageOf));
          if (outcome.failures.length === 0)
            publish('orphanRemoved', { kind: 'attachment', id: record.id, reason: 'GC' });
        } catch (error) {
          failures.push(messageOf(error));
        }
      });
    }
    if (request.ipam !== null) {
      const { type, netconf } = request.ipam;
      await this.#dependencies.ipam
        .gc({ type, netconf, cniPath: request.cniPath }, context.signal)
        .catch((error: unknown) => failures.push(messageOf(error)));
    }
    if (failures.length > 0) {
      throw new VirtioUserError('SYSCALL_FAILED', `GC of network ${request.networkName}: ${failures.join('; ')}`);
    }
  }

  async status(ipam: IpamSpec | null, cniPath: string, context: CallContext): Promise<void> {
    if (ipam !== null) {
      await this.#dependencies.ipam.status({ type: ipam.type, netconf: ipam.netconf, cniPath }, context.signal);
    }
  }

  list(): readonly AttachmentView[] {
    return this.#store.list().map((record) => viewOf(record, this.#live.get(record.id) ?? null));
  }

  reconnect(id: string): void {
    const live = this.#live.get(id);
    if (live === undefined)
      throw new VirtioUserError('ATTACHMENT_UNKNOWN', `reconnect: this agent has no attachment ${id}`);
    live.reconnect();
  }

  /** One pass; see `reconcile.ts`. */
  async reconcile(): Promise<ReconcileReport> {
    const { binding, ovs, options, clock, log } = this.#dependencies;
    const signal = AbortSignal.timeout(4 * backgroundTimeoutMs);
    const report = await reconcile(
      {
        records: () => this.#store.list(),
        netnsAlive: (record) => {
          try {
            const netns = openRecordedNetns(binding, record.spec.netnsPath, record.netns);
            netns?.close();
            return netns !== null;
          } catch {
            return null;
          }
        },
        taggedPorts: async () => (await ovs.list(options.nodeName, signal)).map((port) => port.name),
        removeRecord: (record, reason) =>
          this.#locks.run(record.spec.key.containerId, () => this.#finishCurrent(record, reason)),
        removePort: async (name) => {
          await ovs.remove(name, signal);
          publish('orphanRemoved', { kind: 'ovs-port', id: name, reason: 'no attachment has this port' });
        },
        usesOvs: this.#usesOvs,
        nowMs: clock.now(),
      },
      this.#strikes,
    );
    if (report.removed.length + report.unfinished.length + report.unknown.length > 0)
      log.info({ ...report }, 'reconciled');
    return report;
  }

  /** Lets go of everything that runs; interfaces, ports, leases and records stay for the next process. */
  async close(): Promise<void> {
    this.#netnsWatch.close();
    await Promise.all([...this.#live.values()].map((live) => live.close()));
    this.#live.clear();
  }

  /** An existing record under the key of an ADD: half-made ones and ones of a dead namespace are undone first. */
  async #clearTheWay(existing: AttachmentRecord): Promise<void> {
    if (existing.phase === 'ready') {
      const netns = openRecordedNetns(this.#dependencies.binding, existing.spec.netnsPath, existing.netns);
      if (netns !== null) {
        netns.close();
        throw new VirtioUserError(
          'CONFLICT_INTERFACE',
          `container ${existing.spec.key.containerId} has ${existing.spec.key.ifName} on network ${existing.spec.key.networkName} already`,
          { remedy: 'the runtime must DEL before it ADDs again' },
        );
      }
    }
    const { failures } = await this.#detach(existing, AbortSignal.timeout(backgroundTimeoutMs));
    if (failures[0] !== undefined) throw failures[0];
  }

  async #detach(
    record: AttachmentRecord,
    signal: AbortSignal,
  ): Promise<{ readonly failures: readonly VirtioUserError[] }> {
    const outcome = await detach(record, this.#live.get(record.id) ?? null, this.#store, this.#dependencies, signal);
    this.#live.delete(record.id);
    this.#netnsWatch.remove(record.spec.netnsPath);
    return outcome;
  }

  /** No record: the lease may still exist, and a port with our tag. The interface went, or goes, with the namespace. */
  async #removeWithoutRecord(id: string, request: RemoveRequest, context: CallContext): Promise<void> {
    const { ipam, ovs, log } = this.#dependencies;
    if (this.#usesOvs) {
      await ovs
        .remove(id, context.signal)
        .catch((error: unknown) => log.warn({ id, error }, 'port of an unknown attachment'));
    }
    if (request.ipam === null) return;
    await ipam.del(
      {
        type: request.ipam.type,
        netconf: request.ipam.netconf,
        containerId: request.key.containerId,
        netnsPath: request.netnsPath,
        ifName: request.key.ifName,
        cniArgs: request.cniArgs,
        cniPath: request.cniPath,
      },
      context.signal,
    );
  }

  async #finishCurrent(record: AttachmentRecord, reason: string): Promise<boolean> {
    const current = this.#store.get(record.id);
    if (current === null || current.createdAtMs !== record.createdAtMs || current.phase !== record.phase) return true;
    return this.#finish(current, reason);
  }

  async #finish(record: AttachmentRecord, reason: string): Promise<boolean> {
    try {
      const { failures } = await this.#detach(record, AbortSignal.timeout(backgroundTimeoutMs));
      if (failures.length > 0) return false;
    } catch (error) {
      this.#dependencies.log.error({ id: record.id, error }, 'an orphan could not be removed');
      return false;
    }
    publish('orphanRemoved', { kind: 'attachment', id: record.id, reason });
    this.#dependencies.log.info({ id: record.id, reason }, 'orphan removed');
    return true;
  }

  /** @returns false when there is nothing to adopt any more */
  async #adopt(record: ReadyRecord): Promise<boolean> {
    const { binding, options, log } = this.#dependencies;
    if (record.bootId !== options.bootId) return false;
    let netns: NativeFd | null = null;
    try {
      netns = openRecordedNetns(binding, record.spec.netnsPath, record.netns);
      if (netns === null) return false;
      const tap = await binding.openTap(netns, tapSpec(record.spec.key.ifName, record.spec.device, record.ifindex));
      const addresses = record.result.ipam.ips.map((ip) => ip.address);
      const live = new LiveAttachment(record.id, record.spec, tap.queues, addresses, this.#dependencies);
      this.#live.set(record.id, live);
      live.open();
      this.#netnsWatch.add(record.spec.netnsPath);
      return true;
    } catch (error) {
      log.error({ id: record.id, error, errno: errnoOf(error) }, 'an attachment could not be taken up again');
      return false;
    } finally {
      netns?.close();
    }
  }

  /** The runtime removed a namespace: its TAP must not keep it alive. The record waits for DEL or reconciliation. */
  #netnsGone(path: string): void {
    for (const record of this.#store.list()) {
      if (record.spec.netnsPath !== path) continue;
      void this.#locks.run(record.spec.key.containerId, async () => {
        const live = this.#live.get(record.id);
        if (live === undefined || this.#store.get(record.id)?.phase !== 'ready') return;
        await live.close();
        this.#live.delete(record.id);
        this.#dependencies.log.info({ id: record.id, path }, 'the namespace is gone, let go of its interface');
      });
    }
  }
}

function viewOf(record: AttachmentRecord, live: LiveAttachment | null): AttachmentView {
  const { spec } = record;
  const running = live?.view ?? null;
  return {
    id: record.id,
    key: spec.key,
    pod: spec.pod,
    netnsPath: spec.netnsPath,
    backendPath: spec.backend.path,
    server: spec.backend.server,
    ovsPort: spec.ovs === null ? null : record.id,
    mac: spec.device.mac,
    mtu: spec.device.mtu,
    addresses: record.phase === 'ready' ? record.result.ipam.ips.map((ip) => ip.address) : [],
    state: running?.state ?? (record.phase === 'ready' ? 'absent' : record.phase),
    reason:
      running === null ? (record.phase === 'ready' ? 'its namespace or interface is gone' : null) : running.reason,
    carrier: running?.carrier ?? false,
    statusNames: running?.statusNames ?? [],
    offeredFeatures: running?.ready?.offeredFeatures ?? null,
    ackedFeatures: running?.ready?.ackedFeatures ?? null,
    protocolFeatures: running?.ready?.protocolFeatures ?? [],
    queuePairs: running?.ready?.queuePairs ?? 0,
    backendPid: running?.backendPid ?? null,
    connections: running?.connections ?? 0,
    lastOutageMs: running?.lastOutageMs ?? null,
    counters: live?.counters() ?? null,
  };
}
