/**
 * The result that a runtime hands on from the plugins before us in a list (CNI 1.1.0, "ADD"). Its versions differ only
 * in keys that are left out, so one reading serves all. What it says is others' word: validated and bounded before
 * anything is attached.
 */
import { z } from 'zod';
import { VirtioUserError } from '../errors.ts';
import type { IpamAddress, IpamDns, IpamRoute } from '../ipam/result.ts';
import {
  cidrSchema,
  dnsSchema,
  mostAddresses,
  optionalAddressSchema,
  optionalIntegerSchema,
  optionalTextSchema,
  routesSchema,
} from '../ipam/result-parts.ts';
import type { JsonObject } from '../json.ts';
import { inside, shown } from './pod-requests.ts';

export interface ResultInterface {
  readonly name: string;
  readonly mac: string | null;
  readonly mtu: number | null;
  readonly sandbox: string | null;
  readonly socketPath: string | null;
  readonly pciID: string | null;
}

export interface ResultAddress extends IpamAddress {
  /** Index into the interfaces. */
  readonly interface: number | null;
}

export interface PrevResult {
  readonly interfaces: readonly ResultInterface[];
  readonly ips: readonly ResultAddress[];
  readonly routes: readonly IpamRoute[];
  readonly dns: IpamDns | null;
}

export const noPrevResult: PrevResult = { interfaces: [], ips: [], routes: [], dns: null };

const longestPath = 4_096;
const mostInterfaces = 64;
/** Ours must find room beside it in an answer, which has at most 1 MiB. */
const mostBytes = 256 * 1024;

const interfaceSchema = z.object({
  name: z.string().max(255),
  mac: optionalTextSchema(64),
  mtu: optionalIntegerSchema,
  sandbox: optionalTextSchema(longestPath),
  socketPath: optionalTextSchema(longestPath),
  pciID: optionalTextSchema(255),
});

const addressSchema = z.object({
  address: cidrSchema,
  gateway: optionalAddressSchema,
  interface: optionalIntegerSchema,
});

const prevResultSchema = z
  .object({
    interfaces: z
      .array(interfaceSchema)
      .max(mostInterfaces)
      .nullish()
      .transform((interfaces) => interfaces ?? []),
    ips: z
      .array(addressSchema)
      .max(mostAddresses)
      .nullish()
      .transform((ips) => ips ?? []),
    routes: routesSchema,
    dns: dnsSchema,
  })
  .superRefine(({ interfaces, ips }, context) => {
    // It would come to mean an interface of ours.
    const astray = ips.findIndex((ip) => ip.interface !== null && ip.interface >= interfaces.length);
    if (astray >= 0) {
      const message = `not the index of one of its ${interfaces.length} interfaces`;
      context.addIssue({ code: 'custom', path: ['ips', astray, 'interface'], message });
    }
  });

/** @throws CONFIG_INVALID */
export function parsePrevResult(json: JsonObject): PrevResult {
  const value = json['prevResult'];
  if (value === undefined || value === null) return noPrevResult;
  const { data, error } = prevResultSchema.safeParse(value);
  if (error !== undefined) {
    const { path = [], message = '' } = error.issues[0] ?? {};
    const key = ['prevResult', ...path.map(String)].join('.');
    throw new VirtioUserError('CONFIG_INVALID', `${key}: ${shown(inside(json, ['prevResult', ...path]))}; ${message}`, {
      details: { key },
    });
  }
  const bytes = Buffer.byteLength(JSON.stringify(data));
  if (bytes > mostBytes) {
    throw new VirtioUserError('CONFIG_INVALID', `prevResult: ${bytes} bytes; accepted: at most ${mostBytes}`, {
      details: { key: 'prevResult' },
    });
  }
  return data;
}
