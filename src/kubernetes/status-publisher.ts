/**
 * Writes the node's object when it changed: a flipped condition at once (but not twice in a second), anything else at
 * most every 10 s, and the same content again every 5 minutes so that a deleted object comes back. Failures are retried
 * with backoff whatever happens meanwhile; one that no retry mends (the CRD is older than the agent) is tried again every
 * 5 minutes. Each reason for a failure is logged once.
 *
 * An agent's restart is no news: times of conditions that hold are taken over from the agent before, backends have some
 * seconds to come back before they count as gone, counted from when their records are restored, and only an agent that stops in order says that it is not there.
 */
import { type Clock, systemClock } from '../clock.ts';
import type { Logger } from '../telemetry/log.ts';
import { apiFailure } from './failure.ts';
import {
  conditionFlipped,
  type NodeCondition,
  type NodeStatus,
  nodeStatus,
  type NodeView,
  sameStatus,
  stoppedStatus,
} from './node-object.ts';

export interface StatusApi {
  /** What the agent before wrote, if anything. */
  readConditions(): Promise<readonly NodeCondition[]>;
  applyNode(status: NodeStatus): Promise<void>;
}

export interface StatusPublisherOptions {
  readonly api: StatusApi;
  readonly view: () => NodeView;
  readonly log: Logger;
  readonly coalesceMs?: number;
  readonly refreshMs?: number;
  /** How long the first word about backends waits for those that connect anew. */
  readonly settleMs?: number;
  /** What is spaced in time is so by the monotonic one: a node's clock may be set back by hours after its start. */
  readonly clock?: Pick<Clock, 'now' | 'wallMs'>;
}

const urgentMs = 1_000;
const retryMs = [1_000, 30_000] as const;

export class StatusPublisher {
  readonly #options: Required<StatusPublisherOptions>;
  /** When this agent's records were first seen restored; null: not yet. */
  #restoredAtMs: number | null = null;
  /** Whether anything was written since. */
  #toldOfBackends = false;
  /** Of the agent before; null: not asked yet. */
  #inherited: readonly NodeCondition[] | null = null;
  #written: NodeStatus | null = null;
  /** Of the clock; null: not yet. */
  #writtenAtMs: number | null = null;
  #toldReason: string | null = null;
  #timer: NodeJS.Timeout | null = null;
  #writing: Promise<void> | null = null;
  #failures = 0;
  #retryInMs = 0;
  #stopped = false;

  constructor(options: StatusPublisherOptions) {
    this.#options = { coalesceMs: 10_000, refreshMs: 300_000, settleMs: 3_000, clock: systemClock, ...options };
  }

  /** Something may have changed. Computes the whole status: gather what comes in bursts. */
  touch(): void {
    if (this.#stopped || this.#writing !== null || this.#failures > 0) return;
    const view = this.#options.view();
    const next = this.#next(view);
    const nowMs = this.#options.clock.now();
    if (view.restored) this.#restoredAtMs ??= nowMs;
    const settlingMs = this.#restoredAtMs === null ? 0 : this.#restoredAtMs + this.#options.settleMs - nowMs;
    if (!this.#toldOfBackends && next.disconnected > 0 && settlingMs > 0) {
      this.#schedule(settlingMs);
      return;
    }
    const sinceMs = this.#writtenAtMs === null ? Infinity : nowMs - this.#writtenAtMs;
    const spacingMs =
      this.#written !== null && sameStatus(this.#written, next)
        ? this.#options.refreshMs
        : conditionFlipped(this.#written, next)
          ? Math.min(urgentMs, this.#options.coalesceMs)
          : this.#options.coalesceMs;
    this.#schedule(Math.max(0, spacingMs - sinceMs));
  }

  stop(): void {
    this.#stopped = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
  }

  /**
   * The last word of an agent that stops in order, after what is being written now. Nothing is written after it.
   * @param tooLate nothing is begun any more
   * @throws what the API server says
   */
  async farewell(tooLate: AbortSignal): Promise<void> {
    this.stop();
    const { api, view } = this.#options;
    const last = view(); // as it is now, before everything is let go
    await this.#writing;
    tooLate.throwIfAborted();
    if (this.#written === null) this.#inherited ??= await api.readConditions();
    tooLate.throwIfAborted();
    await api.applyNode(stoppedStatus(this.#next(last), this.#now()));
  }

  #next(view: NodeView): NodeStatus {
    const previous = this.#written ?? { conditions: this.#inherited ?? [] };
    return nodeStatus(view, previous, this.#now());
  }

  #now(): Date {
    return new Date(this.#options.clock.wallMs());
  }

  #schedule(delayMs: number): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = setTimeout(() => {
      this.#writing = this.#write().finally(() => {
        this.#writing = null;
        this.#goOn();
      });
    }, delayMs);
    this.#timer.unref();
  }

  /** Never rejects. */
  async #write(): Promise<void> {
    const { api, log, clock } = this.#options;
    try {
      this.#inherited ??= await api.readConditions();
      const view = this.#options.view();
      const next = this.#next(view);
      await api.applyNode(next);
      if (this.#failures > 0) log.info({ failures: this.#failures }, 'the node object is written again');
      this.#written = next;
      this.#writtenAtMs = clock.now();
      this.#toldOfBackends ||= view.restored;
      this.#failures = 0;
      this.#toldReason = null;
    } catch (error) {
      this.#retryInMs = this.#failed(error);
    }
  }

  #goOn(): void {
    if (this.#stopped) return;
    if (this.#failures === 0) this.touch();
    else this.#schedule(this.#retryInMs);
  }

  /** @returns milliseconds until the next try */
  #failed(error: unknown): number {
    const { log, refreshMs } = this.#options;
    const { status, reason, retryable, retryAfterMs } = apiFailure(error);
    if (reason !== this.#toldReason && !this.#stopped) {
      this.#toldReason = reason;
      if (retryable) log.warn({ status, reason }, 'the node object is not written yet');
      else log.error({ status, reason }, 'the API server refuses the node object');
    }
    const [first, longest] = retryMs;
    const backoffMs = retryable ? Math.min(longest, first * 2 ** Math.min(this.#failures, 8)) : refreshMs;
    this.#failures += 1;
    return Math.max(retryAfterMs ?? 0, backoffMs * (0.8 + Math.random() * 0.4));
  }
}
