/** From an IPAM result to what netlink is told, and back to what CHECK expects. */
import type { IpamAddress, IpamResult, IpamRoute } from '../ipam/result.ts';
import type { PodAddress, PodLinkSetup, PodRoute, TapSpec } from '../native/binding.ts';
import type { DeviceSpec } from './spec.ts';

/**
 * Frames above this need more than one buffer of a DPDK backend's linear extbuf (65535 bytes with headroom and shared
 * info), which would drop them; much less costs throughput.
 */
const gsoMaxBytes = 65_000;
/** What a TAP holds while nobody reads: enough for a switch restart at moderate load. */
const txQueueLength = 1_000;
/** VERSION_1 is never negotiated away, and its header has 12 bytes (virtio 1.3 §5.1.6). */
const vnetHeaderBytes = 12;

export function tapSpec(ifName: string, device: DeviceSpec, adoptIfindex: number | null): TapSpec {
  return {
    name: ifName,
    queues: device.queues,
    headerBytes: vnetHeaderBytes,
    adoptIfindex,
    mac: device.mac,
    mtu: device.mtu,
    txQueueLength,
    gsoMaxBytes,
  };
}

function isV6(text: string): boolean {
  return text.includes(':');
}

function splitCidr(cidr: string): PodAddress {
  const [address = '', prefix = ''] = cidr.split('/');
  return { address, prefixLength: Number(prefix) };
}

/** A route without a gateway takes that of the first address of its family, as the reference IPAM helper does. */
export function gatewayOf({ dst, gw, scope }: IpamRoute, ips: readonly IpamAddress[]): string | null {
  const linkScope = scope !== null && scope >= 253;
  if (gw !== null || linkScope) return gw;
  return ips.find(({ address, gateway }) => isV6(address) === isV6(dst) && gateway !== null)?.gateway ?? null;
}

export function linkSetup(ifindex: number, ipam: IpamResult): PodLinkSetup {
  const routes = ipam.routes.map((route): PodRoute => {
    const { address, prefixLength } = splitCidr(route.dst);
    return {
      destination: address,
      prefixLength,
      gateway: gatewayOf(route, ipam.ips),
      mtu: route.mtu,
      advmss: route.advmss,
      priority: route.priority,
      table: route.table,
      scope: route.scope,
    };
  });
  return { ifindex, addresses: ipam.ips.map((ip) => splitCidr(ip.address)), routes };
}
