/** Schema of the keys that are ours; published as JSON Schema. Runtimes and Multus add top-level keys: those pass. */
import { z } from 'zod';

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
  const accepted = `accepted: an integer from ${low} to ${high}`;
  return z.int({ error: accepted }).min(low, { error: accepted }).max(high, { error: accepted });
}

const flag = z.boolean({ error: 'accepted: true or false' });

/** Lower-case, unicast, not zero. */
export const macAddress = z
  .string({ error: 'accepted: a MAC address such as "02:00:00:00:00:01"' })
  .regex(/^[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){5}$/, { error: 'accepted: a MAC address such as "02:00:00:00:00:01"' })
  .refine((text) => (Number.parseInt(text.slice(0, 2), 16) & 1) === 0 && !/^0+$/.test(text.replaceAll(':', '')), {
    error: 'accepted: a unicast MAC address that is not zero',
  });

const queueSizes = [64, 128, 256, 512, 1024, 2048, 4096];

const backend = z.strictObject({
  type: only('vhost-user', ['vhost-kernel', 'vhost-vdpa']).default('vhost-user'),
  path: z
    .string({ error: 'accepted: an absolute path' })
    .regex(/^\//, { error: 'accepted: an absolute path' })
    .optional(),
  server: flag.default(true),
  wait: z.enum(['optional', 'required'], { error: 'accepted: "optional" or "required"' }).default('optional'),
  waitTimeoutMs: integer(0, 60_000).default(5_000),
});

const device = z.strictObject({
  queues: integer(1, 16).default(1),
  queueSize: z
    .int({ error: 'accepted: a power of two from 64 to 4096' })
    .refine((value) => queueSizes.includes(value), { error: 'accepted: a power of two from 64 to 4096' })
    .default(1024),
  cq: flag.default(true),
  mac: macAddress.optional(),
  mrgRxbuf: flag.default(true),
  inOrder: flag.default(true),
  packedVq: z
    .literal(false, {
      error: ({ input }) => (input === true ? `true is ${later}; accepted: false` : 'accepted: false'),
    })
    .default(false),
  mtu: integer(68, 65_521).default(1_500),
  memory: z.enum(['memfd', 'hugetlb', 'thp'], { error: 'accepted: "memfd", "hugetlb" or "thp"' }).default('memfd'),
});

const pod = z.strictObject({ interface: only('netdev', ['vhost-user']).default('netdev') });

const ovs = z.strictObject({
  bridge: z
    .string({ error: 'accepted: the name of a bridge' })
    .regex(/^[A-Za-z0-9][A-Za-z0-9_.-]{0,14}$/, { error: 'accepted: the name of a bridge, at most 15 characters' }),
  vlan: integer(1, 4094).optional(),
});

/** All of the netconf that we read. */
export const netconfSchema = z.looseObject({
  backend: backend.prefault({}),
  device: device.prefault({}),
  pod: pod.prefault({}),
  ovs: ovs.optional(),
});

export type Netconf = z.output<typeof netconfSchema>;

/** JSON Schema (draft 2020-12) of a network configuration of type `virtio-user`. */
export function netconfJsonSchema(): object {
  return {
    ...z.toJSONSchema(netconfSchema, { io: 'input', unrepresentable: 'any' }),
    title: 'CNI network configuration of type virtio-user',
  };
}
