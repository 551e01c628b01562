/** Metrics of an agent that has nothing and does nothing, but for what a test says. */
import { Metrics, type MetricSources } from '../../src/telemetry/metrics.ts';

export function quietMetrics(changes: Partial<MetricSources> = {}): Metrics {
  return new Metrics({
    version: '0',
    attachments: () => [],
    deleteQueueLength: () => 0,
    cniInFlight: () => 0,
    lostLogLines: () => 0,
    ...changes,
  });
}
