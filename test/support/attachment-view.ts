/** One attachment as a person would see it, for tests of what is made of such views. */
import type { AttachmentView } from '../../src/attachment/api.ts';

export function attachmentView(number: number, change: Partial<AttachmentView> = {}): AttachmentView {
  const state = change.state ?? 'running';
  return {
    id: `vu${String(number).padStart(12, '0')}`,
    key: { networkName: 'net', containerId: `container-${number}`, ifName: 'eth0' },
    pod: { namespace: 'ns', name: `pod-${number}`, uid: `uid-${number}` },
    netnsPath: `/run/netns/cni-${number}`,
    backendPath: `/run/openvswitch/vu${number}.sock`,
    server: true,
    ovsPort: null,
    mac: '02:00:00:00:00:01',
    mtu: 1500,
    addresses: ['10.0.0.2/24'],
    reason: state === 'running' ? null : 'the backend is gone',
    carrier: state === 'running',
    statusNames: [],
    offeredFeatures: null,
    ackedFeatures: null,
    protocolFeatures: [],
    localFeatures: null,
    unsupportedFeatures: null,
    queuePairs: 1,
    configuredPairs: 1,
    activePairs: 1,
    wantedPairs: null,
    control: null,
    backendPid: null,
    connections: 1,
    lastOutageMs: null,
    counters: null,
    ...change,
    state,
  };
}
