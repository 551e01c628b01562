/**
 * Fuzz of the network configuration: well-formed JSON that is wrong in every way, and text that is hardly JSON. Whatever
 * comes, the answer is a spec within its bounds or an error of the caller's. Time-boxed: FUZZ_SECONDS, default 2;
 * VIRTIO_USER_FUZZ_SEED repeats a run.
 */
import { describe, expect, it } from '@jest/globals';
import { parseEnvironment } from '../../src/cni/environment.ts';
import { cniError } from '../../src/cni/error.ts';
import type { AttachmentSpec } from '../../src/attachment/spec.ts';
import { encodeAnswer } from '../../src/cni/frame.ts';
import { answerVersion, attachmentSpec, parseRawNetconf, type RawNetconf } from '../../src/cni/netconf.ts';
import { supportedVersions } from '../../src/cni/netconf-schema.ts';
import { parsePrevResult } from '../../src/cni/prev-result.ts';
import { renderResult } from '../../src/cni/result.ts';
import { removeRequest } from '../../src/cni/verbs.ts';
import { isCidr } from '../../src/ipam/cidr.ts';
import { VirtioUserError } from '../../src/errors.ts';
import { pick, type Random, randomBelow, seededRandom } from '../support/random.ts';
import { recordedCall, recordedCallNames } from '../support/recorded-call.ts';
import { bareResult } from '../support/recording-attachments.ts';

const budgetMs = Number(process.env['FUZZ_SECONDS'] ?? 2) * 1000;
const seed = Number(process.env['VIRTIO_USER_FUZZ_SEED'] ?? Date.now() % 0x1_0000_0000);

const options = {
  nodeName: 'node',
  runDir: '/run/virtio-user',
  backendDirs: ['/run/virtio-user/vhost', '/run/openvswitch'],
  ovsSocketDir: '/run/openvswitch',
  deviceInfoDir: '/var/run/k8s.cni.cncf.io/devinfo/cni',
};
const callersFaults = [
  'INPUT_DECODE',
  'INPUT_VERSION',
  'INPUT_ENVIRONMENT',
  'CONFIG_UNSUPPORTED',
  'CONFIG_INVALID',
  'SOCKET_PATH',
];

const seeds = [
  ...recordedCallNames.map((name) => recordedCall(name).stdin),
  JSON.stringify({
    cniVersion: '1.1.0',
    name: 'net',
    type: 'virtio-user',
    backend: { type: 'vhost-user', path: '/run/openvswitch/{id}', server: false, wait: 'required', waitTimeoutMs: 10 },
    device: { queues: 2, queueSize: 256, cq: true, mac: '02:00:00:00:00:01', mtu: 9000, memory: 'memfd' },
    pod: { interface: 'netdev' },
    ovs: { bridge: 'br0', vlan: 5 },
    args: { cni: { mac: '02:00:00:00:00:02' } },
    ipam: { type: 'host-local' },
  }),
  JSON.stringify({
    cniVersion: '1.0.0',
    name: 'net',
    deviceID: 'port-7',
    backend: { path: '/run/openvswitch/{deviceID}' },
    runtimeConfig: {
      mac: '02:00:00:00:00:03',
      ips: ['10.78.0.5/24', 'fd78::5/64'],
      deviceID: '0000:03:00.1',
      CNIDeviceInfoFile: `/var/run/k8s.cni.cncf.io/devinfo/cni/net-${recordedCall('add').env['CNI_CONTAINERID']}_eth0`,
    },
  }),
  JSON.stringify({
    cniVersion: '0.4.0',
    name: 'net',
    prevResult: {
      cniVersion: '0.4.0',
      interfaces: [{ name: 'first0', mac: '02:00:00:00:00:04', sandbox: '/run/netns/x' }],
      ips: [{ version: '4', address: '10.1.1.2/24', gateway: '10.1.1.1', interface: 0 }],
      routes: [{ dst: '0.0.0.0/0', gw: '10.1.1.1' }],
      dns: { nameservers: ['10.1.1.53'] },
    },
  }),
];

const words: readonly string[] = [
  ...[
    'backend',
    'device',
    'pod',
    'ovs',
    'type',
    'path',
    'queues',
    'queueSize',
    'mac',
    'mtu',
    'cq',
    'ipam',
    'runtimeConfig',
    'ips',
    'deviceID',
    'CNIDeviceInfoFile',
    'prevResult',
    'interfaces',
    'interface',
    'routes',
    'dns',
  ],
  ...['__proto__', 'constructor', 'toString', 'hasOwnProperty', 'length', 'then', 'toJSON', ''],
  ...[
    'vhost-user',
    'vhost-kernel',
    '/run/openvswitch/x',
    '/run/openvswitch/../x',
    '{id}',
    '{__proto__}',
    '\u0000',
    '\ud800',
    '💥',
  ],
  ...supportedVersions,
];

function randomValue(random: Random, depth: number): unknown {
  switch (randomBelow(random, depth > 0 ? 9 : 6)) {
    case 0:
      return null;
    case 1:
      return random() < 0.5;
    case 2:
      return pick(random, [0, -1, 1, 2, 16, 64, 256, 1024, 1500, 4095, 65_536, 1.5, 1e308, -0, 2 ** 53]);
    case 3:
    case 4:
      return pick(random, words);
    case 5:
      return pick(random, words).repeat(1 + randomBelow(random, 300));
    case 6:
      return Array.from({ length: randomBelow(random, 5) }, () => randomValue(random, depth - 1));
    case 7:
      return randomObject(random, depth - 1);
    default:
      return Array.from({ length: randomBelow(random, 60) }).reduce<unknown>((inner) => [inner], 0);
  }
}

