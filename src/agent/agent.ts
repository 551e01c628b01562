/**
 * The agent's life: what starts after what, what stops before what. It knows its parts by what they do; `compose.ts`
 * makes the real ones.
 *
 * Start: lock → health → records restored → queued deletes worked off, as far as a few seconds go → socket open → ready,
 * then the network configuration, and the rest of the queue beside the calls.
 * Stop: not ready → no new ADD → calls under way finish → everything is let go and nothing is deleted: TAPs, sockets'
 * state, OVS ports, records and leases are for the next process.
 */
import type { RestoreReport } from '../attachment/manager.ts';
import type { ReconcileReport } from '../attachment/reconcile.ts';
import type { Timers } from '../clock.ts';
import { VirtioUserError } from '../errors.ts';
import type { NativeFd } from '../native/binding.ts';
import type { Logger } from '../telemetry/log.ts';
import type { Check } from './health.ts';
import { jittered } from './schedule.ts';

export interface AgentParts {
  readonly attachments: {
    /** Records → namespaces → TAPs → backends. One bad record never rejects. */
    restore(): Promise<RestoreReport>;
    reconcile(): Promise<ReconcileReport>;
    /** Lets devices, TAPs and sockets go. Nothing is deleted. */
    close(): Promise<void>;
  };
  readonly deleteQueue: {
    readonly length: number;
    /** null: somebody writes to the queue at this moment. */
    tryLock(): NativeFd | null;
    /** Under the lock. */
    list(): Promise<readonly string[]>;
    /** Without the lock. @returns how many entries remain for another try */
    workOff(names: readonly string[], signal: AbortSignal): Promise<number>;
  };
  readonly cni: {
    /** Answers calls from now on. */
    open(): void;
    /** Refuses new ADDs; resolves when the calls under way are answered or `graceMs` have passed. */
    close(graceMs: number): Promise<void>;
  };
  /** Open: keeps threads off the cores that the switch polls, as soon as somebody says which. */
  readonly pollingCores: { open(): void; close(): void };
  /** Open: puts the network configuration on the node, in the background, and never takes it away. */
  readonly networkConf: { open(): void; close(): void };
  readonly introspection: { open(): Promise<void>; close(): void };
  readonly health: { open(): Promise<void>; close(): void };
  /** Stops threads, closes what is left; last. */
  readonly shutDownNative: () => void;
  readonly onReconciled: (result: 'ok' | 'incomplete' | 'failed') => void;
  readonly clock: Pick<Timers, 'after'>;
  readonly log: Logger;
}

export interface AgentTimes {
  readonly reconcileEveryMs: number;
  /** Calls under way get this long at shut-down. */
  readonly graceMs: number;
  /** How long start-up works on the delete queue before it opens the socket all the same. */
  readonly drainMs: number;
  /** How long it is waited for a writer of the delete queue. */
  readonly queueLockMs: number;
}

export const defaultTimes: AgentTimes = {
  reconcileEveryMs: 600_000,
  graceMs: 10_000,
  drainMs: 5_000,
  queueLockMs: 5_000,
};

type Phase = 'starting' | 'restoring' | 'draining' | 'ready' | 'stopping' | 'stopped';

const queueLockRetryMs = 20;
const drainRetryFirstMs = 1_000;
const drainRetryMostMs = 60_000;

export class Agent {
  readonly #parts: AgentParts;
  readonly #times: AgentTimes;
  #phase: Phase = 'starting';
  #cancelReconcile: () => void = () => undefined;
  #cancelDrain: () => void = () => undefined;
  /** The passes over the delete queue, one after the other. */
  #draining: Promise<void> = Promise.resolve();
  readonly #stopping = new AbortController();
  #reconciling: Promise<ReconcileReport> | null = null;

  constructor(parts: AgentParts, times: AgentTimes = defaultTimes) {
    this.#parts = parts;
    this.#times = times;
  }

