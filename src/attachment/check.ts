/** CHECK: is what ADD made still there and right? What others added is fine, and an absent backend is no failure. */
import ipaddr from 'ipaddr.js';
import { VirtioUserError } from '../errors.ts';
import type { PodLinkState } from '../native/binding.ts';
import { linkSetup } from './pod-link.ts';
import type { ReadyRecord } from './record.ts';

function canonical(address: string, prefixLength: number): string {
  return `${ipaddr.parse(address).toString()}/${prefixLength}`;
}

function canonicalGateway(gateway: string | null): string {
  return gateway === null ? '' : ipaddr.parse(gateway).toString();
}

/** What is missing or different, in words; empty when all is well. */
export function linkDifferences(record: ReadyRecord, link: PodLinkState | null): readonly string[] {
  const { ifName } = record.spec.key;
  const { mac, mtu, ipam } = record.result;
  if (link === null) return [`interface ${ifName} is gone`];
  const differences: string[] = [];
  if (link.ifindex !== record.ifindex || link.kind !== 'tun')
    differences.push(`interface ${ifName} is not the one that ADD made`);
  if (link.mac !== mac) differences.push(`MAC is ${link.mac} instead of ${mac}`);
  if (link.mtu !== mtu) differences.push(`MTU is ${link.mtu} instead of ${mtu}`);
  if (!link.up) differences.push(`interface ${ifName} is down`);
  const wanted = linkSetup(record.ifindex, ipam);
  const addresses = new Set(link.addresses.map((entry) => canonical(entry.address, entry.prefixLength)));
  for (const { address, prefixLength } of wanted.addresses) {
    const text = canonical(address, prefixLength);
    if (!addresses.has(text)) differences.push(`address ${text} is missing`);
  }
  const routes = new Set(
    link.routes.map(
      (route) => `${canonical(route.destination, route.prefixLength)} ${canonicalGateway(route.gateway)}`,
    ),
  );
  for (const route of wanted.routes) {
    const destination = canonical(route.destination, route.prefixLength);
    if (!routes.has(`${destination} ${canonicalGateway(route.gateway)}`))
      differences.push(`route ${destination} is missing`);
  }
  return differences;
}

export function assertLink(record: ReadyRecord, link: PodLinkState | null): void {
  const differences = linkDifferences(record, link);
  if (differences.length === 0) return;
  throw new VirtioUserError('CHECK_MISMATCH', `attachment ${record.id}: ${differences.join('; ')}`, {
    details: { id: record.id, differences: differences.length },
    remedy: 'delete the pod so that it is attached anew',
  });
}
