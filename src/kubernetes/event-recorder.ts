/**
 * Events on pods and on the node. Repetitions of one event are counted in a series instead of written anew, every
 * subject and reason has a budget, and a slow or absent API server costs a bounded queue, never a caller: what it cannot
 * take now is tried again until it is too old to matter. A namespace that refuses events holds up its own only.
 */
import { type Clock, systemClock } from '../clock.ts';
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
  /** Empty: not known. */
  readonly uid: string;
}

export interface News {
  readonly subject: EventSubject;
  readonly reason: EventReason;
  readonly note: string;
  readonly type: 'Normal' | 'Warning';
}

export interface EventApi {
  createEvent(event: EventRecord): Promise<void>;
  repeatEvent(namespace: string, name: string, count: number): Promise<void>;
}

/** One write per subject and reason in this time; the last of what comes in between is told at its end. */
const quietMs = 60_000;
const queueLimit = 500;
const seriesLimit = 2_000;
/** Older news is dropped when the API server comes back. */
const tooOldMs = 600_000;
const retryMs = [1_000, 30_000] as const;
const noteBytes = 1_000;
/** Answers that say nothing about the namespace: who we are, too many requests, not ready. */
const serverStatus: ReadonlySet<number> = new Set([401, 429, 503]);

interface Series {
  name: string;
  note: string;
  count: number;
  writtenAtMs: number;
  /** The newest that waits for the end of the quiet time, and how many it stands for. */
  waiting: { readonly news: News; readonly more: number } | null;
  timer: NodeJS.Timeout | null;
}

interface Write {
  readonly namespace: string;
  readonly bornMs: number;
  readonly run: () => Promise<void>;
}

/** Nothing is written to a namespace, or to any, until its timer has fired. */
interface Wait {
  failures: number;
  timer: NodeJS.Timeout | null;
}

/** Key of the wait that concerns all namespaces. */
const everyNamespace = '';

export class EventRecorder {
  readonly #api: EventApi;
  readonly #log: Logger;
  readonly #clock: Pick<Clock, 'now' | 'wallMs'>;
  readonly #series = new Map<string, Series>();
  /** In order of their birth, as far as one namespace goes. */
  #queue: Write[] = [];
  readonly #waits = new Map<string, Wait>();
  #draining = false;
  #dropped = 0;
  #stopped = false;

  constructor(api: EventApi, log: Logger, clock: Pick<Clock, 'now' | 'wallMs'> = systemClock) {
    this.#api = api;
    this.#log = log;
    this.#clock = clock;
  }

  /** Events lost because the API server refused them or did not keep up. */
  get dropped(): number {
    return this.#dropped;
  }

  record(news: News): void {
    if (this.#stopped) return;
    const { subject, reason } = news;
    const key = `${subject.kind}/${subject.namespace}/${subject.name}/${subject.uid}/${reason}`;
    const now = this.#clock.now();
    const known = this.#series.get(key);
    if (known === undefined) {
      this.#makeRoom();
      const series = { name: '', note: '', count: 0, writtenAtMs: now, waiting: null, timer: null };
      this.#series.set(key, series);
      this.#write(series, news, 0);
      return;
    }
    const more = known.waiting === null ? 0 : known.waiting.more + 1;
    const leftMs = known.writtenAtMs + quietMs - now;
    if (leftMs <= 0) {
      this.#write(known, news, more);
      return;
    }
    known.waiting = { news, more };
    known.timer ??= setTimeout(() => {
      if (known.waiting !== null) this.#write(known, known.waiting.news, known.waiting.more);
    }, leftMs).unref();
  }

  stop(): void {
    this.#stopped = true;
    for (const series of this.#series.values()) if (series.timer !== null) clearTimeout(series.timer);
    this.#queue = [];
    for (const namespace of this.#waits.keys()) this.#endWait(namespace);
  }

  #makeRoom(): void {
    if (this.#series.size < seriesLimit) return;
    const oldest = this.#series.entries().next();
    if (oldest.done === true) return;
    const [key, { timer }] = oldest.value;
    if (timer !== null) clearTimeout(timer);
    this.#series.delete(key);
  }

  /** @param more how many came since the last write and are told only by this number */
  #write(series: Series, news: News, more: number): void {
    const now = this.#clock.now();
    if (series.timer !== null) clearTimeout(series.timer);
    series.timer = null;
    series.waiting = null;
    series.writtenAtMs = now;
    // The note of an event that exists cannot be changed, so only the same note is a repetition.
    if (series.name !== '' && series.note === news.note) {
      series.count += more + 1;
      const { name, count } = series;
      this.#enqueue(news.subject, () => this.#repeat(series, news, name, count));
      return;
    }
    series.name = eventName(news.subject, this.#clock.wallMs());
    series.note = news.note;
    series.count = 1;
    const { name } = series;
    const note = more === 0 ? news.note : `${news.note} (and ${more} more since the last event)`;
    this.#enqueue(news.subject, () => this.#create({ ...news, note }, name));
  }

  async #create({ subject, reason, note, type }: News, name: string): Promise<void> {
    try {
      await this.#api.createEvent({
        namespace: namespaceOf(subject),
        name,
        type,
        reason,
        action: 'Attach',
        note: Buffer.from(note).subarray(0, noteBytes).toString(),
        regarding: {
          apiVersion: 'v1',
          kind: subject.kind,
          name: subject.name,
          ...(subject.uid === '' ? {} : { uid: subject.uid }),
          ...(subject.kind === 'Pod' ? { namespace: subject.namespace } : {}),
        },
      });
    } catch (error) {
      // An earlier try whose answer was lost: the name is ours alone.
      if (apiFailure(error).status !== 409) throw error;
    }
  }

