/** Counters over a million frames of random size, against those of DPDK's net_vhost. */
import { afterEach, describe, expect, it } from '@jest/globals';
import { loadNative } from '../../src/native/load.ts';
import { Cleanup } from '../support/cleanup.ts';
import { TestpmdWire, wireMtu } from '../support/testpmd-wire.ts';

const cleanup = new Cleanup();

afterEach(async () => {
  expect(await cleanup.run()).toEqual([]);
}, 60_000);

/** Each goes from pod 0 to pod 1 and back. */
const datagrams = 500_000;

describe('a million frames of random size', () => {
  it.each([
    ['split', { packed: false, mergeable: true, inOrder: false }],
    ['packed', { packed: true, mergeable: true, inOrder: true }],
  ])(
    '[58] over %s rings are counted alike on both sides, and none is lost or changed',
    async (_what, rings) => {
      const wire = await TestpmdWire.create(loadNative(), { pairs: 2, server: true, tso: false }, cleanup);
      await wire.connect(rings, 1024, cleanup);
      const [before, theirsBefore] = [await wire.counters(), await wire.theirs()];
      await wire.drive({ flows: 64, datagrams, datagramBytes: wireMtu - 28, tcpBytes: 0 }, 100_000);
      const { frames, refused } = await wire.agreed(before, theirsBefore);
      const [sent0 = 0n, received0 = 0n, sent1 = 0n, received1 = 0n] = frames;
      expect(refused).toEqual([0n, 0n]);
      expect([received1, received0]).toEqual([sent0, sent1]);
      expect(Number(sent0 + sent1)).toBeGreaterThanOrEqual(2 * datagrams);
    },
    120_000,
  );
});
