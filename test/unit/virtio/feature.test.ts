import { describe, expect, it } from '@jest/globals';
import { VirtioUserError } from '../../../src/errors.ts';
import {
  closeDependencies,
  featureBit,
  featureBits,
  featureMask,
  featureNames,
  featureTable,
  formatMask,
  hasFeature,
  parseFeatures,
  supportedFeatures,
} from '../../../src/virtio/feature.ts';
import { random64, seededRandom } from '../../support/random.ts';

describe('feature table', () => {
  it('lists every bit once, ascending, below 64, with a name of its own', () => {
    const bits = featureTable.map(({ bit }) => bit);
    expect(bits).toEqual([...new Set(bits)].sort((a, b) => a - b));
    expect(Math.max(...bits)).toBeLessThan(64);
    expect(new Set(featureTable.map(({ name }) => name)).size).toBe(featureTable.length);
  });

  it('agrees with the bit numbers that code refers to', () => {
    for (const [name, bit] of Object.entries(featureBit)) {
      expect(featureTable.find((feature) => feature.bit === bit)?.name).toBe(name);
    }
  });

  it('supports what this stage implements and nothing else', () => {
    expect(featureBits(supportedFeatures)).toEqual([0, 1, 7, 8, 11, 12, 15, 22, 28, 29, 32, 34, 35]);
  });
});

describe('closeDependencies', () => {
  it.each([
    ['GUEST_TSO4 without GUEST_CSUM', featureMask(7), 0n],
    ['HOST_TSO6 without CSUM', featureMask(12), 0n],
    ['GUEST_ECN with GUEST_TSO6 only', featureMask(1, 8, 9), featureMask(1, 8, 9)],
    ['a chain: GUEST_ECN on GUEST_TSO4 on GUEST_CSUM', featureMask(7, 9), 0n],
    ['MQ without CTRL_VQ', featureMask(22), 0n],
    ['MQ with CTRL_VQ', featureMask(17, 22), featureMask(17, 22)],
  ])('[22] handles %s', (_what, mask, closed) => {
    expect(closeDependencies(mask)).toBe(closed);
  });

  it('[21] drops RING_PACKED without VERSION_1', () => {
    expect(closeDependencies(featureMask(34))).toBe(0n);
    expect(closeDependencies(featureMask(32, 34))).toBe(featureMask(32, 34));
  });

  it('[22] leaves a subset in which every dependency holds, for random masks', () => {
    const random = seededRandom(22);
    for (let round = 0; round < 2000; round += 1) {
      const mask = random64(random);
      const closed = closeDependencies(mask);
      expect(closed & ~mask).toBe(0n);
      for (const { bit, needs } of featureTable) {
        if (!hasFeature(closed, bit)) continue;
        expect(needs.every((group) => group.some((needed) => hasFeature(closed, needed)))).toBe(true);
      }
    }
  });
});

describe('names and masks', () => {
  it('names bits ascending and numbers those without a name', () => {
    expect(featureNames(featureMask(32, 0, 44))).toEqual(['CSUM', 'VERSION_1', 'BIT_44']);
  });

  it.each([
    ['0x100000001', featureMask(0, 32)],
    ['4294967297', featureMask(0, 32)],
    ['CSUM,VERSION_1', featureMask(0, 32)],
    [' csum  version_1 ', featureMask(0, 32)],
    ['VIRTIO_NET_F_MRG_RXBUF VIRTIO_F_VERSION_1', featureMask(15, 32)],
    ['VIRTIO_RING_F_EVENT_IDX,VHOST_USER_F_PROTOCOL_FEATURES', featureMask(29, 30)],
    ['0x1 BIT_44', featureMask(0, 44)],
    ['0xffffffffffffffff', (1n << 64n) - 1n],
  ])('reads %j', (text, mask) => {
    expect(parseFeatures(text)).toBe(mask);
  });

  it.each(['', ' , ', 'NOPE', '0x', '-1', '0x1ffffffffffffffff', '12x', 'BIT_64', '1.5', 'x'.repeat(5000)])(
    'refuses %j as invalid configuration',
    (text) => {
      expect(() => parseFeatures(text)).toThrow(VirtioUserError);
      expect(() => parseFeatures(text)).toThrow(expect.objectContaining({ code: 'CONFIG_INVALID' }));
    },
  );

  it('[8] brings every mask back from its names and from its number, bits 53 to 63 included', () => {
    const random = seededRandom(8);
    for (let round = 0; round < 500; round += 1) {
      const mask = random64(random) | 1n;
      expect(parseFeatures(featureNames(mask).join(','))).toBe(mask);
      expect(parseFeatures(formatMask(mask))).toBe(mask);
      expect(parseFeatures(mask.toString())).toBe(mask);
    }
  });
});
