/** What ADD answers, in the requested cniVersion (CNI 1.1.0, "ADD Success"; the older ones as their documents say). */
import { gatewayOf } from '../attachment/pod-link.ts';
import type { AttachmentResult } from '../attachment/spec.ts';
import type { CniVersion } from './netconf-schema.ts';

function defined(entries: Readonly<Record<string, unknown>>): Record<string, unknown> {
  return Object.fromEntries(Object.entries(entries).filter(([, value]) => value !== null && value !== undefined));
}

export function renderResult(result: AttachmentResult, cniVersion: CniVersion): Record<string, unknown> {
  const modern = cniVersion === '1.0.0' || cniVersion === '1.1.0';
  const { ips, routes, dns } = result.ipam;
  const interfaces: Record<string, unknown>[] = [
    {
      name: result.ifName,
      mac: result.mac,
      ...(modern ? { mtu: result.mtu } : {}),
      sandbox: result.netnsPath,
      ...(modern ? { socketPath: result.socketPath } : {}),
    },
  ];
  if (result.ovsPort !== null) interfaces.push({ name: result.ovsPort });
  const rendered: Record<string, unknown> = { cniVersion, interfaces };
  if (ips.length > 0 || !modern) {
    rendered['ips'] = ips.map((ip) =>
      defined({
        version: modern ? null : ip.address.includes(':') ? '6' : '4',
        address: ip.address,
        gateway: ip.gateway,
        interface: 0,
      }),
    );
  }
  if (routes.length > 0 || !modern) {
    rendered['routes'] = routes.map((route) => {
      // The gateway that was set, also where it is the address's: Multus reads network-status from here.
      const gw = gatewayOf(route, ips);
      return modern ? defined({ ...route, gw }) : defined({ dst: route.dst, gw });
    });
  }
  const dnsEntries =
    dns === null
      ? {}
      : Object.fromEntries(
          Object.entries(defined({ ...dns })).filter(([, value]) => !Array.isArray(value) || value.length > 0),
        );
  if (Object.keys(dnsEntries).length > 0 || !modern) rendered['dns'] = dnsEntries;
  return rendered;
}
