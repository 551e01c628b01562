/**
 * Two pods of ours with testpmd's net_vhost as the wire between them, for every combination of ring format, mergeable
 * buffers, in-order use, queue pairs, who listens, and TSO. In each: frames both ways, verified end to end; counters
 * equal on both sides; and the features that the combination is about really acknowledged, or really not.
 *
 * VU_MATRIX=full runs every combination, else two of each group run, which between them have each value of each option.
 */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { loadNative } from '../../src/native/load.ts';
import { featureBit, hasFeature, supportedFeatures } from '../../src/virtio/feature.ts';
import { Cleanup } from '../support/cleanup.ts';
import type { Running } from '../support/pod.ts';
import { type RingOptions, TestpmdWire, wireMtu, type WireOptions } from '../support/testpmd-wire.ts';

const both = [false, true] as const;
const groups: readonly WireOptions[] = [1, 2, 4].flatMap((pairs) =>
  both.flatMap((server) => both.map((tso) => ({ pairs, server, tso }))),
);

/** Values of an option that the product implements: a feature that it never acknowledges has only its absence to show. */
const valuesOf = (bit: number): readonly boolean[] => (hasFeature(supportedFeatures, bit) ? both : [false]);
const cells: readonly RingOptions[] = valuesOf(featureBit.RING_PACKED).flatMap((packed) =>
  valuesOf(featureBit.MRG_RXBUF).flatMap((mergeable) =>
    valuesOf(featureBit.IN_ORDER).map((inOrder) => ({ packed, mergeable, inOrder })),
  ),
);

/** One cell, another in every group, and the one that differs from it in everything. */
function chosen(group: number): readonly RingOptions[] {
  if (process.env['VU_MATRIX'] === 'full') return cells;
  const first = group % cells.length;
  return cells.filter((_, index) => index === first || index === cells.length - 1 - first);
}

const nameOf = ({ packed, mergeable, inOrder }: RingOptions): string =>
  [packed ? 'packed' : 'split', mergeable ? 'mergeable' : 'not mergeable', inOrder ? 'in order' : 'any order'].join(
    ', ',
  );

function groupName({ pairs, server, tso }: WireOptions): string {
  const who = server ? 'we listen' : 'testpmd listens';
  return `${pairs} ${pairs === 1 ? 'pair' : 'pairs'}, ${who}, TSO ${tso ? 'on' : 'off'}`;
}

function expectAcked({ ready }: Running, rings: RingOptions, { pairs, tso }: WireOptions): void {
  const has = (bit: number): boolean => hasFeature(ready.ackedFeatures, bit);
  expect({
    packed: has(featureBit.RING_PACKED),
    mergeable: has(featureBit.MRG_RXBUF),
    inOrder: has(featureBit.IN_ORDER),
    tso: has(featureBit.HOST_TSO4) && has(featureBit.HOST_TSO6),
    pairs: ready.queuePairs,
    multiQueue: has(featureBit.MQ),
  }).toEqual({ ...rings, tso, pairs, multiQueue: pairs > 1 });
}

const native = loadNative();
const datagrams = 1024;
const tcpBytes = 8 << 20;

describe.each(groups.map((group, index) => [groupName(group), group, index] as const))(
  'net_vhost, %s',
  (_name, group, index) => {
    const cleanup = new Cleanup();
    let wire: TestpmdWire;

    beforeAll(async () => {
      wire = await TestpmdWire.create(native, group, cleanup);
    }, 60_000);

    afterAll(async () => {
      expect(await cleanup.run()).toEqual([]);
    }, 60_000);

    it.each(chosen(index).map((rings) => [nameOf(rings), rings] as const))(
      '%s: frames both ways are whole, counters are equal',
      async (_rings, rings) => {
        const ended = new Cleanup();
        try {
          for (const running of await wire.connect(rings, 256, ended)) expectAcked(running, rings, group);
          const before = await wire.counters();
          const theirsBefore = await wire.theirs();
          const { rxFrames, rxBytes } = await wire.testpmd.statistics(0);
          // 64 flows of one datagram each on its way: no ring is ever full, none may be lost.
          const load = { flows: 64, datagrams, datagramBytes: wireMtu - 28, tcpBytes };
          expect(await wire.drive(load)).toMatchObject({ datagrams, tcpBytes });

          // What left one pod has reached the other, or testpmd could not hand it on (a TCP burst beyond the ring).
          const { frames, refused } = await wire.agreed(before, theirsBefore);
          const [sent0 = 0n, received0 = 0n, sent1 = 0n, received1 = 0n] = frames;
          const [refused0 = 0n, refused1 = 0n] = refused;
          expect([received1 + refused1, received0 + refused0]).toEqual([sent0, sent1]);
          expect(Number(sent0)).toBeGreaterThan(datagrams);

          // With TSO large frames cross the ring whole; without it none longer than the MTU does.
          const now = await wire.testpmd.statistics(0);
          const mean = (now.rxBytes - rxBytes) / (now.rxFrames - rxFrames);
          if (group.tso) expect(mean).toBeGreaterThan(wireMtu + 14);
          else expect(mean).toBeLessThanOrEqual(wireMtu + 14);

          // 64 flows leave no queue out.
          const queues = await wire.testpmd.queueFrames(0);
          expect(queues).toHaveLength(group.pairs);
          expect(Math.min(...queues)).toBeGreaterThan(0);
        } finally {
          expect(await ended.run()).toEqual([]);
        }
      },
      60_000,
    );
  },
);
