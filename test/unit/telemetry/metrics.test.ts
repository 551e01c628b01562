import { describe, expect, it } from '@jest/globals';
import { type AttachmentSample, Metrics } from '../../../src/telemetry/metrics.ts';
import { statusBit } from '../../../src/virtio/status.ts';
import { quietMetrics } from '../../support/quiet-metrics.ts';

function sample(changes: Partial<AttachmentSample> = {}): AttachmentSample {
  return {
    id: 'vu000000000001',
    namespace: 'default',
    pod: 'one',
    network: 'net',
    state: 'running',
    carrier: true,
    connections: 3,
    disconnects: 2,
    statusNames: ['ACKNOWLEDGE', 'DRIVER', 'DRIVER_OK', 'FEATURES_OK'],
    ackedFeatures: ['VERSION_1'],
    counters: {
      txFrames: 5n,
      txBytes: 500n,
      rxFrames: 7n,
      rxBytes: 700n,
      drops: { tx_lost: 1n, rx_short: 0n },
      events: { kicks: 4n, spins: 0n },
    },
    ...changes,
  };
}

async function scrape(metrics: Metrics): Promise<string[]> {
  return (await metrics.render()).body.split('\n').filter((line) => line.startsWith('virtio_user_'));
}

describe('metrics', () => {
  const one = 'id="vu000000000001",namespace="default",pod="one",network="net"';

  it('tell frames, bytes, drops, connections and carrier of each attachment', async () => {
    const metrics = new Metrics({
      version: '1.2.3',
      attachments: () => [sample()],
      deleteQueueLength: () => 4,
      cniInFlight: () => 2,
      lostLogLines: () => 3,
    });
    const lines = await scrape(metrics);
    expect(lines).toEqual(
      expect.arrayContaining([
        `virtio_user_frames_total{${one},direction="tx"} 5`,
        `virtio_user_frames_total{${one},direction="rx"} 7`,
        `virtio_user_bytes_total{${one},direction="rx"} 700`,
        `virtio_user_dropped_frames_total{${one},reason="tx_lost"} 1`,
        `virtio_user_dropped_frames_total{${one},reason="rx_short"} 0`,
        `virtio_user_dataplane_events_total{${one},event="kicks"} 4`,
        `virtio_user_backend_connections_total{${one}} 3`,
        `virtio_user_backend_disconnects_total{${one}} 2`,
        `virtio_user_carrier{${one}} 1`,
        'virtio_user_attachments{state="running"} 1',
        'virtio_user_attachments{state="parked"} 0',
        'virtio_user_negotiated_features{feature="VERSION_1"} 1',
        'virtio_user_delete_queue_entries 4',
        'virtio_user_cni_inflight 2',
        'virtio_user_log_lines_lost_total 3',
        `virtio_user_build_info{version="1.2.3",node_version="${process.versions.node}"} 1`,
      ]),
    );
    expect(lines.join('\n')).not.toContain('event="spins"');
  });

  it('count attachments by state, with zeros for states that none has', async () => {
    const metrics = quietMetrics({ attachments: () => [sample({ state: 'degraded' })] });
    // What `reconnect.ts` and `view.ts` say of one.
    const states = 'creating waiting negotiating running held parked degraded tap-gone absent closing'.split(' ');
    expect((await scrape(metrics)).filter((line) => line.startsWith('virtio_user_attachments'))).toEqual(
      states.map((state) => `virtio_user_attachments{state="${state}"} ${state === 'degraded' ? 1 : 0}`),
    );
  });

  it('count attachments by bit of their status, with zeros for bits that none has', async () => {
    const metrics = new Metrics({
      version: '0',
      attachments: () => [
        sample(),
        sample({ id: 'vu000000000002', statusNames: ['ACKNOWLEDGE', 'DRIVER', 'FAILED'] }),
        sample({ id: 'vu000000000003', statusNames: [] }),
      ],
      deleteQueueLength: () => 0,
      cniInFlight: () => 0,
      lostLogLines: () => 0,
    });
    const counts = { ACKNOWLEDGE: 2, DRIVER: 2, DRIVER_OK: 1, FEATURES_OK: 1, NEEDS_RESET: 0, FAILED: 1 };
    expect(Object.keys(counts)).toEqual(Object.keys(statusBit));
    expect((await scrape(metrics)).filter((line) => line.startsWith('virtio_user_device_status'))).toEqual(
      Object.entries(counts).map(([status, count]) => `virtio_user_device_status{status="${status}"} ${count}`),
    );
  });

  it('a removed attachment takes its series along, and counters follow the source', async () => {
    let samples = [sample(), sample({ id: 'vu000000000002', pod: 'two' })];
    const metrics = quietMetrics({ attachments: () => samples });
    expect((await scrape(metrics)).join('\n')).toContain('vu000000000002');
    samples = [sample({ connections: 9 })];
    const text = (await scrape(metrics)).join('\n');
    expect(text).not.toContain('vu000000000002');
    expect(text).toContain(`virtio_user_backend_connections_total{${one}} 9`);
  });

  it('hostile label values stay inside their quotes', async () => {
    const metrics = quietMetrics({ attachments: () => [sample({ pod: 'a"} 1\nevil' })] });
    const lines = await scrape(metrics);
    expect(lines.some((line) => line.startsWith('evil'))).toBe(false);
    expect(lines.join('\n')).toContain(String.raw`pod="a\"} 1\nevil"`);
  });

  it('have the codes of ADD and DEL from the start, so that a first failure is a rise', async () => {
    const metrics = quietMetrics();
    expect(await scrape(metrics)).toEqual(
      expect.arrayContaining([
        'virtio_user_cni_requests_total{verb="CHECK",code="OK"} 0',
        'virtio_user_cni_requests_total{verb="ADD",code="STATE_WRITE"} 0',
        'virtio_user_cni_requests_total{verb="DEL",code="IPAM_FAILED"} 0',
        'virtio_user_cni_request_duration_seconds_count{verb="ADD"} 0',
      ]),
    );
  });

  it('count CNI calls by verb and code, with duration', async () => {
    const metrics = quietMetrics();
    metrics.cniServed('ADD', 'OVS_UNAVAILABLE', 30);
    metrics.cniServed('DEL', null, 3);
    const lines = await scrape(metrics);
    expect(lines).toEqual(
      expect.arrayContaining([
        'virtio_user_cni_requests_total{verb="ADD",code="OVS_UNAVAILABLE"} 1',
        'virtio_user_cni_requests_total{verb="DEL",code="OK"} 1',
        'virtio_user_cni_request_duration_seconds_bucket{le="0.025",verb="ADD"} 0',
        'virtio_user_cni_request_duration_seconds_bucket{le="0.05",verb="ADD"} 1',
      ]),
    );
  });

  it('count outages, queued deletes and reconciliations', async () => {
    const metrics = quietMetrics();
    metrics.backendOutage(400);
    metrics.queuedDelete('corrupt');
    metrics.reconciled('ok');
    metrics.orphanRemoved('ovs-port');
    metrics.incident('ring-corrupt');
    expect(await scrape(metrics)).toEqual(
      expect.arrayContaining([
        'virtio_user_backend_outage_seconds_count 1',
        'virtio_user_backend_outage_seconds_bucket{le="0.25"} 0',
        'virtio_user_backend_outage_seconds_bucket{le="0.5"} 1',
        'virtio_user_delete_queue_processed_total{result="corrupt"} 1',
        'virtio_user_delete_queue_processed_total{result="done"} 0',
        'virtio_user_reconcile_runs_total{result="ok"} 1',
        'virtio_user_reconcile_runs_total{result="failed"} 0',
        'virtio_user_orphans_removed_total{kind="ovs-port"} 1',
        'virtio_user_incidents_total{kind="ring-corrupt"} 1',
        'virtio_user_incidents_total{kind="feature-mismatch"} 0',
      ]),
    );
  });
});
