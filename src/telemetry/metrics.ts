/**
 * Every metric of the agent, in one registry. Figures of attachments are read when somebody scrapes and not before;
 * series of a removed attachment vanish with it.
 *
 * Labels are bounded: by the attachments of one node, by closed sets of verbs, codes, states and reasons. No container
 * id, no path.
 */
import { collectDefaultMetrics, Counter, Gauge, Histogram, Registry } from '@prometheus-io/client';
import { errorCodes } from '../errors.ts';

/** What a scrape wants to know of one attachment. */
export interface AttachmentSample {
  readonly id: string;
  readonly namespace: string;
  readonly pod: string;
  readonly network: string;
  readonly state: string;
  readonly carrier: boolean;
  readonly connections: number;
  readonly disconnects: number;
  /** Bits set in the status of its device. */
  readonly statusNames: readonly string[];
  readonly ackedFeatures: readonly string[];
  readonly counters: {
    readonly txFrames: bigint;
    readonly txBytes: bigint;
    readonly rxFrames: bigint;
    readonly rxBytes: bigint;
    readonly drops: Readonly<Record<string, bigint>>;
    readonly events: Readonly<Record<string, bigint>>;
  } | null;
}

export interface MetricSources {
  readonly version: string;
  readonly attachments: () => readonly AttachmentSample[];
  readonly deleteQueueLength: () => number;
  /** CNI calls under way. */
  readonly cniInFlight: () => number;
  /** Since this agent started. */
  readonly lostLogLines: () => number;
}

const attachmentLabels = ['id', 'namespace', 'pod', 'network'] as const;

/** States that are always reported, so that "none" is 0 and not a missing series. */
const knownStates = [
  'creating',
  'waiting',
  'negotiating',
  'running',
  'held',
  'parked',
  'degraded',
  'tap-gone',
  'absent',
  'closing',
] as const;

/** Bits of the virtio status, for the same reason. */
const knownStatusBits = ['ACKNOWLEDGE', 'DRIVER', 'DRIVER_OK', 'FEATURES_OK', 'NEEDS_RESET', 'FAILED'] as const;

const verbs = ['ADD', 'DEL', 'CHECK', 'GC', 'STATUS'] as const;
/** A pod waits for them: all their codes are reported from the start. */
const awaitedVerbs = ['ADD', 'DEL'] as const;

/**
 * A ring that cannot be, a kick that blocks or is slow, memory that is gone, an index of a ring that cannot be at its orderly end,
 * features or pairs that are missing, a handshake that fails again and again, a record that cannot be read.
 */
const incidentKinds = [
  'ring-corrupt',
  'kick-blocked',
  'memory-lost',
  'vring-base',
  'feature-mismatch',
  'handshake-failing',
  'record-corrupt',
] as const;
export type IncidentKind = (typeof incidentKinds)[number];

const prefix = 'virtio_user_';

export class Metrics {
  readonly #registry = new Registry();
  readonly #sources: MetricSources;
  /** One look at the attachments per scrape. */
  #samples: readonly AttachmentSample[] = [];