  /** For /readyz, by name. */
  get checks(): Readonly<Record<string, Check>> {
    const after = (...phases: readonly Phase[]): Check => {
      return () => (phases.includes(this.#phase) ? this.#phase : null);
    };
    return {
      'records-restored': after('starting', 'restoring'),
      'delete-queue-drained': after('starting', 'restoring', 'draining'),
      'cni-socket-open': after('starting', 'restoring', 'draining', 'stopped'),
      'not-stopping': after('stopping', 'stopped'),
    };
  }

  get ready(): boolean {
    return this.#phase === 'ready';
  }

  async start(): Promise<void> {
    const { health, introspection, attachments, cni, networkConf, pollingCores, log } = this.#parts;
    const startedMs = performance.now();
    pollingCores.open();
    await health.open();
    this.#advance('restoring');
    const restored = await attachments.restore();
    log.info({ ...restored, durationMs: Math.round(performance.now() - startedMs) }, 'records restored');
    this.#advance('draining');
    // Leases of dead pods are free before new pods come, but no node waits for an IPAM plugin that hangs.
    await this.#atMost(this.#times.drainMs, this.#drain(drainRetryFirstMs));
    this.#advance('draining');
    await introspection.open();
    this.#advance('ready');
    cni.open();
    // A DEL that did not find the socket a moment ago is in the queue by the time its lock is free.
    void this.#drain(drainRetryFirstMs);
    log.info({ durationMs: Math.round(performance.now() - startedMs) }, 'ready');
    networkConf.open();
    this.#scheduleReconcile(0);
  }

  /** Never rejects: what fails is logged, the rest goes on. */
  async stop(): Promise<void> {
    const { cni, networkConf, pollingCores, attachments, introspection, health, shutDownNative, log } = this.#parts;
    if (this.#phase === 'stopping' || this.#phase === 'stopped') return;
    this.#phase = 'stopping';
    this.#stopping.abort();
    this.#cancelReconcile();
    this.#cancelDrain();
    const attempt = async (what: string, step: () => unknown): Promise<void> => {
      try {
        await step();
      } catch (error) {
        log.error({ error }, `stopping: ${what} failed`);
      }
    };
    await attempt('network configuration', () => networkConf.close());
    await attempt('polling cores', () => pollingCores.close());
    await attempt('answering the calls under way', () => cni.close(this.#times.graceMs));
    await attempt('queued deletes', () => this.#draining);
    await attempt('introspection', () => introspection.close());
    await attempt('letting attachments go', () => attachments.close());
    this.#phase = 'stopped';
    await attempt('health', () => health.close());
    await attempt('native threads', shutDownNative);
    log.info({}, 'stopped');
  }

  /** Now; a run that is under way is shared. */
  reconcile(): Promise<ReconcileReport> {
    this.#reconciling ??= this.#reconcileOnce().finally(() => {
      this.#reconciling = null;
    });
    return this.#reconciling;
  }

  /** Something is about to be queued: a pass over the queue once its writer has let the lock go. */
  drainSoon(): void {
    if (this.#phase === 'ready') this.#retryDrain(drainRetryFirstMs);
  }

  /** @throws VirtioUserError CANCELLED when a stop came in between: nothing may be opened any more */
  #advance(phase: Phase): void {
    if (this.#phase === 'stopping' || this.#phase === 'stopped') {
      throw new VirtioUserError('CANCELLED', 'start: the agent was told to stop');
    }
    this.#phase = phase;
  }

  async #reconcileOnce(): Promise<ReconcileReport> {
    const { attachments, onReconciled, log } = this.#parts;
    try {
      const report = await attachments.reconcile();
      onReconciled(report.unknown.length + report.unfinished.length === 0 ? 'ok' : 'incomplete');
      return report;
    } catch (error) {
      onReconciled('failed');
      log.warn({ error }, 'reconciliation failed; nothing was deleted on missing information');
      throw error;
    }
  }

  #scheduleReconcile(delayMs: number): void {
    this.#cancelReconcile = this.#parts.clock.after(delayMs, () => {
      void this.reconcile()
        .catch(() => undefined)
        .finally(() => {
          if (this.#phase !== 'ready') return;
          this.#scheduleReconcile(jittered(this.#times.reconcileEveryMs));
          // A writer that found us busy may have queued something since.
          if (this.#parts.deleteQueue.length === 0) this.#retryDrain(0);
        });
    });
  }

  /** Resolves when `work`, which never rejects, has ended, or after this time. */
  #atMost(ms: number, work: Promise<void>): Promise<void> {
    return new Promise((resolve) => {
      const cancel = this.#parts.clock.after(ms, resolve);
      void work.then(() => {
        cancel();
        resolve();
      });
    });
  }

  async #lockQueue(): Promise<NativeFd | null> {
    const { deleteQueue, clock, log } = this.#parts;
    for (let waitedMs = 0; waitedMs <= this.#times.queueLockMs; waitedMs += queueLockRetryMs) {
      if (this.#stopping.signal.aborted) return null;
      const lock = deleteQueue.tryLock();
      if (lock !== null) return lock;
      await new Promise<void>((resolve) => clock.after(queueLockRetryMs, resolve));
    }
    log.warn({ waitedMs: this.#times.queueLockMs }, 'the delete queue stays locked; it is worked off later');
    return null;
  }

  /** One pass over the queue, after those that were asked for before. Never rejects; what remains is tried again. */
  #drain(retryMs: number): Promise<void> {
    this.#draining = this.#draining.then(() => this.#drainOnce(retryMs));
    return this.#draining;
  }

  async #drainOnce(retryMs: number): Promise<void> {
    const { deleteQueue, log } = this.#parts;
    let remaining = 1;
    try {
      const names = await this.#listQueue();
      if (names !== null) remaining = await deleteQueue.workOff(names, this.#stopping.signal);
    } catch (error) {
      log.error({ error }, 'cannot read the delete queue');
    }
    if (remaining > 0) this.#retryDrain(retryMs);
  }

  /** @returns null when a writer does not let the lock go */
  async #listQueue(): Promise<readonly string[] | null> {
    const lock = await this.#lockQueue();
    if (lock === null) return null;
    try {
      return await this.#parts.deleteQueue.list();
    } finally {
      lock.close();
    }
  }

  #retryDrain(delayMs: number): void {
    this.#cancelDrain();
    if (this.#stopping.signal.aborted) return;
    this.#cancelDrain = this.#parts.clock.after(jittered(delayMs), () => {
      void this.#drain(Math.min(Math.max(delayMs, drainRetryFirstMs) * 2, drainRetryMostMs));
    });
  }
}
