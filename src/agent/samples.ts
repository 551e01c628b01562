/** From what happens to attachments to what metrics say about it. */
import type { AttachmentView } from '../attachment/api.ts';
import { subscribe } from '../telemetry/channels.ts';
import type { AttachmentSample, Metrics } from '../telemetry/metrics.ts';
import { featureNames } from '../virtio/feature.ts';

/** Disconnects per attachment since this agent started; the view of an attachment has only its connections. */
export class DisconnectCounts {
  readonly #counts = new Map<string, number>();

  add(id: string): void {
    this.#counts.set(id, this.of(id) + 1);
  }

  of(id: string): number {
    return this.#counts.get(id) ?? 0;
  }

  /** Its attachment is gone. */
  forget(id: string): void {
    this.#counts.delete(id);
  }
}

export function sampleOf(view: AttachmentView, disconnects: number): AttachmentSample {
  return {
    id: view.id,
    namespace: view.pod?.namespace ?? '',
    pod: view.pod?.name ?? '',
    network: view.key.networkName,
    state: view.state,
    carrier: view.carrier,
    connections: view.connections,
    disconnects,
    statusNames: view.statusNames,
    ackedFeatures: view.ackedFeatures === null ? [] : featureNames(view.ackedFeatures),
    counters: view.counters,
  };
}

/** @returns how to stop */
export function listenToChannels(metrics: Metrics, disconnects: DisconnectCounts): () => void {
  const stops = [
    subscribe('backendDisconnected', ({ attachment }) => disconnects.add(attachment.id)),
    subscribe('attachmentRemoved', ({ attachment }) => disconnects.forget(attachment.id)),
    subscribe('backendReconnected', ({ outageMs }) => metrics.backendOutage(outageMs)),
    subscribe('orphanRemoved', ({ kind }) => metrics.orphanRemoved(kind)),
    subscribe('stateCorrupt', () => metrics.incident('record-corrupt')),
    subscribe('portBroken', ({ kind }) => metrics.incident(kind)),
    subscribe('vringBaseImplausible', () => metrics.incident('vring-base')),
    subscribe('featureMismatch', () => metrics.incident('feature-mismatch')),
    subscribe('attachmentDegraded', () => metrics.incident('handshake-failing')),
  ];
  return () => {
    for (const stop of stops) stop();
  };
}
