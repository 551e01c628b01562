/** From stdin and variables to what shall be attached. Every mistake is named: key, value, what would be accepted. */
import type { z } from 'zod';
import { attachmentId, derivedMac, type AttachmentKey } from '../attachment/key.ts';
import type { AttachmentSpec, IpamSpec } from '../attachment/spec.ts';
import { messageOf, VirtioUserError } from '../errors.ts';
import { pluginName } from '../ipam/result.ts';
import { isJsonObject, type JsonObject } from '../json.ts';
import { checkBackendPath, fillPlaceholders } from './backend-path.ts';
import { type CniEnvironment, parseArgs, podOf } from './environment.ts';
import type { Verb } from './frame.ts';
import { type CniVersion, netconfSchema, networkName, supportedVersions } from './netconf-schema.ts';
import {
  allocatedDevice,
  inside,
  requestedAddresses,
  requestedDeviceInfoPath,
  requestedMac,
  shown,
} from './pod-requests.ts';

const depthLimit = 32;
/** Mistakes named in one message. */
const namedFaults = 3;

export interface RawNetconf {
  readonly cniVersion: CniVersion;
  readonly name: string;
  readonly ipam: IpamSpec | null;
  readonly json: JsonObject;
}

function isNested(value: unknown): value is Readonly<Record<string, unknown>> | readonly unknown[] {
  return typeof value === 'object' && value !== null;
}

/** Not recursive: what is judged here is not trusted yet. */
function isDeeperThan(limit: number, root: unknown): boolean {
  let level: unknown[] = [root];
  for (let depth = 0; level.length > 0; depth++) {
    if (depth > limit) return true;
    level = level.flatMap((value) => (isNested(value) ? Object.values(value).filter(isNested) : []));
  }
  return false;
}

/** The version that errors speak when the caller's is not known. */
const fallbackVersion: CniVersion = '1.0.0';

function versionOf(json: JsonObject): CniVersion | null {
  return supportedVersions.find((version) => version === json['cniVersion']) ?? null;
}

/** The cniVersion to answer in, from anything. */
export function answerVersion(stdin: string): CniVersion {
  const json = objectOrNull(stdin);
  return (json === null ? null : versionOf(json)) ?? fallbackVersion;
}

/** Of whatever came on stdin: the network it says it means, or ''. */
export function networkNameOf(stdin: string): string {
  const name = objectOrNull(stdin)?.['name'];
  return typeof name === 'string' ? name : '';
}

function objectOrNull(stdin: string): JsonObject | null {
  try {
    const value: unknown = JSON.parse(stdin);
    return isJsonObject(value) ? value : null;
  } catch {
    return null;
  }
}

/**
 * What every verb needs. DEL takes what it can get: a configuration that was edited, or was never right, must not keep
 * a pod from going away.
 * @throws INPUT_DECODE, INPUT_VERSION, CONFIG_INVALID
 */
export function parseRawNetconf(stdin: string, verb: Verb): RawNetconf {
  const json = parseObject(stdin);
  const cniVersion = versionOf(json) ?? (verb === 'DEL' ? fallbackVersion : null);
  if (cniVersion === null) {
    throw new VirtioUserError(
      'INPUT_VERSION',
      `cniVersion: ${shown(json['cniVersion'])} is not supported; accepted: ${supportedVersions.join(', ')}`,
    );
  }
  const name = json['name'];
  if (typeof name !== 'string' || !networkName.test(name)) {
    throw new VirtioUserError(
      'CONFIG_INVALID',
      `name: ${shown(name)}; accepted: the name of a network, letters, digits, ".", "_", "-", at most 128, starting with a letter or digit`,
      { details: { key: 'name' } },
    );
  }
  return { cniVersion, name, ipam: ipamOf(json, stdin, verb), json };
}

function parseObject(stdin: string): JsonObject {
  let json: unknown;
  try {
    json = JSON.parse(stdin);
  } catch (error) {
    throw new VirtioUserError('INPUT_DECODE', `the network configuration on stdin is not JSON: ${messageOf(error)}`);
  }
  if (!isJsonObject(json))
    throw new VirtioUserError('INPUT_DECODE', 'the network configuration on stdin is not a JSON object');
  if (isDeeperThan(depthLimit, json))
    throw new VirtioUserError('INPUT_DECODE', `the network configuration is nested deeper than ${depthLimit}`);
  return json;
}

