import { describe, expect, it } from '@jest/globals';
import { parseRawNetconf } from '../../../src/cni/netconf.ts';
import { netconfJsonSchema, netconfSchema } from '../../../src/cni/netconf-schema.ts';
import { satisfies } from '../../support/json-schema.ts';
import { recordedCall, recordedCallNames } from '../../support/recorded-call.ts';

type Json = Readonly<Record<string, unknown>>;

const published = JSON.parse(JSON.stringify(netconfJsonSchema())) as Json;

/** Every value under every key of ours, right ones and wrong ones. */
const values: readonly unknown[] = [
  ...[
    -1, 0, 1, 1.5, 2, 16, 17, 63, 64, 65, 68, 100, 128, 129, 1024, 4094, 4095, 4096, 8192, 60_000, 60_001, 65_521,
    65_522, 1e300,
  ],
  ...[true, false, null, [], {}, ''],
  ...['vhost-user', 'vhost-kernel', 'vhost-vdpa', 'netdev', 'optional', 'required', 'memfd', 'hugetlb', 'thp', 'x'],
  ...['/', '/x', 'x/y', 'br-dpdk', '-br', 'a-name-of-sixteen', 'a-name-of-fifte', '256'],
  ...[
    '02:00:00:00:00:01',
    '02:00:00:00:00:0A',
    '01:00:00:00:00:01',
    '00:00:00:00:00:00',
    '00:00:00:00:00:01',
    '02:00',
    '02-00-00-00-00-01',
  ],
];
const keys: Readonly<Record<string, readonly string[]>> = {
  backend: ['type', 'path', 'server', 'wait', 'waitTimeoutMs', 'unknown'],
  device: ['queues', 'queueSize', 'cq', 'mac', 'mrgRxbuf', 'inOrder', 'packedVq', 'mtu', 'memory', 'unknown'],
  pod: ['interface', 'unknown'],
  ovs: ['bridge', 'vlan', 'unknown'],
};

const samples: readonly Json[] = [
  {},
  { foreign: { anything: [1] } },
  { device: { queues: 2, cq: false } },
  { device: { queues: 1, cq: false } },
  { device: { queues: 2, cq: true } },
  { device: { queues: 2 } },
  { device: { cq: false } },
  { ovs: { vlan: 5 } },
  ...Object.keys(keys).flatMap((object) => values.map((value) => ({ [object]: value }))),
  ...Object.entries(keys).flatMap(([object, names]) =>
    names.flatMap((name) =>
      values.map((value) => ({ [object]: { ...(object === 'ovs' ? { bridge: 'br' } : {}), [name]: value } })),
    ),
  ),
];

describe('the published schema', () => {
  it('agrees with the parser on every sample, and both accept and refuse many', () => {
    const verdicts = samples.map((sample) => ({
      sample,
      parser: netconfSchema.safeParse(sample).success,
      schema: satisfies(published, sample),
    }));
    expect(verdicts.filter(({ parser, schema }) => parser !== schema)).toEqual([]);
    const accepted = verdicts.filter(({ parser }) => parser).length;
    expect(accepted).toBeGreaterThan(80);
    expect(samples.length - accepted).toBeGreaterThan(500);
  });

  it('takes what runtimes send, and an entry of a list', () => {
    for (const name of recordedCallNames) expect(satisfies(published, JSON.parse(recordedCall(name).stdin))).toBe(true);
    expect(satisfies(published, { type: 'virtio-user', ipam: {}, capabilities: { mac: true } })).toBe(true);
  });

  it('refuses versions, names and IPAM types that the parser refuses', () => {
    for (const wrong of [{ cniVersion: '9.9.9' }, { name: 'a/b' }, { ipam: { type: '../x' } }]) {
      const netconf = { cniVersion: '1.0.0', name: 'n', ...wrong };
      expect(satisfies(published, netconf)).toBe(false);
      expect(() => parseRawNetconf(JSON.stringify(netconf), 'ADD')).toThrow();
    }
    expect(satisfies(published, { type: 'bridge' })).toBe(false);
  });

  it('names its dialect and states defaults', () => {
    expect(published).toMatchObject({
      $schema: 'https://json-schema.org/draft/2020-12/schema',
      properties: { device: { properties: { queueSize: { default: 1024 } } } },
    });
  });
});
