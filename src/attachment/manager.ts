/**
 * All attachments of this node: implements what the verbs and the agent ask for.
 *
 * Locks: the network's first (shared by ADD and DEL, exclusive for GC), then the container's, then the attachment's, which
 * is all there is to lock of an OVS port without a record. A DEL that meets its own
 * ADD makes it roll back instead of waiting for it.
 */
import { messageOf, VirtioUserError } from '../errors.ts';
import type { NativeFd } from '../native/binding.ts';
import { publish, type RemovalReason } from '../telemetry/channels.ts';
import type { Attachments, AttachmentView, CallContext, CheckRequest, GarbageRequest, RemoveRequest } from './api.ts';
import { type Absence, adopt } from './adopt.ts';
import { attach } from './attach.ts';
import { assertLink } from './check.ts';
import type { AttachmentDependencies } from './dependencies.ts';
import { closeLive, detach, type DetachFailure, ipamCall, removeUnrecorded } from './detach.ts';
import { sortOut } from './gc.ts';
import { attachmentId } from './key.ts';
import { identityOf as identityOfAttachment, LiveAttachment } from './live-attachment.ts';
import { limited } from './limited.ts';
import { KeyedLock } from './lock.ts';
import { netnsPresence, openRecordedNetns, sameNetns } from './netns.ts';
import { NetnsWatch } from './netns-watch.ts';
import { ovsPortSpec } from './ovs-port.ts';
import { reconcile, type ReconcileReport, Strikes } from './reconcile.ts';
import type { AttachmentRecord, ReadyRecord } from './record.ts';
import type { AttachmentResult, AttachmentSpec, IpamSpec } from './spec.ts';
import { diskFiles, RecordStore } from './store.ts';
import { viewOf } from './view.ts';

/** Bound of background work on one attachment. */
const backgroundTimeoutMs = 30_000;
/** How long a person's command waits for verbs that are at work on the container; the command line waits longer. */
const commandTimeoutMs = 20_000;
/** Removals that did not finish, and adoptions that failed, are tried again sooner than reconciliation would. */
const retryMs = 30_000;
const restoreConcurrency = 32;
/** Each may run an IPAM plugin. */
const removalConcurrency = 8;

export interface RestoreReport {
  readonly adopted: number;
  /** Records whose removal goes on in the background: interrupted, or of an earlier boot. */
  readonly finished: number;
  /** Records that nothing runs for: gone, which reconciliation decides, or to be tried again. */
  readonly absent: number;
  readonly corrupt: number;
}

interface AddUnderWay {
  readonly id: string;
  readonly startedMs: number;
  readonly overtaken: AbortController;
}

export class AttachmentManager implements Attachments {
  readonly #dependencies: AttachmentDependencies;
  readonly #store: RecordStore;
  readonly #networks = new KeyedLock();
  readonly #containers = new KeyedLock();
  readonly #ids = new KeyedLock();
  readonly #live = new Map<string, LiveAttachment>();
  /** Why what is ready does not run. */
  readonly #absent = new Map<string, Absence>();
  readonly #adds = new Set<AddUnderWay>();
  /** Attachment ids that a call works on, with how many do. */
  readonly #busy = new Map<string, number>();
  readonly #strikes = new Strikes();
  readonly #netnsWatch: NetnsWatch;
  readonly #background = new Set<Promise<void>>();
  readonly #closing = new AbortController();
  #cancelRetry: (() => void) | null = null;

  constructor(dependencies: AttachmentDependencies) {
    this.#dependencies = dependencies;
    this.#store = new RecordStore(dependencies.options.stateDir, dependencies.files ?? diskFiles(dependencies.binding));
    this.#netnsWatch = new NetnsWatch((path) => this.#netnsGone(path));
  }

