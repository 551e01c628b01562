import { describe, expect, it } from '@jest/globals';
import { closeDependencies, featureMask } from '../../../src/virtio/feature.ts';
import { planOffloads } from '../../../src/virtio/offload.ts';

const everything = featureMask(0, 1, 7, 8, 11, 12, 15, 32);
/** Closed sets over the six bits that matter: what negotiation can yield. */
const sets = Array.from({ length: 64 }, (_, choice) =>
  closeDependencies(
    [0, 1, 7, 8, 11, 12].filter((_bit, index) => (choice >> index) & 1).reduce((m, b) => m | (1n << BigInt(b)), 0n),
  ),
);

/** What Linux accepts for TUNSETOFFLOAD, as measured. */
function legal(mask: number): boolean {
  const checksum = (mask & 1) !== 0;
  const ecn = (mask & 8) !== 0;
  const ufo = (mask & 0x10) !== 0;
  const uso = (mask & 0x60) !== 0;
  return (mask === 0 || checksum) && !ecn && !ufo && !uso;
}

describe('planOffloads', () => {
  it('merges what comes from a backend with everything too: it passes on what was on a wire as it came', () => {
    expect(planOffloads(everything, true)).toEqual({
      tapMask: 7,
      softwareGso: false,
      softwareChecksum: false,
      softwareGro: true,
    });
  });

  it('segments and merges in software when the backend has checksums only', () => {
    expect(planOffloads(featureMask(0, 1, 7, 8, 15, 32), true)).toEqual({
      tapMask: 7,
      softwareGso: true,
      softwareChecksum: false,
      softwareGro: true,
    });
  });

  it('does all in software on a backend without offloads', () => {
    expect(planOffloads(featureMask(15, 32), true)).toEqual({
      tapMask: 7,
      softwareGso: true,
      softwareChecksum: true,
      softwareGro: true,
    });
  });

  it('segments in software when one of the two TSO is missing', () => {
    expect(planOffloads(everything & ~featureMask(12), true).softwareGso).toBe(true);
    expect(planOffloads(everything & ~featureMask(11), true).softwareGso).toBe(true);
  });

  it('lets the TAP follow the backend without software offloads', () => {
    expect(planOffloads(everything, false).tapMask).toBe(7);
    expect(planOffloads(featureMask(0, 11), false).tapMask).toBe(3);
    expect(planOffloads(featureMask(0), false).tapMask).toBe(1);
    expect(planOffloads(0n, false)).toEqual({
      tapMask: 0,
      softwareGso: false,
      softwareChecksum: false,
      softwareGro: false,
    });
  });

  it('[60] computes for every set only masks that TUNSETOFFLOAD takes: no ECN, no UFO, no USO, nothing without CSUM', () => {
    for (const set of sets) {
      for (const software of [true, false]) expect(legal(planOffloads(set, software).tapMask)).toBe(true);
    }
  });
});
