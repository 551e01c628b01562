import { describe, expect, it } from '@jest/globals';
import { tapSpec } from '../../../src/attachment/pod-link.ts';
import type { DeviceOptions } from '../../../src/device/api.ts';
import { type Agreement, negotiate, type Offer } from '../../../src/device/negotiate.ts';
import { featureBits, featureMask, formatMask, hasFeature } from '../../../src/virtio/feature.ts';
import { deviceOptions } from '../../support/fake-session.ts';
import { lackingDependencies, type ModelAgreement, modelNegotiation } from '../../support/negotiation-model.ts';
import { random64, type Random, randomBelow, seededRandom } from '../../support/random.ts';
import { dpdkOffer } from '../../support/scripted-backend.ts';

const rich = featureMask(0, 1, 7, 8, 11, 12, 15, 22, 29, 30, 32);

function agree(offer: Offer, options: DeviceOptions, remembered: Agreement | null = null) {
  const result = negotiate(offer, options, remembered);
  if (result.kind !== 'agreed') throw new Error(`refused for ${result.missing.join(', ')}`);
  return result;
}

function randomOffer(random: Random): Offer {
  return { features: random64(random) | featureMask(32), maxQueuePairs: 1 + randomBelow(random, 8) };
}

function randomOptions(random: Random): DeviceOptions {
  const flag = (): boolean => random() < 0.5;
  return deviceOptions({
    queues: 1 + randomBelow(random, 8),
    cq: flag(),
    mrgRxbuf: flag(),
    inOrder: flag(),
    packedVq: flag(),
    softwareOffloads: flag(),
    mtu: 68 + randomBelow(random, 9000),
  });
}

describe('negotiate', () => {
  it('[15] [18] [19] [20] [21] [23] is what an independent model says, for random offers and options, also later', () => {
    const random = seededRandom(15);
    for (let round = 0; round < 3000; round += 1) {
      const options = randomOptions(random);
      const offers = [randomOffer(random), randomOffer(random)];
      let [before, expected]: [Agreement | null, ModelAgreement | null] = [null, null];
      for (const offer of offers) {
        expected = modelNegotiation(offer, options, expected);
        const { ackedFeatures, localFeatures, queuePairs } = agree(offer, options, before);
        expect({
          acked: formatMask(ackedFeatures),
          local: formatMask(localFeatures),
          queuePairs,
          headerBytes: tapSpec('eth0', options, null).headerBytes,
        }).toEqual({
          acked: formatMask(expected?.acked ?? 0n),
          local: formatMask(expected?.local ?? 0n),
          queuePairs: expected?.queuePairs,
          headerBytes: expected?.headerBytes,
        });
        before ??= { ackedFeatures, queuePairs };
      }
    }
  });

  it('keeps apart what is offered, acknowledged, its own, and unsupported', () => {
    const random = seededRandom(14);
    for (let round = 0; round < 1000; round += 1) {
      const features = random64(random) | featureMask(32);
      const options = randomOptions(random);
      const { ackedFeatures, localFeatures, unsupportedFeatures } = agree({ features, maxQueuePairs: 8 }, options);
      expect([unsupportedFeatures & ~features, unsupportedFeatures & (ackedFeatures | localFeatures)]).toEqual([
        0n,
        0n,
      ]);
      // The rest lacks what it depends on, is the frontend's, or the transport's.
      const rest = features & ~ackedFeatures & ~unsupportedFeatures;
      expect(rest & ~featureMask(5, 7, 8, 11, 12, 16, 17, 18, 19, 20, 21, 23, 30)).toBe(0n);
    }
  });

  it.each([
    ['no room implements', {}, 24],
    ['mrgRxbuf: false takes away', { mrgRxbuf: false }, 15],
    ['packedVq: false takes away', { packedVq: false }, 34],
    ['one pair has no use for', {}, 22],
    ['cq: false takes away', { cq: false }, 18],
  ])('names what %s as unsupported', (_what, options, bit) => {
    const offer = { features: rich | featureMask(bit), maxQueuePairs: 8 };
    expect(hasFeature(agree(offer, deviceOptions(options)).unsupportedFeatures, bit)).toBe(true);
  });

  it('[22] keeps the dependencies of the specification within the set and what the frontend supplies', () => {
    const random = seededRandom(22);
    for (let round = 0; round < 1000; round += 1) {
      const { ackedFeatures, localFeatures } = agree(randomOffer(random), randomOptions(random));
      expect(lackingDependencies(ackedFeatures | localFeatures, ackedFeatures | localFeatures)).toEqual([]);
    }
  });

  it('takes from DPDK 22.11 without TSO what it has', () => {
    const result = agree({ features: dpdkOffer.features, maxQueuePairs: 128 }, deviceOptions());
    expect(featureBits(result.ackedFeatures)).toEqual([0, 1, 7, 8, 15, 28, 29, 32, 35]);
    expect(result.offloads).toEqual({ tapMask: 7, softwareGso: true, softwareChecksum: false, softwareGro: true });
    expect(result.queuePairs).toBe(1);
  });

  it('refuses a backend without VERSION_1 and names the bit', () => {
    const offer = { features: rich & ~featureMask(32), maxQueuePairs: 1 };
    expect(negotiate(offer, deviceOptions(), null)).toEqual({ kind: 'refused', missing: ['VERSION_1'] });
  });

  it('[18] acks MQ only with more than one pair on both sides, and uses the smaller number', () => {
    const pairs = (queues: number, maxQueuePairs: number, features = rich): [boolean, number] => {
      const { ackedFeatures, queuePairs } = agree({ features, maxQueuePairs }, deviceOptions({ queues }));
      return [hasFeature(ackedFeatures, 22), queuePairs];
    };
    expect(pairs(1, 128)).toEqual([false, 1]);
    expect(pairs(4, 1)).toEqual([false, 1]);
    expect(pairs(4, 128)).toEqual([true, 4]);
    expect(pairs(4, 2)).toEqual([true, 2]);
    expect(pairs(4, 128, rich & ~featureMask(22))).toEqual([false, 1]);
  });

  it.each([
    ['4 KiB, mergeable', rich, {}, 4096],
    ['64 KiB where large frames may come and do not merge', rich, { mrgRxbuf: false }, 69632],
    ['one page for 1500 bytes', rich & ~featureMask(7, 8), { mrgRxbuf: false }, 4096],
    ['whole pages for a jumbo MTU', rich & ~featureMask(7, 8), { mrgRxbuf: false, mtu: 9000 }, 12288],
  ])('posts receive buffers of %s', (_what, features, options, bytes) => {
    expect(agree({ features, maxQueuePairs: 1 }, deviceOptions(options)).rxBufferBytes).toBe(bytes);
  });
});

