/**
 * CHECK: is what ADD made still there and right? What others added is fine, an absent backend is no failure, and a route
 * that somebody took away after us is missed only while prevResult still has it: Multus removes default routes in favour
 * of the network that shall have it, and says so there.
 */
import ipaddr from 'ipaddr.js';
import { z } from 'zod';
import { VirtioUserError } from '../errors.ts';
import type { PodLinkState } from '../native/binding.ts';
import { gatewayOf, linkSetup } from './pod-link.ts';
import type { ReadyRecord } from './record.ts';

function canonical(address: string, prefixLength: number): string {
  return `${ipaddr.parse(address).toString()}/${prefixLength}`;
}

function canonicalGateway(gateway: string | null): string {
  return gateway === null ? '' : ipaddr.parse(gateway).toString();
}

/** What is missing or different, in words; empty when all is well. */
export function linkDifferences(
  record: ReadyRecord,
  link: PodLinkState | null,
  prevResult: unknown,
): readonly string[] {
  const { ifName } = record.spec.key;
  const { mac, mtu, ipam } = record.result;
  if (link === null) return [`interface ${ifName} is gone`];
  const differences: string[] = [];
  if (link.ifindex !== record.ifindex || link.kind !== 'tun')
    differences.push(`interface ${ifName} is not the one that ADD made`);
  if (link.mac !== mac) differences.push(`MAC is ${link.mac} instead of ${mac}`);
  if (link.mtu !== mtu) differences.push(`MTU is ${link.mtu} instead of ${mtu}`);
  if (!link.up) differences.push(`interface ${ifName} is down`);
  const stillMeant = routesLeft(prevResult);
  const routesMeant = ipam.routes.filter((route) => stillMeant(route.dst, gatewayOf(route, ipam.ips)));
  const wanted = linkSetup(record.ifindex, { ...ipam, routes: routesMeant });
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

const resultSchema = z.object({
  interfaces: z.array(z.unknown()),
  routes: z.array(z.object({ dst: z.string(), gw: z.string().nullish() })).nullish(),
});

/** Which routes prevResult has; everything, when it is not one that can be read. */
function routesLeft(prevResult: unknown): (dst: string, gateway: string | null) => boolean {
  const { data } = resultSchema.safeParse(prevResult);
  if (data === undefined) return () => true;
  const sameAs =
    (dst: string, gateway: string | null) =>
    (route: { readonly dst: string; readonly gw?: string | null | undefined }): boolean =>
      sameText(route.dst, dst) && (gateway === null || (route.gw ?? '') === '' || sameText(route.gw ?? '', gateway));
  return (dst, gateway) => (data.routes ?? []).some(sameAs(dst, gateway));
}

/** Two spellings of one address, with or without a prefix length. */
function sameText(one: string, other: string): boolean {
  const spelled = (text: string): string => {
    const [address = '', prefix = ''] = text.split('/');
    return ipaddr.isValid(address) ? `${ipaddr.parse(address).toString()}/${prefix}` : text;
  };
  return spelled(one) === spelled(other);
}

export function assertLink(record: ReadyRecord, link: PodLinkState | null, prevResult: unknown): void {
  const differences = linkDifferences(record, link, prevResult);
  if (differences.length === 0) return;
  throw new VirtioUserError('CHECK_MISMATCH', `attachment ${record.id}: ${differences.join('; ')}`, {
    details: { id: record.id, differences: differences.length },
    remedy: 'delete the pod so that it is attached anew',
  });
}
