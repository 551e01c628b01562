/** Reads what an IPAM plugin printed; CNI 0.3.0 to 1.1.0 differ in keys that are ignored here (`ips[].version`). */
import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';
import { z } from 'zod';
import type { IpamResult } from './result.ts';

/** ipaddr.js takes octal and shortened forms for other addresses; `isIP` refuses them first. */
export function isCidr(text: string): boolean {
  const [address = '', prefix = '', ...more] = text.split('/');
  const family = isIP(address);
  return more.length === 0 && family !== 0 && /^\d{1,3}$/.test(prefix) && Number(prefix) <= (family === 4 ? 32 : 128);
}

const cidr = z.string().refine(isCidr, 'not an address with a prefix length');
const address = z.string().refine((text) => isIP(text) !== 0, 'not an IP address');
const optionalInteger = z.int().min(0).max(0xffff_ffff).nullish();

const result = z.object({
  ips: z
    .array(z.object({ address: cidr, gateway: address.nullish().or(z.literal('')) }))
    .max(64)
    .default([]),
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
      nameservers: z.array(z.string()).nullish(),
      domain: z.string().nullish(),
      search: z.array(z.string()).nullish(),
      options: z.array(z.string()).nullish(),
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

function canonicalCidr(text: string): string {
  const [address = '', prefix = ''] = text.split('/');
  return `${ipaddr.parse(address).toString()}/${prefix}`;
}
