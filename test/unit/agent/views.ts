import type { AttachmentView } from '../../../src/attachment/api.ts';

/** A running attachment as `Attachments.list` shows it. */
export function attachmentView(changes: Partial<AttachmentView> = {}): AttachmentView {
  return {
    id: 'vu000000000001',
    key: { networkName: 'dpdk-net', containerId: 'c'.repeat(64), ifName: 'eth0' },
    pod: { namespace: 'default', name: 'one', uid: 'u' },
    netnsPath: '/var/run/netns/cni-1',
    backendPath: '/run/virtio-user/vhost/vu000000000001.sock',
    server: true,
    ovsPort: 'vu000000000001',
    mac: '02:00:00:00:00:01',
    mtu: 1500,
    addresses: ['10.77.0.2/24', 'fd77::2/64'],
    state: 'running',
    reason: null,
    carrier: true,
    statusNames: ['ACKNOWLEDGE', 'DRIVER', 'DRIVER_OK', 'FEATURES_OK'],
    offeredFeatures: null,
    ackedFeatures: null,
    protocolFeatures: ['MQ', 'REPLY_ACK'],
    localFeatures: null,
    unsupportedFeatures: null,
    queuePairs: 1,
    configuredPairs: 1,
    activePairs: 1,
    wantedPairs: null,
    control: null,
    backendPid: 4711,
    connections: 2,
    lastOutageMs: 340,
    counters: {
      txFrames: 18446744073709551615n,
      txBytes: 64n,
      rxFrames: 5n,
      rxBytes: 320n,
      drops: { tx_lost: 3n },
      events: { kicks: 0n, calls: 9n },
    },
    ...changes,
  };
}