  /**
   * Reads the records and takes up what they name. Call once, before anything else. Resolves when everything that lives
   * listens again; removals that an earlier process left go on in the background, under the locks.
   */
  async restore(): Promise<RestoreReport> {
    const { options, log } = this.#dependencies;
    const { records, corrupt } = await this.#store.load();
    for (const { id, path, reason } of corrupt) {
      log.error({ id, path, reason }, 'a record cannot be read');
      publish('stateCorrupt', { id, path, reason });
    }
    const living = (record: AttachmentRecord): record is ReadyRecord =>
      record.phase === 'ready' && record.bootId === options.bootId;
    const left = records.filter((record) => !living(record));
    let adopted = 0;
    let absent = 0;
    await limited(records.filter(living), restoreConcurrency, async (record) => {
      if ((await this.#adopt(record)) === null) adopted += 1;
      else absent += 1;
    });
    this.#inBackground(this.#finishAll(left));
    return { adopted, finished: left.length, absent, corrupt: corrupt.length };
  }

  async add(spec: AttachmentSpec, netns: NativeFd, context: CallContext): Promise<AttachmentResult> {
    this.#assertOpen();
    const id = attachmentId(spec.key);
    const underWay = { id, startedMs: this.#dependencies.clock.wallMs(), overtaken: new AbortController() };
    const signal = AbortSignal.any([context.signal, underWay.overtaken.signal, this.#closing.signal]);
    this.#adds.add(underWay);
    try {
      return await this.#locked(spec.key, id, signal, () => this.#add(id, spec, netns, { ...context, signal }));
    } finally {
      this.#adds.delete(underWay);
    }
  }

  async remove(request: RemoveRequest, context: CallContext): Promise<void> {
    const id = attachmentId(request.key);
    for (const add of this.#adds) {
      if (add.id !== id || add.startedMs > request.askedAtMs) continue;
      add.overtaken.abort(new VirtioUserError('CANCELLED', 'a DEL of the same attachment came'));
    }
    await this.#locked(request.key, id, context.signal, async () => {
      const record = this.#store.get(id);
      if (record === null) {
        await removeUnrecorded(id, request, this.#dependencies, context.signal);
        return;
      }
      // A queued DEL that is older than the attachment means an earlier one.
      if (record.createdAtMs > request.askedAtMs) return;
      // What made an ADD or DEL fail may since have been mended in the caller's configuration.
      const ipam = record.phase === 'deleting' ? request.ipam : null;
      const failures = await this.#detach(record, 'del', context.signal, ipam);
      // What the runtime's retry can mend is an error; the rest is finished later by ourselves.
      const retryable = failures.find(({ step, error }) => step === 'address' || error.code === 'CANCELLED');
      if (retryable !== undefined) throw retryable.error;
    });
  }

  async check({ spec, prevResult }: CheckRequest, context: CallContext): Promise<void> {
    const { binding, ipam } = this.#dependencies;
    const id = attachmentId(spec.key);
    const record = this.#store.get(id);
    if (record?.phase !== 'ready') {
      const { ifName, containerId } = spec.key;
      throw new VirtioUserError('ATTACHMENT_UNKNOWN', `no attachment ${ifName} of container ${containerId} is known`);
    }
    const netns = openRecordedNetns(binding, record.spec.netnsPath, record.netns);
    if (netns === null) {
      throw new VirtioUserError('CHECK_MISMATCH', `attachment ${id}: the namespace ${record.spec.netnsPath} is gone`);
    }
    try {
      assertLink(record, await binding.inspectPodLink(netns, spec.key.ifName), prevResult);
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
    const { ipam, clock } = this.#dependencies;
    const { networkName } = request;
    // Before the wait for ADDs under way: the caller's list does not know them.
    const askedMs = clock.wallMs();
    await this.#networks.exclusive(networkName, context.signal, async () => {
      const failures: string[] = [];
      const { garbage, valid } = sortOut(this.#store.list(), request, askedMs);
      await limited(garbage, removalConcurrency, async (record) => {
        const work = (): Promise<readonly DetachFailure[]> => this.#detach(record, 'gc', context.signal);
        const failed = await this.#containers.exclusive(record.spec.key.containerId, context.signal, work);
        failures.push(...failed.map(({ error }) => error.message));
        if (failed.length === 0) publish('orphanRemoved', { kind: 'attachment', id: record.id, reason: 'GC' });
      }).catch((error: unknown) => failures.push(messageOf(error)));
      if (request.ipam !== null) {
        const { type, netconf } = request.ipam;
        const call = { type, netconf, cniPath: request.cniPath };
        await ipam.gc(call, valid, context.signal).catch((error: unknown) => failures.push(messageOf(error)));
      }
      if (failures.length === 0) return;
      throw new VirtioUserError('SYSCALL_FAILED', `GC of network ${networkName}: ${failures.join('; ')}`, {
        details: { failures: failures.length },
      });
    });
  }

  async status(ipam: IpamSpec | null, cniPath: string, context: CallContext): Promise<void> {
    this.#assertOpen();
    if (ipam === null) return;
    await this.#dependencies.ipam.status({ type: ipam.type, netconf: ipam.netconf, cniPath }, context.signal);
  }

  list(): readonly AttachmentView[] {
    return this.#store.list().map((record) => {
      const { id } = record;
      return viewOf(record, this.#live.get(id) ?? null, this.#absent.get(id)?.reason ?? null);
    });
  }

  /** Records that could not be read, until somebody has looked at them. */
  get setAside(): number {
    return this.#store.setAside;
  }

  async reconnect(id: string): Promise<void> {
    const live = this.#live.get(id);
    if (live !== undefined) {
      live.reconnect();
      return;
    }
    const record = this.#store.get(id);
    const absence = record === null ? null : await this.#takeUp(record);
    if (this.#live.has(id)) return;
    const why = absence === null ? '' : `: ${absence.reason}`;
    const code = absence?.kind === 'failed' ? 'SYSCALL_FAILED' : 'ATTACHMENT_UNKNOWN';
    throw new VirtioUserError(code, `reconnect: no attachment ${id} runs here${why}`);
  }

  async setQueuePairs(id: string, pairs: number): Promise<void> {
    const key = this.#running(id).record.spec.key;
    const signal = AbortSignal.any([AbortSignal.timeout(commandTimeoutMs), this.#closing.signal]);
    await this.#locked(key, id, signal, async () => {
      const { record, live } = this.#running(id);
      const before = live.view.activePairs;
      // The device first: what it refuses must not be on disk for the next agent.
      await live.setQueuePairs(pairs);
      try {
        await this.#store.write({ ...record, wantedPairs: pairs });
      } catch (thrown) {
        await live.setQueuePairs(before).catch((error: unknown) => {
          this.#dependencies.log.warn({ id, pairs, error }, 'queue pairs stay switched until the agent is restarted');
        });
        throw thrown;
      }
    });
  }

  /** One pass; see `reconcile.ts`. */
  async reconcile(): Promise<ReconcileReport> {
    const { binding, ovs, options, clock, log } = this.#dependencies;
    const signal = AbortSignal.any([AbortSignal.timeout(4 * backgroundTimeoutMs), this.#closing.signal]);
    const report = await reconcile(
      {
        records: () => this.#store.list(),
        isBusy: (id) => this.#busy.has(id),
        isSetAside: (id) => this.#store.isSetAside(id),
        presence: (record) => netnsPresence(binding, record, options.bootId),
        whyKeep: ({ spec }) => this.#dependencies.whyKeepPod?.(spec.pod) ?? null,
        letGo: (record) => this.#letGo(record),
        takeUp: async (record) => {
          const absence = await this.#takeUp(record);
          return absence?.kind === 'failed' ? absence.reason : null;
        },
        removeRecord: (record, reason) => this.#finish(record, 'reconcile', reason),
        taggedPorts: () => ovs.list(options.nodeName, signal),
        removePort: (name) => this.#removeOrphanedPort(name, signal),
        restorePort: (record) => this.#restorePort(record, signal),
        usesOvs: this.#store.list().some((record) => record.spec.ovs !== null),
        nowMs: clock.now(),
      },
      this.#strikes,
    );
    if (report.removed.length + report.unfinished.length + report.unknown.length > 0) {
      log.info({ ...report }, 'reconciled');
    }
    return report;
  }

  /** Resolves when no removal goes on in the background. */
  async settled(): Promise<void> {
    while (this.#background.size > 0) await Promise.all(this.#background);
  }

  /** Lets go of everything that runs; interfaces, ports, leases and records stay for the next process. */
  async close(): Promise<void> {
    this.#closing.abort(new VirtioUserError('AGENT_NOT_READY', 'the agent is stopping'));
    this.#cancelRetry?.();
    this.#netnsWatch.close();
    await Promise.all([...this.#live.values()].map((live) => live.close()));
    this.#live.clear();
    await this.settled();
  }

  async #add(id: string, spec: AttachmentSpec, netns: NativeFd, context: CallContext): Promise<AttachmentResult> {
    const existing = this.#store.get(id);
    if (existing !== null) await this.#clearTheWay(existing, context.requestId);
    try {
      const { record, live } = await attach(spec, netns, this.#store, this.#dependencies, context);
      this.#live.set(id, live);
      this.#netnsWatch.add(spec.netnsPath, id);
      publish('attachmentReady', { attachment: identityOfAttachment(id, spec), restored: false });
      return record.result;
    } finally {
      if (this.#store.get(id)?.phase === 'deleting') this.#retryLater();
    }
  }

  /**
   * An existing record under the key of an ADD: half-made ones and ones of a dead namespace are undone first. So is one
   * of the same request: its caller had no answer and asks again, since the agent died meanwhile.
   */
  async #clearTheWay(existing: AttachmentRecord, requestId: string): Promise<void> {
    const { binding, options } = this.#dependencies;
    const { containerId, ifName, networkName } = existing.spec.key;
    const complete = existing.phase === 'ready' && existing.requestId !== requestId;
    if (complete && netnsPresence(binding, existing, options.bootId) === 'alive') {
      throw new VirtioUserError(
        'CONFLICT_INTERFACE',
        `container ${containerId} has ${ifName} on network ${networkName} already`,
        { details: { id: existing.id }, remedy: 'The runtime must DEL before it ADDs again.' },
      );
    }
    const [failure] = await this.#detach(existing, 'crash', AbortSignal.timeout(backgroundTimeoutMs));
    if (failure !== undefined) throw failure.error;
  }

  #running(id: string): { readonly record: ReadyRecord; readonly live: LiveAttachment } {
    const record = this.#store.get(id);
    const live = this.#live.get(id);
    if (record?.phase === 'ready' && live !== undefined) return { record, live };
    throw new VirtioUserError('ATTACHMENT_UNKNOWN', `queue pairs: no attachment ${id} runs here`);
  }

  /**
   * The caller holds the container's lock.
   * @param ipam asked for the lease instead of what the record names, if that names any
   */
  async #detach(
    record: AttachmentRecord,
    by: RemovalReason,
    signal: AbortSignal,
    ipam: IpamSpec | null = null,
  ): Promise<readonly DetachFailure[]> {
    // What runs must end though its record went meanwhile.
    const recorded = this.#store.get(record.id);
    if (recorded === null) return [];
    const asked = recorded.spec.ipam === null ? null : (ipam ?? recorded.spec.ipam);
    const current = { ...recorded, spec: { ...recorded.spec, ipam: asked } };
    const live = this.#live.get(record.id) ?? null;
    const failures = await detach(current, live, this.#store, this.#dependencies, signal);
    this.#live.delete(record.id);
    this.#absent.delete(record.id);
    this.#netnsWatch.remove(record.spec.netnsPath, record.id);
    if (failures.length === 0) {
      publish('attachmentRemoved', { attachment: identityOfAttachment(record.id, record.spec), by });
    } else {
      this.#retryLater();
    }
    return failures;
  }

  async #finishAll(records: readonly AttachmentRecord[]): Promise<void> {
    const { bootId } = this.#dependencies.options;
    await limited(records, removalConcurrency, async (record) => {
      const rebooted = record.bootId !== bootId;
      const reason = rebooted ? 'the node was rebooted' : `its ${record.phase} was interrupted`;
      await this.#finish(record, rebooted ? 'reboot' : 'crash', reason);
    });
  }

  /** Removes what `record` names unless it has changed meanwhile. Never rejects. @returns false: not complete yet */
  async #finish(record: AttachmentRecord, by: RemovalReason, reason: string): Promise<boolean> {
    const { log } = this.#dependencies;
    const signal = AbortSignal.any([AbortSignal.timeout(backgroundTimeoutMs), this.#closing.signal]);
    try {
      return await this.#locked(record.spec.key, record.id, signal, async () => {
        if (this.#store.get(record.id) !== record) return true;
        const failures = await this.#detach(record, by, signal);
        if (failures.length > 0) return false;
        publish('orphanRemoved', { kind: 'attachment', id: record.id, reason });
        log.info({ id: record.id, reason }, 'orphan removed');
        return true;
      });
    } catch (error) {
      log.warn({ id: record.id, error }, 'an orphan could not be removed yet');
      return false;
    }
  }

  /** @returns why it does not run, or null */
  async #adopt(record: ReadyRecord): Promise<Absence | null> {
    const { id, spec } = record;
    const adopted = await adopt(record, this.#dependencies);
    if (!(adopted instanceof LiveAttachment)) {
      this.#absent.set(id, adopted);
      if (adopted.kind === 'failed') this.#retryLater();
      return adopted;
    }
    if (this.#closing.signal.aborted) {
      await adopted.close();
      return { kind: 'failed', reason: 'the agent is stopping' };
    }
    this.#absent.delete(id);
    this.#live.set(id, adopted);
    adopted.resume();
    this.#netnsWatch.add(spec.netnsPath, id);
    publish('attachmentReady', { attachment: identityOfAttachment(id, spec), restored: true });
    return null;
  }

  /** Adopts what is ready and does not run. Never rejects. @returns why it still does not, or null */
  async #takeUp({ id, spec }: AttachmentRecord): Promise<Absence | null> {
    if (this.#live.has(id)) return null;
    const signal = AbortSignal.any([AbortSignal.timeout(backgroundTimeoutMs), this.#closing.signal]);
    try {
      return await this.#locked(spec.key, id, signal, async () => {
        const record = this.#store.get(id);
        return record?.phase !== 'ready' || this.#live.has(id) ? null : await this.#adopt(record);
      });
    } catch (error) {
      return { kind: 'failed', reason: messageOf(error) };
    }
  }

  /** @returns false when it was gone, or has an attachment by now */
  #removeOrphanedPort(id: string, signal: AbortSignal): Promise<boolean> {
    return this.#ids.exclusive(id, signal, async () => {
      if (this.#store.get(id) !== null) return false;
      const removed = await this.#dependencies.ovs.remove(id, signal);
      if (removed) publish('orphanRemoved', { kind: 'ovs-port', id, reason: 'no attachment has this port' });
      return removed;
    });
  }

  /** A DEL that comes meanwhile waits, and then removes the port; one that came first has removed the record. */
  #restorePort({ id, spec }: AttachmentRecord, signal: AbortSignal): Promise<void> {
    return this.#locked(spec.key, id, signal, async () => {
      const { ovs, options, log } = this.#dependencies;
      const record = this.#store.get(id);
      const port = record?.phase === 'ready' ? ovsPortSpec(id, record.spec, options.nodeName) : null;
      if (port === null) return;
      await ovs.ensure(port, signal);
      log.warn({ id, bridge: port.bridge }, 'the OVS port of an attachment was missing; made again');
    });
  }

  /** The runtime removed a namespace's name. The record waits for DEL or reconciliation. */
  #netnsGone(path: string): void {
    for (const record of this.#store.list()) {
      if (record.spec.netnsPath === path) this.#inBackground(this.#letGo(record));
    }
  }

  /** Open TAP descriptors keep a namespace alive by themselves. Never rejects. */
  async #letGo(record: AttachmentRecord): Promise<void> {
    if (!this.#live.has(record.id)) return;
    await this.#containers.exclusive(record.spec.key.containerId, null, async () => {
      const live = this.#live.get(record.id);
      const current = this.#store.get(record.id);
      // A later attachment of this id may be in a namespace that lives.
      if (live === undefined || current === null || !sameNetns(current.netns, record.netns)) return;
      this.#live.delete(record.id);
      this.#absent.set(record.id, { kind: 'gone', reason: 'its namespace is gone' });
      await closeLive(live);
      const { netnsPath: path } = record.spec;
      this.#dependencies.log.info({ id: record.id, path }, 'the namespace is gone; its interface was let go');
    });
  }

  #retryLater(): void {
    if (this.#cancelRetry !== null || this.#closing.signal.aborted) return;
    this.#cancelRetry = this.#dependencies.clock.after(retryMs, () => {
      this.#cancelRetry = null;
      const left = this.#store.list().filter(({ id, phase }) => phase !== 'ready' && !this.#busy.has(id));
      this.#inBackground(this.#finishAll(left));
      const failed = this.#store.list().filter(({ id }) => this.#absent.get(id)?.kind === 'failed');
      const again = async (record: AttachmentRecord): Promise<void> => {
        await this.#takeUp(record);
      };
      this.#inBackground(limited(failed, restoreConcurrency, again));
    });
  }

  #inBackground(work: Promise<void>): void {
    const tracked = work
      .catch((error: unknown) => this.#dependencies.log.error({ error }, 'background work failed'))
      .finally(() => this.#background.delete(tracked));
    this.#background.add(tracked);
  }

  async #locked<T>(
    key: { readonly networkName: string; readonly containerId: string },
    id: string,
    signal: AbortSignal,
    work: () => Promise<T>,
  ): Promise<T> {
    this.#busy.set(id, (this.#busy.get(id) ?? 0) + 1);
    try {
      return await this.#networks.shared(key.networkName, signal, () =>
        this.#containers.exclusive(key.containerId, signal, () => this.#ids.exclusive(id, signal, work)),
      );
    } finally {
      const others = (this.#busy.get(id) ?? 1) - 1;
      if (others === 0) this.#busy.delete(id);
      else this.#busy.set(id, others);
    }
  }

  #assertOpen(): void {
    if (this.#closing.signal.aborted) throw new VirtioUserError('AGENT_NOT_READY', 'the agent is stopping');
  }
}
