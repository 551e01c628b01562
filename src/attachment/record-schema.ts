/** Reads a record from disk: whatever the file says is checked before it is used. */
import { z } from 'zod';
import { longestSocketPathBytes } from '../native/binding.ts';
import { type AttachmentRecord, recordVersion } from './record.ts';

const text = z.string().max(4096);
const name = z.string().min(1).max(512);

const mostQueues = 256;

const spec = z.object({
  key: z.object({ networkName: name, containerId: name, ifName: z.string().min(1).max(15) }),
  netnsPath: text,
  pod: z.object({ namespace: text, name: text, uid: text }).nullable(),
  cniArgs: z.string().max(65_536),
  cniPath: z.string().max(65_536),
  backend: z.object({
    type: z.literal('vhost-user'),
    path: z.string().startsWith('/').max(longestSocketPathBytes),
    server: z.boolean(),
    wait: z.enum(['optional', 'required']),
    waitTimeoutMs: z.int().min(0),
  }),
  device: z.object({
    queues: z.int().min(1).max(mostQueues),
    queueSize: z.int().min(64).max(4096),
    cq: z.boolean(),
    mac: z.string().regex(/^[0-9a-f]{2}(:[0-9a-f]{2}){5}$/),
    mrgRxbuf: z.boolean(),
    inOrder: z.boolean(),
    packedVq: z.boolean(),
    mtu: z.int().min(68).max(65_535),
    memory: z.enum(['memfd', 'hugetlb', 'thp']),
  }),
  ovs: z.object({ bridge: name, vlan: z.int().min(1).max(4094).nullable() }).nullable(),
  ipam: z.object({ type: name, netconf: z.string().max(4 << 20) }).nullable(),
  // Records of 0.1.0 have neither.
  addresses: z.array(text).max(256).default([]),
  deviceInfoPath: text.nullable().default(null),
});

const integer = z.int().nullable();
const result = z.object({
  ifName: name,
  netnsPath: text,
  mac: text,
  mtu: z.int(),
  socketPath: text,
  ovsPort: text.nullable(),
  ipam: z.object({
    ips: z.array(z.object({ address: text, gateway: text.nullable() })).max(256),
    routes: z
      .array(
        z.object({
          dst: text,
          gw: text.nullable(),
          mtu: integer,
          advmss: integer,
          priority: integer,
          table: integer,
          scope: integer,
        }),
      )
      .max(4096),
    dns: z
      .object({
        nameservers: z.array(text),
        domain: text.nullable(),
        search: z.array(text),
        options: z.array(text),
      })
      .nullable(),
  }),
});

// Absent from records that are older than the wish; all pairs are what they had.
const wantedPairs = z.int().min(1).max(mostQueues).nullable().default(null);

const common = {
  version: z.literal(recordVersion),
  id: z.string().regex(/^vu[0-9a-f]{12}$/),
  bootId: text,
  createdAtMs: z.number(),
  spec,
  netns: z.object({ device: z.string().regex(/^\d+$/), inode: z.string().regex(/^\d+$/) }),
  requestId: text.nullable().default(null),
};

const record = z.discriminatedUnion('phase', [
  z.object({ ...common, phase: z.literal('creating') }),
  z.object({ ...common, phase: z.literal('ready'), ifindex: z.int().min(1), result, wantedPairs }),
  z.object({ ...common, phase: z.literal('deleting'), ifindex: z.int().min(1).nullable() }),
]);

/** @returns the record, or why it is none */
export function parseRecord(json: string): { readonly record: AttachmentRecord } | { readonly reason: string } {
  let value: unknown;
  try {
    value = JSON.parse(json);
  } catch (error) {
    return { reason: `not JSON: ${String(error)}` };
  }
  if (typeof value === 'object' && value !== null && 'version' in value && value.version !== recordVersion) {
    return { reason: `record version ${String(value.version)}, this agent reads ${recordVersion}` };
  }
  const parsed = record.safeParse(value);
  return parsed.success ? { record: parsed.data } : { reason: z.prettifyError(parsed.error).replaceAll('\n', '; ') };
}