function randomObject(random: Random, depth: number): unknown {
  // Through text, so that `__proto__` is a key like any other.
  const pairs = Array.from(
    { length: randomBelow(random, 6) },
    () => `${JSON.stringify(pick(random, words))}:${JSON.stringify(randomValue(random, depth))}`,
  );
  return JSON.parse(`{${pairs.join(',')}}`);
}

/** Replaces, adds or removes something somewhere. */
function mutate(random: Random, value: unknown, depth = 4): unknown {
  if (depth === 0 || typeof value !== 'object' || value === null || random() < 0.2) return randomValue(random, 3);
  const entries: [string, unknown][] = Object.entries(value);
  const at = randomBelow(random, entries.length + 1);
  const [key, inner] = entries[at] ?? [pick(random, words), null];
  if (random() < 0.1) entries.splice(at, 1);
  else entries[at] = [key, mutate(random, inner, depth - 1)];
  return Object.fromEntries(entries);
}

function mutateText(random: Random, text: string): string {
  const at = randomBelow(random, text.length);
  const end = at + randomBelow(random, 10);
  return (
    text.slice(0, at) +
    pick(random, [...words, '"', '{', '[', ']', '}', ',', '\\u', '1e999', '\ufeff']) +
    text.slice(end)
  );
}

function randomNetconf(random: Random): string {
  const text = pick(random, seeds);
  const kind = randomBelow(random, 4);
  if (kind === 0) return mutateText(random, text);
  if (kind === 1) return JSON.stringify(randomObject(random, 4));
  return JSON.stringify(mutate(random, mutate(random, JSON.parse(text))));
}

/** After the plugins that the configuration says were before us. */
function answerOf(spec: AttachmentSpec, raw: RawNetconf): unknown {
  return renderResult(bareResult(spec), raw.cniVersion, parsePrevResult(raw.json));
}

describe('the network configuration', () => {
  const { env } = recordedCall('add');
  const environment = parseEnvironment('ADD', new Map(Object.entries(env)));

  it(
    `is a spec within bounds or the caller's fault, for ${budgetMs} ms (seed ${seed})`,
    () => {
      const random = seededRandom(seed);
      const outcomes = new Map<string, number>();
      const until = performance.now() + budgetMs;
      do {
        const stdin = randomNetconf(random);
        let outcome = 'spec';
        try {
          const raw = parseRawNetconf(stdin, 'ADD');
          const spec = attachmentSpec(raw, environment, options);
          const answer = encodeAnswer({ exitCode: 0, body: JSON.stringify(answerOf(spec, raw)) });
          expect(answer.toString()).not.toContain('null');
          expect(spec.backend.path).toMatch(/^\/run\/(virtio-user\/vhost|openvswitch)\/[^\0]{1,90}$/u);
          expect(spec.backend.path).not.toContain('..');
          expect(spec.device.mac).toMatch(/^[\da-f][02468ace](:[\da-f]{2}){5}$/);
          if (spec.deviceInfoPath !== null)
            expect(spec.deviceInfoPath).toMatch(/^(\/var)?\/run\/k8s\.cni\.cncf\.io\/devinfo\/cni\/[\w:@.-]+$/);
          expect(spec.addresses.filter((address) => !isCidr(address))).toEqual([]);
          expect(spec.device.queues).toBeLessThanOrEqual(128);
          expect(spec.device.mtu).toBeLessThanOrEqual(65_521);
          expect(Number.isInteger(Math.log2(spec.device.queueSize))).toBe(true);
        } catch (error) {
          if (!(error instanceof VirtioUserError)) throw new Error(`on ${stdin.slice(0, 2000)}`, { cause: error });
          expect([stdin, callersFaults.includes(error.code)]).toEqual([stdin, true]);
          expect(Buffer.byteLength(cniError(error, 'ADD').msg)).toBeLessThanOrEqual(1024);
          outcome = error.code;
        }
        outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
        expect(supportedVersions).toContain(answerVersion(stdin));
      } while (performance.now() < until);
      for (const outcome of ['spec', 'INPUT_DECODE', 'INPUT_VERSION', 'CONFIG_UNSUPPORTED', 'CONFIG_INVALID']) {
        expect([outcome, outcomes.get(outcome) ?? 0]).not.toEqual([outcome, 0]);
      }
    },
    budgetMs + 30_000,
  );

  it('never keeps DEL from knowing what to remove, as long as it is JSON with a name', () => {
    const random = seededRandom(seed);
    const until = performance.now() + budgetMs / 4;
    do {
      const mutated = mutate(random, JSON.parse(pick(random, seeds)));
      if (typeof mutated !== 'object' || mutated === null || Array.isArray(mutated)) continue;
      const stdin = JSON.stringify({ ...mutated, name: 'net' });
      if (deepest(stdin) > 30) continue;
      expect(removeRequest(parseRawNetconf(stdin, 'DEL'), environment, 0).key.networkName).toBe('net');
    } while (performance.now() < until);
  });
});

function deepest(text: string): number {
  let depth = 0;
  let most = 0;
  for (const character of text.replaceAll(/"(\\.|[^"\\])*"/g, '')) {
    if (character === '{' || character === '[') most = Math.max(most, ++depth);
    else if (character === '}' || character === ']') depth--;
  }
  return most;
}
