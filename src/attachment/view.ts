/** What a person or a metric may see of one attachment: its record, and what runs of it. */
import type { NetState } from '../device/net-state.ts';
import type { AttachmentView, ControlView } from './api.ts';
import type { LiveAttachment } from './live-attachment.ts';
import type { AttachmentRecord } from './record.ts';

/** @param whyAbsent why a ready one does not run, as far as that is known */
export function viewOf(
  record: AttachmentRecord,
  live: LiveAttachment | null,
  whyAbsent: string | null,
): AttachmentView {
  const { spec } = record;
  const running = live?.view ?? null;
  return {
    id: record.id,
    key: spec.key,
    pod: spec.pod,
    netnsPath: spec.netnsPath,
    backendPath: spec.backend.path,
    server: spec.backend.server,
    ovsPort: spec.ovs === null ? null : record.id,
    mac: spec.device.mac,
    mtu: running?.mtu ?? spec.device.mtu,
    addresses: record.phase === 'ready' ? record.result.ipam.ips.map((ip) => ip.address) : [],
    state: running?.state ?? absentState(record),
    reason: running === null ? absentReason(record, whyAbsent) : running.reason,
    carrier: running?.carrier ?? false,
    statusNames: running?.statusNames ?? [],
    offeredFeatures: running?.ready?.offeredFeatures ?? null,
    ackedFeatures: running?.ready?.ackedFeatures ?? null,
    protocolFeatures: running?.ready?.protocolFeatures ?? [],
    localFeatures: running?.ready?.localFeatures ?? null,
    unsupportedFeatures: running?.ready?.unsupportedFeatures ?? null,
    queuePairs: running?.ready?.queuePairs ?? 0,
    configuredPairs: spec.device.queues,
    activePairs: running?.activePairs ?? 0,
    wantedPairs: record.phase === 'ready' ? record.wantedPairs : null,
    control: controlView(running?.net ?? null),
    backendPid: running?.backendPid ?? null,
    connections: running?.connections ?? 0,
    lastOutageMs: running?.lastOutageMs ?? null,
    counters: live?.counters() ?? null,
  };
}

function controlView(net: NetState | null): ControlView | null {
  if (net === null) return null;
  const { mac, unicast, multicast, announce } = net;
  return { mac, rxModes: [...net.rxModes], unicast, multicast, announce };
}

function absentState({ phase }: AttachmentRecord): string {
  return phase === 'ready' ? 'absent' : phase === 'creating' ? 'creating' : 'closing';
}

function absentReason({ phase }: AttachmentRecord, whyAbsent: string | null): string | null {
  return phase === 'deleting' ? 'its removal is not complete yet' : whyAbsent;
}
