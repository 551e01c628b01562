/** Device options of a netconf: every value is in its range, or refused with key, value and range, before anything runs. */
import { describe, expect, it } from '@jest/globals';
import { type CniEnvironment, parseEnvironment } from '../../../src/cni/environment.ts';
import { attachmentSpec, parseRawNetconf } from '../../../src/cni/netconf.ts';
import { VirtioUserError } from '../../../src/errors.ts';
import { type Random, randomBelow, seededRandom } from '../../support/random.ts';
import { recordedCall } from '../../support/recorded-call.ts';

const options = {
  nodeName: 'node-1',
  runDir: '/run/virtio-user',
  backendDirs: ['/run/virtio-user/vhost'],
  ovsSocketDir: '/run/openvswitch',
  deviceInfoDir: '/var/run/k8s.cni.cncf.io/devinfo/cni',
};
const environment: CniEnvironment = parseEnvironment('ADD', new Map(Object.entries(recordedCall('add').env)));

/** @param device JSON text of the `device` object */
function parse(device: string) {
  const stdin = `{"cniVersion":"1.0.0","name":"net","type":"virtio-user","device":${device}}`;
  return attachmentSpec(parseRawNetconf(stdin, 'ADD'), environment, options).device;
}

function refusal(device: string): string {
  try {
    parse(device);
  } catch (error) {
    if (error instanceof VirtioUserError && error.code === 'CONFIG_UNSUPPORTED') return error.message;
    throw error;
  }
  throw new Error(`accepted: ${device}`);
}

interface NumberOption {
  readonly key: 'queues' | 'queueSize' | 'mtu';
  readonly accepted: string;
  readonly good: (value: number) => boolean;
  readonly edges: readonly number[];
}

const powers = [64, 128, 256, 512, 1024, 2048, 4096];
const numbers: readonly NumberOption[] = [
  {
    key: 'queues',
    accepted: 'an integer from 1 to 128',
    good: (value) => Number.isInteger(value) && value >= 1 && value <= 128,
    edges: [0, 1, 16, 128, 129],
  },
  {
    key: 'queueSize',
    accepted: 'a power of two from 64 to 4096',
    good: (value) => powers.includes(value),
    edges: [...powers, 0, 3, 32, 63, 65, 4095, 8192, 65536, 2 ** 32 + 256],
  },
  {
    key: 'mtu',
    accepted: 'an integer from 68 to 65521',
    good: (value) => Number.isInteger(value) && value >= 68 && value <= 65521,
    edges: [67, 68, 65521, 65522],
  },
];

/** Small, negative, fractional, and beyond every machine word. */
function randomNumber(random: Random): number {
  const sign = random() < 0.2 ? -1 : 1;
  const value =
    random() < 0.5 ? randomBelow(random, 70_000) : Math.floor(random() * 2 ** (1 + randomBelow(random, 60)));
  return sign * (random() < 0.1 ? value + 0.5 : value);
}

describe('a number option', () => {
  it.each(numbers)(
    '[1] $key outside its range is refused with key, value and range',
    ({ key, accepted, good, edges }) => {
      const random = seededRandom(1);
      const values = [...edges, ...Array.from({ length: 2000 }, () => randomNumber(random))];
      let refused = 0;
      for (const value of values) {
        const device = JSON.stringify({ [key]: value });
        if (good(value)) {
          expect(parse(device)[key]).toBe(value);
        } else {
          expect(refusal(device)).toBe(`device.${key}: ${JSON.stringify(value)}; accepted: ${accepted}`);
          refused += 1;
        }
      }
      expect(refused).toBeGreaterThan(1000);
    },
  );

  it.each([0, 3, 63, 100, 32, 8192, 65536, 2 ** 32 + 256])(
    '[7] queueSize %d is refused for both ring formats',
    (size) => {
      for (const packedVq of [false, true]) {
        expect(refusal(JSON.stringify({ queueSize: size, packedVq }))).toContain(`device.queueSize: ${size}; accepted`);
      }
    },
  );

  it.each(powers)('[7] queueSize %d is taken for both ring formats', (size) => {
    for (const packedVq of [false, true]) {
      expect(parse(JSON.stringify({ queueSize: size, packedVq })).queueSize).toBe(size);
    }
  });
});

describe('what is no value', () => {
  it.each(['queues', 'queueSize', 'mtu'])('[2] %s as text, with or without something behind it, is refused', (key) => {
    for (const text of ['"4"', '"4x"', '"0x10"', '"-1"', '"64 "', 'true', 'null', '[64]', '{}']) {
      expect(refusal(`{"${key}":${text}}`)).toContain(`device.${key}: `);
    }
  });

  it.each(['queues', 'queueSize', 'mtu'])('[2] negative %s is refused', (key) => {
    const random = seededRandom(2);
    for (let round = 0; round < 200; round += 1) {
      const value = -1 - randomBelow(random, 2 ** 31);
      expect(refusal(`{"${key}":${value}}`)).toContain(`device.${key}: ${value}; accepted`);
    }
  });

  it('[2] an unknown key is refused and named, whatever its value', () => {
    const random = seededRandom(3);
    for (let round = 0; round < 300; round += 1) {
      const key = Array.from({ length: 1 + randomBelow(random, 12) }, () =>
        String.fromCharCode(97 + randomBelow(random, 26)),
      ).join('');
      if (key === 'queues' || key === 'cq' || key === 'mac' || key === 'mtu' || key === 'memory') continue;
      expect(refusal(`{"${key}":1}`)).toContain(`device.${key}: 1 is of an unknown key; accepted: queues, `);
    }
  });

  it('[2] of a key that is given twice the last counts, and is judged', () => {
    expect(parse('{"queues":999,"queues":2}').queues).toBe(2);
    expect(refusal('{"queues":2,"queues":999}')).toContain('device.queues: 999; accepted');
  });
});

describe('what belongs to another backend', () => {
  it.each(['iface', 'speed', 'vectorized', 'path', 'server'])('[3] the original’s %s is no device option', (key) => {
    expect(refusal(`{"${key}":1}`)).toContain(`device.${key}: 1 is of an unknown key`);
  });

  it.each(['vhost-kernel', 'vhost-vdpa'])('[3] the type %s is refused by name, in both modes', (type) => {
    for (const server of [false, true]) {
      const stdin = JSON.stringify({
        cniVersion: '1.0.0',
        name: 'net',
        type: 'virtio-user',
        backend: { type, server },
      });
      expect(() => attachmentSpec(parseRawNetconf(stdin, 'ADD'), environment, options)).toThrow(
        `backend.type: "${type}"`,
      );
    }
  });
});

describe('the control queue', () => {
  it('[6] is on unless it is turned off', () => {
    expect([parse('{}').cq, parse('{"queues":4}').cq, parse('{"cq":false}').cq]).toEqual([true, true, false]);
  });

  it('[6] cannot be turned off with several queues', () => {
    for (let queues = 2; queues <= 128; queues += 1) {
      expect(refusal(JSON.stringify({ queues, cq: false }))).toContain(
        'device.cq: false; accepted with several queues',
      );
    }
    expect(parse('{"queues":1,"cq":false}').queues).toBe(1);
  });
});
