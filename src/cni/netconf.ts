/** From stdin and variables to what shall be attached. Every mistake is named: key, value, what would be accepted. */
import { normalize } from 'node:path';
import { z } from 'zod';
import { attachmentId, derivedMac, type AttachmentKey } from '../attachment/key.ts';
import type { AttachmentSpec, IpamSpec } from '../attachment/spec.ts';
import { messageOf, VirtioUserError } from '../errors.ts';
import { type CniEnvironment, parseArgs, podOf } from './environment.ts';
import { macAddress, netconfSchema } from './netconf-schema.ts';
import type { Verb } from './frame.ts';

export const supportedVersions = ['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'] as const;
export type CniVersion = (typeof supportedVersions)[number];

const depthLimit = 32;

type JsonObject = Readonly<Record<string, unknown>>;

function isObject(value: unknown): value is JsonObject {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

export interface RawNetconf {
  readonly cniVersion: CniVersion;
  readonly name: string;
  readonly ipam: IpamSpec | null;
  readonly json: JsonObject;
}

function depthOf(value: unknown, limit: number): number {
  if (typeof value !== 'object' || value === null) return 0;
  if (limit === 0) return 1;
  return 1 + Math.max(0, ...Object.values(value).map((child) => depthOf(child, limit - 1)));
}

/** The cniVersion to answer in, from anything. */
export function answerVersion(stdin: string): CniVersion {
  try {
    const value: unknown = JSON.parse(stdin);
    if (isObject(value)) return supportedVersions.find((version) => version === value['cniVersion']) ?? '1.0.0';
  } catch {
    // not JSON: any version will do
  }
  return '1.0.0';
}

/**
 * What every verb needs. DEL takes what it can get: nothing in here may keep a pod from going away.
 * @throws INPUT_DECODE, INPUT_VERSION, CONFIG_INVALID
 */
export function parseRawNetconf(stdin: string, verb: Verb): RawNetconf {
  let json: unknown;
  try {
    json = JSON.parse(stdin);
  } catch (error) {
    throw new VirtioUserError('INPUT_DECODE', `the network configuration on stdin is not JSON: ${messageOf(error)}`);
  }
  if (!isObject(json))
    throw new VirtioUserError('INPUT_DECODE', 'the network configuration on stdin is not a JSON object');
  if (depthOf(json, depthLimit) > depthLimit) {
    throw new VirtioUserError('INPUT_DECODE', `the network configuration is nested deeper than ${depthLimit}`);
  }
  const cniVersion = supportedVersions.find((version) => version === json['cniVersion']);
  if (cniVersion === undefined) {
    throw new VirtioUserError(
      'INPUT_VERSION',
      `cniVersion ${JSON.stringify(json['cniVersion'])} is not supported; accepted: ${supportedVersions.join(', ')}`,
    );
  }
  const name = json['name'];
  if (typeof name !== 'string' || !/^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$/.test(name)) {
    throw new VirtioUserError(
      'CONFIG_INVALID',
      `name: ${JSON.stringify(name) ?? 'missing'} is not the name of a network`,
      {
        details: { key: 'name' },
      },
    );
  }
  return { cniVersion, name, ipam: ipamOf(json, stdin, verb), json };
}

function ipamOf(json: JsonObject, stdin: string, verb: Verb): IpamSpec | null {
  const ipam = json['ipam'];
  if (ipam === undefined || ipam === null || (isObject(ipam) && Object.keys(ipam).length === 0)) return null;
  const type = isObject(ipam) ? ipam['type'] : undefined;
  if (typeof type === 'string' && /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/.test(type)) return { type, netconf: stdin };
  if (verb === 'DEL') return null;
  throw new VirtioUserError(
    'CONFIG_INVALID',
    `ipam.type: ${JSON.stringify(type) ?? 'missing'} is not the name of an IPAM plugin`,
    {
      details: { key: 'ipam.type' },
    },
  );
}

export interface NetconfOptions {
  readonly nodeName: string;
  readonly runDir: string;
  /** Directories in which a backend's socket may lie. */
  readonly backendDirs: readonly string[];
  /** Where OVS makes the sockets of `dpdkvhostuser` ports. */
  readonly ovsSocketDir: string;
}

/** @throws CONFIG_UNSUPPORTED, CONFIG_INVALID, SOCKET_PATH */
export function attachmentSpec(raw: RawNetconf, environment: CniEnvironment, options: NetconfOptions): AttachmentSpec {
  const parsed = netconfSchema.safeParse(raw.json);
  if (!parsed.success) throw unsupported(parsed.error, raw.json);
  const { backend, device, ovs } = parsed.data;
  const key: AttachmentKey = {
    networkName: raw.name,
    containerId: environment.containerId,
    ifName: environment.ifName,
  };
  const args = parseArgs(environment.args);
  const pod = podOf(args);
  const explicitDevice = raw.json['device'];
  if (device.queues > 1 && isObject(explicitDevice) && explicitDevice['cq'] === false) {
    throw new VirtioUserError(
      'CONFIG_UNSUPPORTED',
      `device.cq: false with device.queues ${device.queues}; accepted: true, since several queue pairs need the control queue`,
      {
        details: { key: 'device.cq' },
      },
    );
  }
  const id = attachmentId(key);
  const defaultPath =
    ovs !== undefined && !backend.server ? `${options.ovsSocketDir}/${id}` : `${options.runDir}/vhost/${id}.sock`;
  const path = resolvePath(backend.path ?? defaultPath, {
    id,
    containerID: environment.containerId,
    ifName: environment.ifName,
    podName: pod?.name ?? '',
    podNamespace: pod?.namespace ?? '',
  });
  checkPath(path, options.backendDirs);
  return {
    key,
    netnsPath: environment.netnsPath,
    pod,
    cniArgs: environment.args,
    cniPath: environment.path,
    backend: {
      type: backend.type,
      path,
      server: backend.server,
      wait: backend.wait,
      waitTimeoutMs: backend.waitTimeoutMs,
    },
    device: { ...device, mac: macOf(raw.json, args, device.mac, options.nodeName, key) },
    ovs: ovs === undefined ? null : { bridge: ovs.bridge, vlan: ovs.vlan ?? null },
    ipam: raw.ipam,
  };
}

/** runtimeConfig.mac, then args.cni.mac, then CNI_ARGS, then device.mac, then one derived from node and attachment. */
function macOf(
  json: JsonObject,
  args: ReadonlyMap<string, string>,
  configured: string | undefined,
  nodeName: string,
  key: AttachmentKey,
): string {
  const inside = (value: unknown, ...path: readonly string[]): unknown =>
    path.reduce<unknown>((at, step) => (isObject(at) ? at[step] : undefined), value);
  const candidates: readonly (readonly [string, unknown])[] = [
    ['runtimeConfig.mac', inside(json, 'runtimeConfig', 'mac')],
    ['args.cni.mac', inside(json, 'args', 'cni', 'mac')],
    ['CNI_ARGS MAC', args.get('MAC')],
    ['device.mac', configured],
  ];
  for (const [source, value] of candidates) {
    if (value === undefined || value === null || value === '') continue;
    const parsed = macAddress.safeParse(value);
    if (!parsed.success) {
      throw new VirtioUserError(
        'CONFIG_UNSUPPORTED',
        `${source}: ${JSON.stringify(value)}: ${parsed.error.issues[0]?.message ?? 'no MAC address'}`,
        {
          details: { key: source },
        },
      );
    }
    return parsed.data.toLowerCase();
  }
  return derivedMac(nodeName, key);
}

function resolvePath(template: string, values: Readonly<Record<string, string>>): string {
  return template.replaceAll(/\{([A-Za-z]*)\}/g, (whole, name: string) => {
    const value = values[name];
    if (value === undefined) {
      throw new VirtioUserError(
        'CONFIG_UNSUPPORTED',
        `backend.path: placeholder ${whole}; accepted: ${Object.keys(values)
          .map((key) => `{${key}}`)
          .join(' ')}`,
        {
          details: { key: 'backend.path' },
        },
      );
    }
    if (!/^[A-Za-z0-9._:-]+$/.test(value) || value.startsWith('.')) {
      throw new VirtioUserError(
        'CONFIG_UNSUPPORTED',
        `backend.path: ${whole} is ${JSON.stringify(value)} for this pod, which cannot be part of a path`,
        {
          details: { key: 'backend.path' },
        },
      );
    }
    return value;
  });
}

function checkPath(path: string, backendDirs: readonly string[]): void {
  const refused = (accepted: string): VirtioUserError =>
    new VirtioUserError('CONFIG_UNSUPPORTED', `backend.path: ${JSON.stringify(path)}; accepted: ${accepted}`, {
      details: { key: 'backend.path' },
    });
  if (normalize(path) !== path || path.endsWith('/') || path.includes('\0'))
    throw refused('a path without "..", "//" or a trailing "/"');
  if (!backendDirs.some((directory) => path.startsWith(`${directory.replace(/\/$/, '')}/`))) {
    throw refused(`a path below ${backendDirs.join(', ')}`);
  }
  if (Buffer.byteLength(path) > 107) {
    throw new VirtioUserError(
      'SOCKET_PATH',
      `backend.path: ${path} has ${Buffer.byteLength(path)} bytes; a socket path must stay under 108`,
      {
        details: { key: 'backend.path' },
      },
    );
  }
}

function unsupported(error: z.ZodError, json: JsonObject): VirtioUserError {
  const faults = error.issues.map((issue) => {
    const path = issue.path.map(String);
    if (issue.code === 'unrecognized_keys') {
      return `${[...path, issue.keys[0]].join('.')}: unknown key; accepted: ${acceptedKeys(path).join(', ')}`;
    }
    const value = path.reduce<unknown>((at, step) => (isObject(at) ? at[step] : undefined), json);
    return `${path.join('.')}: ${JSON.stringify(value)?.slice(0, 80) ?? 'missing'}; ${issue.message}`;
  });
  return new VirtioUserError('CONFIG_UNSUPPORTED', faults.slice(0, 3).join('; '), {
    details: { faults: faults.length },
  });
}

/** Keys of one of our objects, for the message about an unknown one. */
function acceptedKeys(path: readonly string[]): string[] {
  const schema = z.toJSONSchema(netconfSchema, { io: 'input', unrepresentable: 'any' }) as {
    properties?: Record<string, { properties?: Record<string, unknown> }>;
  };
  return Object.keys(schema.properties?.[path[0] ?? '']?.properties ?? {});
}
