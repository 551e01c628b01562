/**
 * What the answer of an IPAM plugin and the result of any CNI plugin have in common, read as nobody's word is trusted:
 * bounded, and with null for what was left out or empty. CNI 0.3.0 to 1.1.0 differ in keys that are ignored here
 * (`ips[].version`).
 */
import { z } from 'zod';
import { familyOf, isCidr } from './cidr.ts';
import type { IpamDns, IpamRoute } from './result.ts';

export const cidrSchema = z.string().refine(isCidr, 'not an address with a prefix length');

function orNull<T>(value: T | null | undefined): T | null {
  return value === undefined || value === '' ? null : value;
}

export const optionalAddressSchema = z
  .string()
  .refine((text) => text === '' || familyOf(text) !== 0, 'not an IP address')
  .nullish()
  .transform(orNull);

export const optionalIntegerSchema = z.int().min(0).max(0xffff_ffff).nullish().transform(orNull);

export function optionalTextSchema(longest: number): z.ZodType<string | null> {
  return z.string().max(longest).nullish().transform(orNull);
}

/** The longest that a name of the DNS, or an option of resolv.conf, has any use for. */
const longestDnsText = 255;
const dnsTexts = z
  .array(z.string().max(longestDnsText))
  .max(64)
  .nullish()
  .transform((texts) => texts ?? []);

export const mostAddresses = 64;

export const routesSchema: z.ZodType<readonly IpamRoute[]> = z
  .array(
    z.object({
      dst: cidrSchema,
      gw: optionalAddressSchema,
      mtu: optionalIntegerSchema,
      advmss: optionalIntegerSchema,
      priority: optionalIntegerSchema,
      table: optionalIntegerSchema,
      scope: optionalIntegerSchema,
    }),
  )
  .max(1024)
  .nullish()
  .transform((routes) => routes ?? []);

export const dnsSchema: z.ZodType<IpamDns | null> = z
  .object({
    nameservers: dnsTexts,
    domain: optionalTextSchema(longestDnsText),
    search: dnsTexts,
    options: dnsTexts,
  })
  .nullish()
  .transform(orNull);