describe('negotiate on a later connection', () => {
  const options = deviceOptions({ queues: 4 });
  const first = agree({ features: rich, maxQueuePairs: 4 }, options);
  const later = (features: bigint, maxQueuePairs = 4) => agree({ features, maxQueuePairs }, options, first);

  it('is not degraded by the same offer', () => {
    expect(later(rich)).toEqual(first);
  });

  it.each([
    ['CSUM with what hangs on it', [0], ['CSUM', 'HOST_TSO4', 'HOST_TSO6']],
    ['GUEST_CSUM with what hangs on it', [1], ['GUEST_CSUM', 'GUEST_TSO4', 'GUEST_TSO6']],
    ['HOST_TSO', [11, 12], ['HOST_TSO4', 'HOST_TSO6']],
    ['MRG_RXBUF', [15], ['MRG_RXBUF']],
    ['EVENT_IDX', [29], ['EVENT_IDX']],
    ['MQ', [22], ['MQ']],
  ])('goes on without %s and says so', (_what, bits, degradedBy) => {
    expect(later(rich & ~featureMask(...bits)).degradedBy).toEqual(degradedBy);
  });

  it('goes on with a split ring where the backend has lost packed ones, and says so', () => {
    const packed = deviceOptions({ packedVq: true });
    const offer = { features: rich | featureMask(34, 35), maxQueuePairs: 1 };
    const before = agree(offer, packed);
    expect(hasFeature(before.ackedFeatures, 34)).toBe(true);
    const result = agree({ ...offer, features: rich }, packed, before);
    expect(hasFeature(result.ackedFeatures, 34)).toBe(false);
    expect(result.degradedBy).toEqual(['RING_PACKED', 'IN_ORDER']);
  });

  it('[78] [F28] goes on with fewer pairs and says so', () => {
    const result = later(rich, 2);
    expect([result.queuePairs, result.degradedBy]).toEqual([2, ['MQ']]);
  });

  it('computes offloads and buffers anew', () => {
    const result = later(rich & ~featureMask(0, 15));
    expect(result.offloads).toEqual({ tapMask: 7, softwareGso: true, softwareChecksum: true, softwareGro: true });
    expect(result.rxBufferBytes).toBe(69632);
  });

  it('[75] parks without VERSION_1', () => {
    const offer = { features: rich & ~featureMask(32), maxQueuePairs: 4 };
    expect(negotiate(offer, options, first)).toEqual({ kind: 'refused', missing: ['VERSION_1'] });
  });

  it('[76] [F26] ignores growth: never more than the first connection had', () => {
    const poor = agree({ features: featureMask(0, 32), maxQueuePairs: 1 }, options);
    const grown = agree({ features: rich, maxQueuePairs: 128 }, options, poor);
    // MQ, which one pair has no use for, is offered now.
    expect(grown).toEqual({ ...poor, unsupportedFeatures: featureMask(22) });
  });
});
