/**
 * Writes the node's object when it changed: a flipped condition at once, anything else at most every 10 s, and the same
 * content again every 5 minutes so that a deleted object comes back. Failures are retried with backoff; a failure that
 * no retry mends (the CRD is older than the agent) is logged once per message and tried again only after a change.
 */
import type { Logger } from '../telemetry/log.ts';
import { apiFailure } from './failure.ts';
import { conditionFlipped, type NodeStatus, nodeStatus, type NodeView, sameStatus } from './node-object.ts';

export interface StatusApi {
  applyNode(status: NodeStatus, nodeUid: string | null): Promise<void>;
}

export interface StatusPublisherOptions {
  readonly api: StatusApi;
  readonly view: () => NodeView;
  readonly log: Logger;
  readonly coalesceMs?: number;
  readonly refreshMs?: number;
  readonly now?: () => Date;
}

export class StatusPublisher {
  readonly #options: Required<StatusPublisherOptions>;
  #written: NodeStatus | null = null;
  #writtenAtMs = 0;
  #refusedReason: string | null = null;
  #timer: NodeJS.Timeout | null = null;
  #writing = false;
  #failures = 0;
  #stopped = false;

  constructor(options: StatusPublisherOptions) {
    this.#options = { coalesceMs: 10_000, refreshMs: 300_000, now: () => new Date(), ...options };
  }

  /** Something may have changed. Cheap; call it on every event. */
  touch(): void {
    if (this.#stopped || this.#writing) return;
    const next = this.#next();
    if (this.#written !== null && sameStatus(this.#written, next)) {
      this.#schedule(this.#options.refreshMs);
      return;
    }
    const sinceMs = this.#options.now().getTime() - this.#writtenAtMs;
    const urgent = conditionFlipped(this.#written, next) && this.#failures === 0;
    this.#schedule(urgent ? 0 : Math.max(0, this.#options.coalesceMs - sinceMs));
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
    try {
      await this.#options.api.applyNode(next, null);
      this.#written = next;
      this.#writtenAtMs = this.#options.now().getTime();
      this.#failures = 0;
      this.#refusedReason = null;
    } catch (error) {
      this.#failures += 1;
      const failure = apiFailure(error);
      if (!failure.retryable && failure.reason !== this.#refusedReason) {
        this.#refusedReason = failure.reason;
        this.#options.log.error(
          { status: failure.status, reason: failure.reason },
          'the API server refuses the node object',
        );
      }
    } finally {
      this.#writing = false;
    }
    if (this.#stopped) return;
    if (this.#failures === 0) this.touch();
    else
      this.#schedule(
        Math.min(this.#options.refreshMs, 1_000 * 2 ** Math.min(this.#failures, 8)) * (0.8 + Math.random() * 0.4),
      );
  }
}