function ipamOf(json: JsonObject, stdin: string, verb: Verb): IpamSpec | null {
  const ipam = json['ipam'];
  if (ipam === undefined || ipam === null || (isJsonObject(ipam) && Object.keys(ipam).length === 0)) return null;
  const type = isJsonObject(ipam) ? ipam['type'] : undefined;
  if (typeof type === 'string' && pluginName.test(type)) return { type, netconf: stdin };
  if (verb === 'DEL') return null;
  const [key, value] = isJsonObject(ipam) ? ['ipam.type', type] : ['ipam', ipam];
  throw new VirtioUserError(
    'CONFIG_INVALID',
    `${key}: ${shown(value)}; accepted: ${key === 'ipam' ? 'an object with a type' : 'the name of an IPAM plugin'}`,
    { details: { key } },
  );
}

export interface NetconfOptions {
  readonly nodeName: string;
  readonly runDir: string;
  /** Directories in which a backend's socket may lie. */
  readonly backendDirs: readonly string[];
  /** Where OVS makes the sockets of `dpdkvhostuser` ports. */
  readonly ovsSocketDir: string;
  /** Where Multus has devices described. */
  readonly deviceInfoDir: string;
}

/** @throws CONFIG_UNSUPPORTED, CONFIG_INVALID, SOCKET_PATH, INPUT_ENVIRONMENT (MAC of CNI_ARGS) */
export function attachmentSpec(raw: RawNetconf, environment: CniEnvironment, options: NetconfOptions): AttachmentSpec {
  const parsed = netconfSchema.safeParse(raw.json);
  if (!parsed.success) throw unsupported(parsed.error, raw.json);
  const { backend, device, ovs } = parsed.data;
  const { containerId, ifName } = environment;
  const key: AttachmentKey = { networkName: raw.name, containerId, ifName };
  const id = attachmentId(key);
  const args = parseArgs(environment.args);
  const pod = podOf(args);
  const placeholders = new Map([
    ['id', id],
    ['containerID', containerId],
    ['ifName', ifName],
    ['podName', pod?.name ?? ''],
    ['podNamespace', pod?.namespace ?? ''],
    ['deviceID', allocatedDevice(raw.json)],
  ]);
  // OVS names the socket of a dpdkvhostuser port after the port, in a directory of its own.
  const ovsPath = ovs !== undefined && !backend.server ? `${options.ovsSocketDir}/${id}` : null;
  const path =
    backend.path === undefined
      ? (ovsPath ?? `${options.runDir}/vhost/${id}.sock`)
      : fillPlaceholders(backend.path, placeholders);
  if (ovsPath !== null && path !== ovsPath) {
    throw new VirtioUserError(
      'CONFIG_INVALID',
      `backend.path: ${shown(backend.path)} contradicts ovs with backend.server false, where OVS makes the socket; accepted: no path, or ${shown(`${options.ovsSocketDir}/{id}`)}`,
      { details: { key: 'backend.path' } },
    );
  }
  checkBackendPath(path, options.backendDirs);
  return {
    key,
    netnsPath: environment.netnsPath,
    pod,
    cniArgs: environment.args,
    cniPath: environment.path,
    backend: { ...backend, path },
    device: { ...device, mac: requestedMac(raw.json, args, device.mac) ?? derivedMac(options.nodeName, key) },
    ovs: ovs === undefined ? null : { bridge: ovs.bridge, vlan: ovs.vlan ?? null },
    ipam: raw.ipam,
    addresses: raw.ipam === null ? requestedAddresses(raw.json, args) : [],
    deviceInfoPath: requestedDeviceInfoPath(raw.json, containerId, options.deviceInfoDir),
  };
}

function unsupported(error: z.ZodError, json: JsonObject): VirtioUserError {
  const faults = error.issues.map((issue) => {
    const path = issue.path.map(String);
    if (issue.code !== 'unrecognized_keys') {
      return { key: path.join('.'), text: `${path.join('.')}: ${shown(inside(json, issue.path))}; ${issue.message}` };
    }
    const key = [...path, (issue.keys[0] ?? '').slice(0, 80)].join('.');
    return {
      key,
      text: `${key}: ${shown(inside(json, [...issue.path, issue.keys[0] ?? '']))} is of an unknown key; ${issue.message}`,
    };
  });
  return new VirtioUserError(
    'CONFIG_UNSUPPORTED',
    faults
      .slice(0, namedFaults)
      .map(({ text }) => text)
      .join('; '),
    { details: { key: faults[0]?.key ?? '', faults: faults.length } },
  );
}
