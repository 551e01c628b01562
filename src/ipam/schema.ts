/** Reads what an IPAM plugin printed; CNI 0.3.0 to 1.1.0 differ in keys that are ignored here (`ips[].version`). */
import { z } from 'zod';
import { canonicalCidr, familyOf, isCidr } from './cidr.ts';
import type { IpamResult } from './result.ts';

const cidr = z.string().refine(isCidr, 'not an address with a prefix length');
const address = z.string().refine((text) => familyOf(text) !== 0, 'not an IP address');
/** The longest that a name of the DNS, or an option of resolv.conf, has any use for. */
const dnsTexts = z.array(z.string().max(255)).max(64).nullish();
const optionalInteger = z.int().min(0).max(0xffff_ffff).nullish();

const result = z.object({
  ips: z
    .array(z.object({ address: cidr, gateway: address.nullish().or(z.literal('')) }))
    .min(1, 'no address')
    .max(64),
  routes: z
    .array(
      z.object({
        dst: cidr,
        gw: address.nullish().or(z.literal('')),
        mtu: optionalInteger,
        advmss: optionalInteger,
        priority: optionalInteger,
        table: optionalInteger,
        scope: optionalInteger,
      }),
    )
    .max(1024)
    .nullish(),
  dns: z
    .object({
      nameservers: dnsTexts,
      domain: z.string().max(255).nullish(),
      search: dnsTexts,
      options: dnsTexts,
    })
    .nullish(),
});

function orNull<T>(value: T | null | undefined | ''): T | null {
  return value === undefined || value === '' ? null : value;
}

/** @returns the result, or why it is none */
export function parseIpamResult(value: unknown): { readonly result: IpamResult } | { readonly reason: string } {
  const parsed = result.safeParse(value);
  if (!parsed.success) return { reason: z.prettifyError(parsed.error).replaceAll(/\s*\n\s*/g, ' ') };
  const { ips, routes, dns } = parsed.data;
  return {
    result: {
      ips: ips.map((ip) => ({ address: canonicalCidr(ip.address), gateway: orNull(ip.gateway) })),
      routes: (routes ?? []).map((route) => ({
        dst: route.dst,
        gw: orNull(route.gw),
        mtu: route.mtu ?? null,
        advmss: route.advmss ?? null,
        priority: route.priority ?? null,
        table: route.table ?? null,
        scope: route.scope ?? null,
      })),
      dns:
        dns === undefined || dns === null
          ? null
          : {
              nameservers: dns.nameservers ?? [],
              domain: orNull(dns.domain),
              search: dns.search ?? [],
              options: dns.options ?? [],
            },
    },
  };
}
