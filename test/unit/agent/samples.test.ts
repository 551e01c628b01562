/** What happens to attachments, as metrics count it. */
import { afterEach, describe, expect, it } from '@jest/globals';
import { DisconnectCounts, listenToChannels, sampleOf } from '../../../src/agent/samples.ts';
import { publish } from '../../../src/telemetry/channels.ts';
import { attachmentView } from './views.ts';
import { quietMetrics } from '../../support/quiet-metrics.ts';

const attachment = { id: 'vu1', networkName: 'net', containerId: 'c', ifName: 'eth0', pod: null };
const reason = 'for a test';

let stop: () => void = () => undefined;
afterEach(() => stop());

describe('an incident', () => {
  it.each<[kind: string, happen: () => void]>([
    ['ring-corrupt', () => publish('portBroken', { attachment, kind: 'ring-corrupt', reason })],
    ['kick-blocked', () => publish('portBroken', { attachment, kind: 'kick-blocked', reason })],
    ['memory-lost', () => publish('portBroken', { attachment, kind: 'memory-lost', reason })],
    ['vring-base', () => publish('vringBaseImplausible', { attachment, reason })],
    ['feature-mismatch', () => publish('featureMismatch', { attachment, parked: false, missing: ['MQ'] })],
    ['handshake-failing', () => publish('attachmentDegraded', { attachment, failures: 5, reason })],
    ['record-corrupt', () => publish('stateCorrupt', { id: 'vu1', path: '/x.bad', reason })],
  ])('%s is counted under its kind, and under no other', async (kind, happen) => {
    const metrics = quietMetrics();
    stop = listenToChannels(metrics, new DisconnectCounts());
    happen();
    const { body } = await metrics.render();
    const counted = [...body.matchAll(/^virtio_user_incidents_total\{kind="(.*)"\} ([1-9]\d*)$/gm)];
    expect(counted.map(([, name, count]) => [name, count])).toEqual([[kind, '1']]);
  });
});

describe('a sample of an attachment', () => {
  it('has what its view has, features and status by name', () => {
    const view = attachmentView({ ackedFeatures: (1n << 32n) | 1n });
    expect(sampleOf(view, 3)).toEqual({
      id: view.id,
      namespace: 'default',
      pod: 'one',
      network: 'dpdk-net',
      state: 'running',
      carrier: true,
      connections: 2,
      disconnects: 3,
      statusNames: ['ACKNOWLEDGE', 'DRIVER', 'DRIVER_OK', 'FEATURES_OK'],
      ackedFeatures: ['CSUM', 'VERSION_1'],
      counters: view.counters,
    });
  });
});

it('disconnects are counted for as long as their attachment is there, whether anybody scrapes or not', () => {
  const disconnects = new DisconnectCounts();
  stop = listenToChannels(quietMetrics(), disconnects);
  const going = { ...attachment, id: 'vu000000000001' };
  const staying = { ...attachment, id: 'vu000000000002' };
  for (const each of [going, going, staying]) publish('backendDisconnected', { attachment: each, reason: 'gone' });
  expect([disconnects.of(going.id), disconnects.of(staying.id)]).toEqual([2, 1]);
  publish('attachmentRemoved', { attachment: going, by: 'del' });
  expect([disconnects.of(going.id), disconnects.of(staying.id)]).toEqual([0, 1]);
});
