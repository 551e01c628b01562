/**
 * Schema of the keys that are ours; published as JSON Schema. Runtimes and Multus add top-level keys: those pass. What
 * the parser refuses the published schema refuses too, as far as one file can tell (paths depend on the agent's options).
 */
import { z } from 'zod';
import { pluginName } from '../ipam/result.ts';

export const supportedVersions = ['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'] as const;
export type CniVersion = (typeof supportedVersions)[number];

/** CNI 1.1.0, "Network configuration"; the bound is ours. */
export const networkName = /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,127}$/;

/** A value that exists in the contract but not in this version. */
const later = 'not in this version';

function only<const Value extends string>(value: Value, laterValues: readonly string[]): z.ZodType<Value, Value> {
  return z.literal(value, {
    error: ({ input }) =>
      typeof input === 'string' && laterValues.includes(input)
        ? `${JSON.stringify(input)} is ${later}; accepted: ${JSON.stringify(value)}`
        : `accepted: ${JSON.stringify(value)}`,
  });
}

function integer(low: number, high: number): z.ZodNumber {
  const error = `accepted: an integer from ${low} to ${high}`;
  // Beyond 2^53 both checks would answer.
  return z.int({ error, abort: true }).min(low, { error }).max(high, { error });
}

/** An object of ours: nothing else may be in it. */
function strict<Shape extends z.core.$ZodLooseShape>(shape: Shape): z.ZodObject<Shape, z.core.$strict> {
  const accepted = `accepted: ${Object.keys(shape).join(', ')}`;
  return z.strictObject(shape, {
    error: ({ code }) =>
      code === 'unrecognized_keys' ? accepted : `accepted: an object with the keys ${accepted.slice(10)}`,
  });
}

const flag = z.boolean({ error: 'accepted: true or false' });

const zeroMac = '00:00:00:00:00:00';

/** Unicast and not zero, in either case; the second digit of a unicast address is even. */
export const macAddress = z
  .string({ error: 'accepted: a MAC address such as "02:00:00:00:00:01"' })
  .regex(/^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$/, {
    error: 'accepted: a MAC address such as "02:00:00:00:00:01"',
    abort: true,
  })
  .regex(/^[0-9a-fA-F][02468aceACE]/, { error: 'accepted: a unicast MAC address' })
  .refine((text) => text !== zeroMac, { error: 'accepted: a MAC address that is not zero' })
  .meta({ not: { const: zeroMac } });

/** An ADD has 55 s in all (cni/verb.c): IPAM and undo have room beside it, and the error names the backend. */
const longestWaitMs = 45_000;

const backend = strict({
  type: only('vhost-user', ['vhost-kernel', 'vhost-vdpa']).default('vhost-user'),
  path: z
    .string({ error: 'accepted: an absolute path' })
    .regex(/^\//, { error: 'accepted: an absolute path' })
    .meta({
      description:
        'Socket of the backend, below a directory of --backend-dirs, under 108 bytes; placeholders {id} {containerID} {ifName} {podName} {podNamespace} {deviceID}. Default: RUN_DIR/vhost/{id}.sock',
    })
    .optional(),
  server: flag.meta({ description: 'true: we listen and the switch connects' }).default(true),
  wait: z.enum(['optional', 'required'], { error: 'accepted: "optional" or "required"' }).default('optional'),
  waitTimeoutMs: integer(0, longestWaitMs).default(5_000),
});

/** SET_VRING_KICK and _CALL name a ring in 8 bits, and a pair has two; DPDK's VHOST_MAX_QUEUE_PAIRS is the same. */
const mostQueuePairs = 128;

const severalQueuesNeedCq = 'accepted with several queues: true, since the control queue switches them';

const device = strict({
  queues: integer(1, mostQueuePairs).meta({ description: 'Queue pairs' }).default(1),
  queueSize: z
    .literal([64, 128, 256, 512, 1024, 2048, 4096], { error: 'accepted: a power of two from 64 to 4096' })
    .meta({ description: 'Entries per ring' })
    .default(1024),
  cq: flag.meta({ description: 'Control queue; needed by several queues' }).default(true),
  mac: macAddress.optional(),
  mrgRxbuf: flag.default(true),
  inOrder: flag.default(true),
  packedVq: flag.meta({ description: 'Packed rings where the backend has them' }).default(false),
  mtu: integer(68, 65_521).default(1_500),
  memory: z.enum(['memfd', 'hugetlb', 'thp'], { error: 'accepted: "memfd", "hugetlb" or "thp"' }).default('memfd'),
});

const consistentDevice = device
  .refine(({ queues, cq }) => queues === 1 || cq, { path: ['cq'], error: severalQueuesNeedCq })
  .meta({ not: { properties: { queues: { minimum: 2 }, cq: { const: false } }, required: ['queues', 'cq'] } });

const pod = strict({ interface: only('netdev', ['vhost-user']).default('netdev') });

const ovs = strict({
  bridge: z
    .string({ error: 'accepted: the name of a bridge' })
    .regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$/, { error: 'accepted: the name of a bridge, at most 15 characters' }),
  vlan: integer(1, 4094).optional(),
});

/** All of the netconf that only we read. */
export const netconfSchema = z.looseObject({
  backend: backend.prefault({}),
  device: consistentDevice.prefault({}),
  pod: pod.prefault({}),
  ovs: ovs.optional(),
});

/** JSON Schema (draft 2020-12) of a network configuration of type `virtio-user`, alone or as an entry of a list. */
export function netconfJsonSchema(): object {
  const published = netconfSchema.extend({
    cniVersion: z.enum(supportedVersions).optional(),
    name: z.string().regex(networkName).optional(),
    type: z.literal('virtio-user').optional(),
    ipam: z.looseObject({ type: z.string().regex(pluginName).optional() }).optional(),
  });
  return {
    ...z.toJSONSchema(published, { io: 'input', unrepresentable: 'any' }),
    title: 'CNI network configuration of type virtio-user',
  };
}
