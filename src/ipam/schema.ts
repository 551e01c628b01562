/** Reads what an IPAM plugin printed. */
import { z } from 'zod';
import { canonicalCidr, familyOf } from './cidr.ts';
import type { IpamResult } from './result.ts';
import { cidrSchema, dnsSchema, mostAddresses, optionalAddressSchema, routesSchema } from './result-parts.ts';

const result = z
  .object({
    ips: z
      .array(z.object({ address: cidrSchema.transform(canonicalCidr), gateway: optionalAddressSchema }))
      .min(1, 'no address')
      .max(mostAddresses),
    routes: routesSchema,
    dns: dnsSchema,
  })
  .superRefine(({ ips, routes }, context) => {
    const judge = (destination: string, gateway: string | null, path: readonly PropertyKey[]): void => {
      if (gateway === null || familyOf(gateway) === familyOf(destination.split('/')[0] ?? '')) return;
      const message = `the gateway ${gateway} of ${destination} is of another family`;
      context.addIssue({ code: 'custom', path: [...path], message });
    };
    ips.forEach(({ address, gateway }, index) => judge(address, gateway, ['ips', index, 'gateway']));
    routes.forEach(({ dst, gw }, index) => judge(dst, gw, ['routes', index, 'gw']));
  });

/** @returns the result, or why it is none */
export function parseIpamResult(value: unknown): { readonly result: IpamResult } | { readonly reason: string } {
  const { data, error } = result.safeParse(value);
  return error === undefined ? { result: data } : { reason: z.prettifyError(error).replaceAll(/\s*\n\s*/g, ' ') };
}
