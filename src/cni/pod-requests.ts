/**
 * What a pod asks for beside its network's configuration: `runtimeConfig` (the capabilities that the configuration
 * declares), then `args.cni`, then CNI_ARGS; an empty value counts as none. Whoever may write a NetworkAttachmentDefinition
 * may write all of it, so nothing here is trusted.
 */
import { z } from 'zod';
import { deviceInfoName } from '../attachment/device-info.ts';
import { type ErrorCode, VirtioUserError } from '../errors.ts';
import { canonicalCidr, isCidr } from '../ipam/cidr.ts';
import type { JsonObject } from '../json.ts';
import { macAddress } from './netconf-schema.ts';

/** Capabilities worth declaring; docs/configuration.md says what each does. */
export const capabilities = [
  'mac',
  'ips',
  'deviceID',
  'CNIDeviceInfoFile',
  'io.kubernetes.cri.pod-annotations',
] as const;

const mostAddresses = 64;

const addressList = z
  .array(
    z
      .string({ error: 'accepted: an address with its prefix length, such as "10.78.0.23/24"' })
      .refine(isCidr, { error: 'accepted: an address with its prefix length, such as "10.78.0.23/24"' }),
    { error: 'accepted: a list of addresses' },
  )
  .max(mostAddresses, { error: `accepted: at most ${mostAddresses} addresses` });

/** A value as somebody wrote it, bounded. Values are never deeper than the depth limit of the configuration. */
export function shown(value: unknown): string {
  if (value === undefined) return 'missing';
  const text = JSON.stringify(value);
  return text.length <= 80 ? text : `${text.slice(0, 80)}…`;
}

export function inside(json: JsonObject, path: readonly PropertyKey[]): unknown {
  const has = (at: unknown, step: PropertyKey): at is Readonly<Record<PropertyKey, unknown>> =>
    typeof at === 'object' && at !== null && Object.hasOwn(at, step);
  return path.reduce<unknown>((at, step) => (has(at, step) ? at[step] : undefined), json);
}

interface Candidate {
  readonly source: string;
  readonly value: unknown;
  readonly code: ErrorCode;
}

function firstGiven(candidates: readonly Candidate[]): Candidate | null {
  const isGiven = ({ value }: Candidate): boolean =>
    value !== undefined && value !== null && value !== '' && !(Array.isArray(value) && value.length === 0);
  return candidates.find(isGiven) ?? null;
}

function candidate(json: JsonObject, ...path: string[]): Candidate {
  return { source: path.join('.'), value: inside(json, path), code: 'CONFIG_UNSUPPORTED' };
}

function parsed<T>(schema: z.ZodType<T>, { source, value, code }: Candidate): T {
  const outcome = schema.safeParse(value);
  if (outcome.success) return outcome.data;
  throw new VirtioUserError(code, `${source}: ${shown(value)}; ${outcome.error.issues[0]?.message ?? ''}`, {
    details: { key: source },
  });
}

/** Before all of these comes none but a derived one. Lower-case. @throws CONFIG_UNSUPPORTED, INPUT_ENVIRONMENT */
export function requestedMac(json: JsonObject, args: ReadonlyMap<string, string>, configured?: string): string | null {
  const wanted = firstGiven([
    candidate(json, 'runtimeConfig', 'mac'),
    candidate(json, 'args', 'cni', 'mac'),
    { source: 'CNI_ARGS MAC', value: args.get('MAC'), code: 'INPUT_ENVIRONMENT' },
    { source: 'device.mac', value: configured, code: 'CONFIG_UNSUPPORTED' },
  ]);
  return wanted === null ? null : parsed(macAddress, wanted).toLowerCase();
}

/** Where an IPAM plugin is named it reads the same keys by itself. @throws CONFIG_UNSUPPORTED, INPUT_ENVIRONMENT */
export function requestedAddresses(json: JsonObject, args: ReadonlyMap<string, string>): readonly string[] {
  const fromArgs = (args.get('IP') ?? '').split(',').filter((text) => text !== '');
  const wanted = firstGiven([
    candidate(json, 'runtimeConfig', 'ips'),
    candidate(json, 'args', 'cni', 'ips'),
    { source: 'CNI_ARGS IP', value: fromArgs, code: 'INPUT_ENVIRONMENT' },
  ]);
  return wanted === null ? [] : [...new Set(parsed(addressList, wanted).map(canonicalCidr))];
}

/**
 * What a device plugin or DRA allocated, for `{deviceID}` in paths. Multus adds the top-level key unasked. Opaque, and
 * judged only where it would become part of a path.
 */
export function allocatedDevice(json: JsonObject): string {
  const wanted = firstGiven([candidate(json, 'runtimeConfig', 'deviceID'), candidate(json, 'deviceID')]);
  return typeof wanted?.value === 'string' ? wanted.value : '';
}

/**
 * Multus makes the name of network, container and interface; that of the container must be in it, or a network's author
 * could have the file of another pod written and removed.
 * @throws CONFIG_UNSUPPORTED
 */
export function requestedDeviceInfoPath(json: JsonObject, containerId: string, directory: string): string | null {
  const wanted = firstGiven([candidate(json, 'runtimeConfig', 'CNIDeviceInfoFile')]);
  if (wanted === null) return null;
  const { value, source, code } = wanted;
  const name = typeof value === 'string' ? deviceInfoName(value, directory) : null;
  if (typeof value === 'string' && name?.includes(containerId) === true) return value;
  throw new VirtioUserError(
    code,
    `${source}: ${shown(value)}; accepted: a file of ${directory} whose name contains the container's id`,
    { details: { key: source } },
  );
}