  readonly #cniRequests = this.#counter('cni_requests_total', 'CNI calls by verb and code of the failure (OK: none)', [
    'verb',
    'code',
  ]);
  readonly #cniDuration = this.#histogram(
    'cni_request_duration_seconds',
    'Time from request to answer of CNI calls',
    ['verb'],
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60],
  );
  readonly #outages = this.#histogram(
    'backend_outage_seconds',
    'Time without a backend, from its disconnect until frames moved again',
    [],
    [0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 1800],
  );
  readonly #queueProcessed = this.#counter('delete_queue_processed_total', 'Queued DELs worked off', ['result']);
  readonly #reconcileRuns = this.#counter('reconcile_runs_total', 'Comparisons of records with reality', ['result']);
  readonly #orphans = this.#counter('orphans_removed_total', 'What nobody used any more and was removed', ['kind']);

  readonly #incidents = this.#counter('incidents_total', 'What an admin should look at, by kind', ['kind']);

  constructor(sources: MetricSources) {
    this.#sources = sources;
    // As the library would have it, 110 timers a second: 0.9 % of a core on an idle node. The lag that it reports
    // contains the interval; the dashboard takes it off.
    collectDefaultMetrics({
      register: this.#registry,
      eventLoopMonitoringPrecision: 100,
      eventLoopUtilizationTimeout: 1000,
    });
    this.#gauge('build_info', 'Version of the agent', ['version', 'node_version']).set(
      { version: sources.version, node_version: process.versions.node },
      1,
    );
    this.#declareAttachmentFigures();
    this.#fromSamples('delete_queue_entries', 'DELs that wait on disk', [], (set) =>
      set({}, sources.deleteQueueLength()),
    );
    this.#fromSamples('cni_inflight', 'CNI calls under way', [], (set) => set({}, sources.cniInFlight()));
    this.#countedElsewhere('log_lines_lost_total', 'Log lines that could not be written', [], (inc) =>
      inc({}, sources.lostLogLines()),
    );
    // A counter that begins with 1 is no rise to Prometheus: the first failure would be in no rate and no alert.
    for (const verb of verbs) {
      this.#cniRequests.inc({ verb, code: 'OK' }, 0);
      this.#cniDuration.zero({ verb });
    }
    for (const verb of awaitedVerbs) for (const code of errorCodes) this.#cniRequests.inc({ verb, code }, 0);
    for (const kind of incidentKinds) this.#incidents.inc({ kind }, 0);
    for (const kind of ['attachment', 'ovs-port']) this.#orphans.inc({ kind }, 0);
    for (const result of ['done', 'failed', 'corrupt']) this.#queueProcessed.inc({ result }, 0);
    for (const result of ['ok', 'incomplete', 'failed']) this.#reconcileRuns.inc({ result }, 0);
  }

  /** Prometheus text format. */
  async render(): Promise<{ readonly contentType: string; readonly body: string }> {
    this.#samples = this.#sources.attachments();
    return { contentType: this.#registry.contentType, body: await this.#registry.metrics() };
  }

  /** `code`: a code of `errors.ts`, or null for success. */
  cniServed(verb: string, code: string | null, durationMs: number): void {
    this.#cniRequests.inc({ verb, code: code ?? 'OK' });
    this.#cniDuration.observe({ verb }, durationMs / 1000);
  }

  backendOutage(durationMs: number): void {
    this.#outages.observe(durationMs / 1000);
  }

  queuedDelete(result: 'done' | 'failed' | 'corrupt'): void {
    this.#queueProcessed.inc({ result });
  }

  /** `incomplete`: something could not be asked or undone, and was left alone. */
  reconciled(result: 'ok' | 'incomplete' | 'failed'): void {
    this.#reconcileRuns.inc({ result });
  }

  orphanRemoved(kind: string): void {
    this.#orphans.inc({ kind });
  }

  incident(kind: IncidentKind): void {
    this.#incidents.inc({ kind });
  }

  #declareAttachmentFigures(): void {
    this.#fromSamples('attachments', 'Attachments by state', ['state'], (set) => {
      const counts = new Map<string, number>(knownStates.map((state) => [state, 0]));
      for (const { state } of this.#samples) counts.set(state, (counts.get(state) ?? 0) + 1);
      for (const [state, count] of counts) set({ state }, count);
    });
    this.#fromSamples('device_status', 'Attachments by bit set in the status of their device', ['status'], (set) => {
      const counts = new Map<string, number>(knownStatusBits.map((status) => [status, 0]));
      for (const { statusNames } of this.#samples) {
        for (const status of statusNames) counts.set(status, (counts.get(status) ?? 0) + 1);
      }
      for (const [status, count] of counts) set({ status }, count);
    });
    this.#fromSamples('negotiated_features', 'Attachments by acknowledged feature', ['feature'], (set) => {
      const counts = new Map<string, number>();
      for (const sample of this.#samples) {
        for (const feature of sample.ackedFeatures) counts.set(feature, (counts.get(feature) ?? 0) + 1);
      }
      for (const [feature, count] of counts) set({ feature }, count);
    });
    this.#fromSamples('carrier', "1 when the pod's link has its carrier", attachmentLabels, (set) => {
      for (const sample of this.#samples) set(labelsOf(sample), sample.carrier ? 1 : 0);
    });
    this.#perAttachment('backend_connections_total', 'Connections of a backend', [], (sample, inc) =>
      inc({}, sample.connections),
    );
    this.#perAttachment('backend_disconnects_total', 'Connections that ended', [], (sample, inc) =>
      inc({}, sample.disconnects),
    );
    this.#perAttachment('frames_total', 'Frames moved; tx: pod to backend', ['direction'], (sample, inc) => {
      if (sample.counters === null) return;
      inc({ direction: 'tx' }, Number(sample.counters.txFrames));
      inc({ direction: 'rx' }, Number(sample.counters.rxFrames));
    });
    this.#perAttachment('bytes_total', 'Bytes moved; tx: pod to backend', ['direction'], (sample, inc) => {
      if (sample.counters === null) return;
      inc({ direction: 'tx' }, Number(sample.counters.txBytes));
      inc({ direction: 'rx' }, Number(sample.counters.rxBytes));
    });
    this.#perAttachment('dropped_frames_total', 'Frames that went nowhere, by reason', ['reason'], (sample, inc) => {
      for (const [reason, frames] of Object.entries(sample.counters?.drops ?? {})) inc({ reason }, Number(frames));
    });
    // What never happened is left out: with 250 attachments it would be thousands of zeros per scrape.
    this.#perAttachment('dataplane_events_total', 'Kicks, calls, merges … by kind', ['event'], (sample, inc) => {
      for (const [event, count] of Object.entries(sample.counters?.events ?? {})) {
        if (count > 0n) inc({ event }, Number(count));
      }
    });
  }

  #gauge<T extends string>(name: string, help: string, labelNames: readonly T[]): Gauge<T> {
    return new Gauge({ name: prefix + name, help, labelNames: [...labelNames], registers: [this.#registry] });
  }

  #counter<T extends string>(name: string, help: string, labelNames: readonly T[]): Counter<T> {
    return new Counter({ name: prefix + name, help, labelNames: [...labelNames], registers: [this.#registry] });
  }

  #histogram<T extends string>(name: string, help: string, labels: readonly T[], buckets: number[]): Histogram<T> {
    const labelNames = [...labels];
    return new Histogram({ name: prefix + name, help, labelNames, buckets, registers: [this.#registry] });
  }

  /** A gauge that is computed afresh at each scrape. */
  #fromSamples<T extends string>(
    name: string,
    help: string,
    labelNames: readonly T[],
    fill: (set: (labels: Partial<Record<T, string>>, value: number) => void) => void,
  ): void {
    new Gauge<string>({
      name: prefix + name,
      help,
      labelNames: [...labelNames],
      registers: [this.#registry],
      collect() {
        this.reset();
        fill((labels, value) => this.set(labels, value));
      },
    });
  }

  /** Counters of each attachment. */
  #perAttachment<T extends string>(
    name: string,
    help: string,
    labelNames: readonly T[],
    fill: (sample: AttachmentSample, inc: (labels: Partial<Record<T, string>>, value: number) => void) => void,
  ): void {
    this.#countedElsewhere<string>(name, help, [...attachmentLabels, ...labelNames], (inc) => {
      for (const sample of this.#samples) {
        const labels = labelsOf(sample);
        fill(sample, (extra, value) => inc({ ...labels, ...extra }, value));
      }
    });
  }

  /** A counter whose values live elsewhere: the library has no `set`, so it is emptied and filled. */
  #countedElsewhere<T extends string>(
    name: string,
    help: string,
    labelNames: readonly T[],
    fill: (inc: (labels: Partial<Record<T, string>>, value: number) => void) => void,
  ): void {
    new Counter<string>({
      name: prefix + name,
      help,
      labelNames: [...labelNames],
      registers: [this.#registry],
      collect() {
        this.reset();
        fill((labels, value) => this.inc(labels, value));
      },
    });
  }
}

function labelsOf(sample: AttachmentSample): Record<(typeof attachmentLabels)[number], string> {
  return { id: sample.id, namespace: sample.namespace, pod: sample.pod, network: sample.network };
}
