/** The memory table grows on a running DPDK backend: rings paused, table set, rings go on where they were. */
import { afterEach, describe, expect, it } from '@jest/globals';
import { firstRegion, growReceiveBuffers } from '../../src/device/receive-buffers.ts';
import { restartRings, stopRings } from '../../src/device/rings.ts';
import { plausibleBase } from '../../src/virtio/vring-base.ts';
import { loadNative } from '../../src/native/load.ts';
import { Cleanup } from '../support/cleanup.ts';
import { until } from '../support/process.ts';
import { TestpmdWire } from '../support/testpmd-wire.ts';

const cleanup = new Cleanup();

afterEach(async () => {
  expect(await cleanup.run()).toEqual([]);
}, 60_000);

describe('receive buffers that grow while frames move', () => {
  it.each([
    ['split', { packed: false, mergeable: true, inOrder: false }],
    ['packed', { packed: true, mergeable: true, inOrder: true }],
  ])(
    'over %s rings: a TCP stream loses nothing, and both sides go on counting alike',
    async (_what, rings) => {
      const wire = await TestpmdWire.create(loadNative(), { pairs: 2, server: true, tso: true }, cleanup);
      const running = await wire.connect(rings, 1024, cleanup);
      const tcpBytes = 1 << 30; // goes on for seconds after the last region
      let over = false;
      const traffic = wire
        .drive({ flows: 8, datagrams: 0, datagramBytes: 100, tcpBytes }, 80_000)
        .finally(() => (over = true));
      // Behind the first datagrams, which may not be lost: a paused ring loses what the wire brings.
      const { txBytes } = wire.pods[0].counters();
      await until('the stream', () => wire.pods[0].counters().txBytes > txBytes + 1_000_000n);
      const grown = running.map(({ ready: { session } }) => [firstRegion(session)]);
      for (const bytes of [8192, 16384, 4096, 69632]) {
        for (const [side, { ready, frontend }] of running.entries()) {
          const pod = wire.pods[side as 0 | 1];
          const growing = {
            frontend,
            path: pod.port,
            session: ready.session,
            regions: grown[side] ?? [],
            activePairs: ready.queuePairs,
          };
          grown[side] = [...(await growReceiveBuffers(growing, bytes))];
        }
      }
      expect(over).toBe(false);
      expect((await traffic).tcpBytes).toBe(tcpBytes);
      expect(grown.map((regions) => regions.length)).toEqual([5, 5]);

      const [before, theirsBefore] = [await wire.counters(), await wire.theirs()];
      await wire.drive({ flows: 64, datagrams: 5000, datagramBytes: 1400, tcpBytes: 0 });
      const { frames, refused } = await wire.agreed(before, theirsBefore);
      const [sent0 = 0n, received0 = 0n, sent1 = 0n, received1 = 0n] = frames;
      expect([refused, received1, received0]).toEqual([[0n, 0n], sent0, sent1]);
    },
    150_000,
  );
});

describe('rings taken back and given again on one connection', () => {
  it.each([
    ['split', { packed: false, mergeable: true, inOrder: false }],
    ['packed', { packed: true, mergeable: true, inOrder: true }],
  ])(
    '[47] %s: go on from the index that DPDK named, which is ours',
    async (_what, rings) => {
      const wire = await TestpmdWire.create(loadNative(), { pairs: 1, server: true, tso: false }, cleanup);
      const running = await wire.connect(rings, 1024, cleanup);
      for (let round = 0; round < 3; round += 1) {
        const [before, theirsBefore] = [await wire.counters(), await wire.theirs()];
        await wire.drive({ flows: 16, datagrams: 3000, datagramBytes: 1400, tcpBytes: 0 });
        const { frames } = await wire.agreed(before, theirsBefore);
        expect([frames[3], frames[1]]).toEqual([frames[0], frames[2]]);
        for (const [side, { ready, frontend }] of running.entries()) {
          const { session } = ready;
          const bases = await stopRings(frontend, session);
          for (const [ring, base] of bases.entries()) {
            const size = session.rings[ring]?.size ?? 0;
            expect(plausibleBase(base, session.expectedBase(ring), { size, packed: rings.packed })).toBe(true);
          }
          await restartRings(frontend, session, bases);
          if (frontend.abilities.ringEnable) {
            for (const ring of session.rings.keys()) await frontend.setVringEnable(ring, true);
          }
          await until('the link', () => wire.testpmd.linkUp(side));
        }
      }
    },
    90_000,
  );
});
