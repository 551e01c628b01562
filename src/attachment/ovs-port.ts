/** The OVS port that belongs to an attachment. */
import type { OvsPortSpec } from '../ovs/ports.ts';
import type { AttachmentSpec } from './spec.ts';

/** null: the attachment has no port of ours. */
export function ovsPortSpec(id: string, spec: AttachmentSpec, nodeName: string): OvsPortSpec | null {
  if (spec.ovs === null) return null;
  const { containerId, ifName } = spec.key;
  const owner = spec.pod === null ? containerId : `${spec.pod.namespace}/${spec.pod.name}`;
  return {
    name: id,
    bridge: spec.ovs.bridge,
    vlan: spec.ovs.vlan,
    socketPath: spec.backend.path,
    type: spec.backend.server ? 'dpdkvhostuserclient' : 'dpdkvhostuser',
    mtu: spec.device.mtu,
    externalIds: {
      'virtio-user-id': id,
      'virtio-user-node': nodeName,
      'iface-id': `${owner}/${ifName}`,
      'attached-mac': spec.device.mac,
    },
  };
}
