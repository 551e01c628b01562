/**
 * Writes the node's object when it changed: a flipped condition at once (but not twice in a second), anything else at
 * most every 10 s, and the same content again every 5 minutes so that a deleted object comes back. Failures are retried
 * with backoff whatever happens meanwhile; one that no retry mends (the CRD is older than the agent) is tried again every
 * 5 minutes. Each reason for a failure is logged once.
 */
import type { Logger } from '../telemetry/log.ts';
import { apiFailure } from './failure.ts';
import { conditionFlipped, type NodeStatus, nodeStatus, type NodeView, sameStatus } from './node-object.ts';

export interface StatusApi {
  applyNode(status: NodeStatus): Promise<void>;
}

export interface StatusPublisherOptions {
  readonly api: StatusApi;
  readonly view: () => NodeView;
  readonly log: Logger;
  readonly coalesceMs?: number;
  readonly refreshMs?: number;
  readonly now?: () => Date;
}

const urgentMs = 1_000;
const retryMs = [1_000, 30_000] as const;

export class StatusPublisher {
  readonly #options: Required<StatusPublisherOptions>;
  #written: NodeStatus | null = null;
  #writtenAtMs = 0;
  #toldReason: string | null = null;
  #timer: NodeJS.Timeout | null = null;
  #writing = false;
  #failures = 0;
  #stopped = false;

  constructor(options: StatusPublisherOptions) {
    this.#options = { coalesceMs: 10_000, refreshMs: 300_000, now: () => new Date(), ...options };
  }

  /** Something may have changed. Computes the whole status: gather what comes in bursts. */
  touch(): void {
    if (this.#stopped || this.#writing || this.#failures > 0) return;
    const next = this.#next();
    const sinceMs = this.#options.now().getTime() - this.#writtenAtMs;
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

  #next(): NodeStatus {
    return nodeStatus(this.#options.view(), this.#written, this.#options.now());
  }

  #schedule(delayMs: number): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = setTimeout(() => void this.#write(), delayMs);
    this.#timer.unref();
  }

  async #write(): Promise<void> {
    const next = this.#next();
    this.#writing = true;
    let delayMs = 0;
    try {
      await this.#options.api.applyNode(next);
      if (this.#failures > 0) this.#options.log.info({ failures: this.#failures }, 'the node object is written again');
      this.#written = next;
      this.#writtenAtMs = this.#options.now().getTime();
      this.#failures = 0;
      this.#toldReason = null;
    } catch (error) {
      delayMs = this.#failed(error);
    } finally {
      this.#writing = false;
    }
    if (this.#stopped) return;
    if (this.#failures === 0) this.touch();
    else this.#schedule(delayMs);
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
