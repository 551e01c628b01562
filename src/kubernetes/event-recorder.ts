/**
 * Events on pods and on the node. Repetitions of one event are counted in a series instead of written anew, every
 * subject has a budget, and a slow or absent API server costs a bounded queue, never a caller.
 */
import type { Logger } from '../telemetry/log.ts';
import type { EventRecord } from './api.ts';
import { apiFailure } from './failure.ts';

export const eventReasons = [
  'AttachmentReady',
  'BackendDisconnected',
  'BackendReconnected',
  'FeatureMismatch',
  'OrphanRemoved',
  'StateCorrupt',
] as const;
export type EventReason = (typeof eventReasons)[number];

export interface EventSubject {
  readonly kind: 'Pod' | 'Node';
  /** Of a pod; a node's events live in `default`. */
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
}

export interface EventApi {
  createEvent(event: EventRecord): Promise<void>;
  repeatEvent(namespace: string, name: string, count: number): Promise<void>;
}

/** One write per subject and reason in this time; what comes in between is counted and told with the next one. */
const quietMs = 60_000;
const queueLimit = 500;
const seriesLimit = 2_000;

interface Series {
  name: string;
  count: number;
  writtenAtMs: number;
}

export class EventRecorder {
  readonly #api: EventApi;
  readonly #log: Logger;
  readonly #now: () => number;
  readonly #series = new Map<string, Series>();
  readonly #queue: (() => Promise<void>)[] = [];
  #draining = false;
  #dropped = 0;

  constructor(api: EventApi, log: Logger, now: () => number = Date.now) {
    this.#api = api;
    this.#log = log;
    this.#now = now;
  }

  /** Events lost because the API server did not keep up. */
  get dropped(): number {
    return this.#dropped;
  }

  record(subject: EventSubject, reason: EventReason, note: string, type: 'Normal' | 'Warning' = 'Normal'): void {
    const key = `${subject.kind}/${subject.namespace}/${subject.name}/${subject.uid}/${reason}`;
    const now = this.#now();
    const known = this.#series.get(key);
    if (known !== undefined) {
      known.count += 1;
      if (now - known.writtenAtMs < quietMs) return;
      known.writtenAtMs = now;
      this.#enqueue(() => this.#repeat(subject, reason, note, type, known));
      return;
    }
    if (this.#series.size >= seriesLimit) {
      const oldest = this.#series.keys().next();
      if (oldest.done !== true) this.#series.delete(oldest.value);
    }
    const series = { name: eventName(subject, now), count: 1, writtenAtMs: now };
    this.#series.set(key, series);
    this.#enqueue(() => this.#create(subject, reason, note, type, series));
  }

  #create(
    subject: EventSubject,
    reason: EventReason,
    note: string,
    type: 'Normal' | 'Warning',
    series: Series,
  ): Promise<void> {
    const namespace = subject.kind === 'Pod' ? subject.namespace : 'default';
    return this.#api.createEvent({
      namespace,
      name: series.name,
      type,
      reason,
      action: 'Attach',
      note: note.slice(0, 1000),
      regarding: {
        apiVersion: 'v1',
        kind: subject.kind,
        name: subject.name,
        uid: subject.uid,
        ...(subject.kind === 'Pod' ? { namespace: subject.namespace } : {}),
      },
    });
  }

  async #repeat(
    subject: EventSubject,
    reason: EventReason,
    note: string,
    type: 'Normal' | 'Warning',
    series: Series,
  ): Promise<void> {
    const namespace = subject.kind === 'Pod' ? subject.namespace : 'default';
    try {
      await this.#api.repeatEvent(namespace, series.name, Math.max(2, series.count));
    } catch (error) {
      if (apiFailure(error).status !== 404) throw error;
      series.name = eventName(subject, this.#now()); // it expired
      await this.#create(subject, reason, note, type, series);
    }
  }

  #enqueue(write: () => Promise<void>): void {
    if (this.#queue.length >= queueLimit) {
      this.#dropped += 1;
      return;
    }
    this.#queue.push(write);
    if (!this.#draining) void this.#drain();
  }

  async #drain(): Promise<void> {
    this.#draining = true;
    for (let write = this.#queue.shift(); write !== undefined; write = this.#queue.shift()) {
      try {
        await write();
      } catch (error) {
        this.#dropped += 1;
        this.#log.warn({ reason: apiFailure(error).reason }, 'event not written');
      }
    }
    this.#draining = false;
  }
}

function eventName(subject: EventSubject, now: number): string {
  return `${subject.name}.${now.toString(16)}${Math.floor(Math.random() * 0xffff).toString(16)}`.slice(-253);
}
