/** Reads what an IPAM plugin printed. */
import { z } from 'zod';
import { canonicalCidr } from './cidr.ts';
import type { IpamResult } from './result.ts';
import { cidrSchema, dnsSchema, mostAddresses, optionalAddressSchema, routesSchema } from './result-parts.ts';

const result = z.object({
  ips: z
    .array(z.object({ address: cidrSchema.transform(canonicalCidr), gateway: optionalAddressSchema }))
    .min(1, 'no address')
    .max(mostAddresses),
  routes: routesSchema,
  dns: dnsSchema,
});

/** @returns the result, or why it is none */
export function parseIpamResult(value: unknown): { readonly result: IpamResult } | { readonly reason: string } {
  const { data, error } = result.safeParse(value);
  return error === undefined ? { result: data } : { reason: z.prettifyError(error).replaceAll(/\s*\n\s*/g, ' ') };
}
