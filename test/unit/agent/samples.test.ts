import { afterEach, expect, it } from '@jest/globals';
import { DisconnectCounts, listenToChannels } from '../../../src/agent/samples.ts';
import { type AttachmentIdentity, publish } from '../../../src/telemetry/channels.ts';
import { Metrics } from '../../../src/telemetry/metrics.ts';

const metrics = new Metrics({
  version: '0',
  attachments: () => [],
  deleteQueueLength: () => 0,
  cniInFlight: () => 0,
  lostLogLines: () => 0,
});
const identity = (id: string): AttachmentIdentity => ({
  id,
  networkName: 'net',
  containerId: 'c',
  ifName: 'eth0',
  pod: null,
});

let stop: () => void = () => undefined;
afterEach(() => stop());

it('disconnects are counted for as long as their attachment is there, whether anybody scrapes or not', () => {
  const disconnects = new DisconnectCounts();
  stop = listenToChannels(metrics, disconnects);
  const going = identity('vu000000000001');
  const staying = identity('vu000000000002');
  for (const attachment of [going, going, staying]) publish('backendDisconnected', { attachment, reason: 'gone' });
  expect([disconnects.of(going.id), disconnects.of(staying.id)]).toEqual([2, 1]);
  publish('attachmentRemoved', { attachment: going, by: 'del' });
  expect([disconnects.of(going.id), disconnects.of(staying.id)]).toEqual([0, 1]);
});