  async #repeat(series: Series, news: News, name: string, count: number): Promise<void> {
    try {
      await this.#api.repeatEvent(namespaceOf(news.subject), name, count);
    } catch (error) {
      if (apiFailure(error).status !== 404) throw error;
      const fresh = eventName(news.subject, this.#clock.wallMs()); // it expired
      if (series.name === name) Object.assign(series, { name: fresh, count: 1 });
      await this.#create(news, fresh);
    }
  }

  #enqueue(subject: EventSubject, run: () => Promise<void>): void {
    if (this.#queue.length >= queueLimit) {
      this.#dropped += 1;
      return;
    }
    this.#queue.push({ namespace: namespaceOf(subject), bornMs: this.#clock.now(), run });
    void this.#drain();
  }

  async #drain(): Promise<void> {
    if (this.#draining) return;
    this.#draining = true;
    for (let write = this.#nextWrite(); write !== undefined; write = this.#nextWrite()) await this.#try(write);
    this.#draining = false;
  }

  #nextWrite(): Write | undefined {
    const waits = (namespace: string): boolean => (this.#waits.get(namespace)?.timer ?? null) !== null;
    if (waits(everyNamespace)) return undefined;
    return this.#queue.find(({ namespace }) => !waits(namespace));
  }

  async #try(write: Write): Promise<void> {
    const { namespace, bornMs } = write;
    try {
      await write.run();
      this.#endWait(everyNamespace);
    } catch (error) {
      if (this.#stopped) return;
      const { status, reason, retryable, retryAfterMs } = apiFailure(error);
      const ofServer = status === null || serverStatus.has(status);
      if (!ofServer) this.#endWait(everyNamespace);
      if (retryable && this.#clock.now() - bornMs < tooOldMs) {
        this.#wait(ofServer ? everyNamespace : namespace, reason, retryAfterMs);
        // The others' turn: what gets no answer may be this namespace's alone, a webhook that hangs.
        const own = this.#queue.filter((other) => other.namespace === namespace);
        this.#queue = [...this.#queue.filter((other) => other.namespace !== namespace), ...own];
        return;
      }
      this.#dropped += 1;
      this.#log.warn({ namespace, reason }, 'event not written');
    }
    this.#endWait(namespace);
    this.#queue = this.#queue.filter((other) => other !== write);
  }

  #wait(namespace: string, reason: string, retryAfterMs: number | null): void {
    const wait = this.#waits.get(namespace) ?? { failures: 0, timer: null };
    this.#waits.set(namespace, wait);
    if (wait.failures === 0) {
      if (namespace === everyNamespace) this.#log.warn({ reason }, 'events wait for the API server');
      else this.#log.warn({ namespace, reason }, 'events of a namespace wait');
    }
    const [first, longest] = retryMs;
    const delayMs = Math.max(retryAfterMs ?? 0, Math.min(longest, first * 2 ** Math.min(wait.failures++, 8)));
    wait.timer = setTimeout(() => {
      wait.timer = null;
      void this.#drain();
    }, delayMs).unref();
  }

  #endWait(namespace: string): void {
    const timer = this.#waits.get(namespace)?.timer ?? null;
    if (timer !== null) clearTimeout(timer);
    this.#waits.delete(namespace);
  }
}

function namespaceOf(subject: EventSubject): string {
  return subject.kind === 'Pod' ? subject.namespace : 'default';
}

/** At most 253 characters, as a DNS subdomain. */
function eventName(subject: EventSubject, wallMs: number): string {
  const random = Math.floor(Math.random() * 0x1_0000_0000);
  const base = subject.name.slice(0, 220).replace(/[-.]+$/, '');
  return `${base}.${wallMs.toString(16)}${random.toString(16).padStart(8, '0')}`;
}
