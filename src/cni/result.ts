/**
 * What ADD answers, in the requested cniVersion (CNI 1.1.0, "ADD Success"; the older ones as their documents say): what
 * the plugins before us in the list made, then what we made.
 */
import { gatewayOf } from '../attachment/pod-link.ts';
import type { AttachmentResult } from '../attachment/spec.ts';
import type { IpamDns } from '../ipam/result.ts';
import type { CniVersion } from './netconf-schema.ts';
import { noPrevResult, type PrevResult, type ResultAddress, type ResultInterface } from './prev-result.ts';

function defined(entries: object): Record<string, unknown> {
  return Object.fromEntries(Object.entries(entries).filter(([, value]) => value !== null && value !== undefined));
}

const nothingElse = { mac: null, mtu: null, sandbox: null, socketPath: null, pciID: null };

function ownInterfaces(result: AttachmentResult): ResultInterface[] {
  const { ifName: name, mac, mtu, netnsPath: sandbox, socketPath, ovsPort } = result;
  const inPod = { name, mac, mtu, sandbox, socketPath, pciID: null };
  return ovsPort === null ? [inPod] : [inPod, { ...nothingElse, name: ovsPort }];
}

function dnsEntries(dns: IpamDns | null): Record<string, unknown> {
  const isEmpty = (value: unknown): boolean => Array.isArray(value) && value.length === 0;
  return Object.fromEntries(Object.entries(defined(dns ?? {})).filter(([, value]) => !isEmpty(value)));
}

export function renderResult(
  result: AttachmentResult,
  cniVersion: CniVersion,
  previous: PrevResult = noPrevResult,
): Record<string, unknown> {
  const modern = cniVersion === '1.0.0' || cniVersion === '1.1.0';
  const { ipam } = result;
  const interfaces = [...previous.interfaces, ...ownInterfaces(result)];
  const ownIndex = previous.interfaces.length;
  const ips: ResultAddress[] = [...previous.ips, ...ipam.ips.map((ip) => ({ ...ip, interface: ownIndex }))];
  // The gateway that was set, also where it is the address's: Multus reads network-status from here.
  const routes = [...previous.routes, ...ipam.routes.map((route) => ({ ...route, gw: gatewayOf(route, ipam.ips) }))];
  const ownDns = dnsEntries(ipam.dns);
  const dns = Object.keys(ownDns).length > 0 ? ownDns : dnsEntries(previous.dns);

  const rendered: Record<string, unknown> = {
    cniVersion,
    interfaces: interfaces.map((one) => defined(modern ? one : { name: one.name, mac: one.mac, sandbox: one.sandbox })),
  };
  if (ips.length > 0 || !modern) {
    rendered['ips'] = ips.map((ip) =>
      defined({ version: modern ? null : ip.address.includes(':') ? '6' : '4', ...ip }),
    );
  }
  if (routes.length > 0 || !modern) {
    rendered['routes'] = routes.map((route) => defined(modern ? route : { dst: route.dst, gw: route.gw }));
  }
  if (Object.keys(dns).length > 0 || !modern) rendered['dns'] = dns;
  return rendered;
}
