import { describe, expect, it } from '@jest/globals';
import { featureMask } from '../../src/virtio/feature.ts';
import { connectScripted, deviceWorld, failureOf, settle } from '../support/connection.ts';
import { modelNegotiation } from '../support/negotiation-model.ts';
import { random64, seededRandom } from '../support/random.ts';
import { dpdkOffer, type ScriptedOptions, vppOffer } from '../support/scripted-backend.ts';

const rich = {
  features: featureMask(0, 1, 7, 8, 11, 12, 15, 22, 26, 27, 28, 29, 30, 32, 33, 34, 35),
  protocolFeatures: 0x10019n,
};

const setup = (ring: number, mark: string): string[] => [
  `SET_VRING_NUM${mark} ${ring} 1024`,
  `SET_VRING_BASE${mark} ${ring} 0`,
  `SET_VRING_ADDR${mark} ${ring}`,
  `SET_VRING_KICK${mark} ${ring}`,
];

describe('handshake', () => {
  it('[39] [29] with DPDK 22.11 has this trace, every message in one piece', async () => {
    const { device } = deviceWorld();
    const { backend, frontend } = connectScripted(dpdkOffer);
    await device.bringUp(frontend);
    expect(backend.trace).toEqual([
      'SET_OWNER',
      'GET_FEATURES',
      'GET_PROTOCOL_FEATURES',
      'SET_PROTOCOL_FEATURES 0x10039',
      'GET_QUEUE_NUM',
      'SET_BACKEND_REQ_FD!',
      'SET_VRING_CALL! 0',
      'SET_VRING_CALL! 1',
      'SET_FEATURES! 0x970008183',
      'SET_STATUS! 0xb',
      'GET_STATUS',
      'NET_SET_MTU! 1500',
      'SET_MEM_TABLE! 1',
      ...setup(0, '!'),
      ...setup(1, '!'),
      'SET_VRING_ENABLE! 0 1',
      'SET_VRING_ENABLE! 1 1',
      'SET_STATUS! 0xf',
    ]);
    expect([backend.violations, backend.fragmented, backend.running]).toEqual([[], 0, true]);
  });

  it('[39] [38] with VPP (no REPLY_ACK, no STATUS) has barriers after the memory table and at the end', async () => {
    const { device } = deviceWorld();
    const { backend, frontend } = connectScripted(vppOffer);
    await device.bringUp(frontend);
    expect(backend.trace).toEqual([
      'SET_OWNER',
      'GET_FEATURES',
      'GET_PROTOCOL_FEATURES',
      'SET_PROTOCOL_FEATURES 0x1',
      'GET_QUEUE_NUM',
      'SET_VRING_CALL 0',
      'SET_VRING_CALL 1',
      'SET_FEATURES 0x150008000',
      'SET_MEM_TABLE 1',
      'GET_FEATURES',
      ...setup(0, ''),
      ...setup(1, ''),
      'SET_VRING_ENABLE 0 1',
      'SET_VRING_ENABLE 1 1',
      'GET_FEATURES',
    ]);
    expect([backend.violations, backend.running]).toEqual([[], true]);
  });

  it('[27] with a backend without bit 30 sets rings up and never sends SET_VRING_ENABLE', async () => {
    const { device } = deviceWorld();
    const { backend, frontend } = connectScripted({ features: featureMask(32) });
    await device.bringUp(frontend);
    expect(backend.trace.slice(0, 5)).toEqual([
      'SET_OWNER',
      'GET_FEATURES',
      'SET_VRING_CALL 0',
      'SET_VRING_CALL 1',
      'SET_FEATURES 0x100000000',
    ]);
    expect(backend.trace.filter((line) => /PROTOCOL|ENABLE|STATUS|MTU|QUEUE_NUM/.test(line))).toEqual([]);
    expect(backend.violations).toEqual([]);
  });

  it('[18] [40] with four pairs calls all rings before any other ring message and acks MQ', async () => {
    const { device } = deviceWorld({ queues: 4 });
    const { backend, frontend } = connectScripted({ ...rich, queuePairs: 4 });
    const ready = await device.bringUp(frontend);
    expect(ready.queuePairs).toBe(4);
    const calls = backend.trace.slice(5, 13);
    expect(calls).toEqual([0, 1, 2, 3, 4, 5, 6, 7].map((ring) => `SET_VRING_CALL! ${ring}`));
    expect((backend.order.ackedFeatures ?? 0n) & featureMask(22)).toBe(featureMask(22));
    expect([backend.violations, backend.running]).toEqual([[], true]);
  });

  it('[25] with the most pairs that can be asked for names every ring up to 255, and lets go of all', async () => {
    const { device } = deviceWorld({ queues: 128, queueSize: 64 });
    const { backend, frontend } = connectScripted({ ...rich, queuePairs: 128 });
    expect((await device.bringUp(frontend)).queuePairs).toBe(128);
    const kicks = backend.trace.filter((line) => line.startsWith('SET_VRING_KICK'));
    expect([kicks.length, kicks.at(-1)]).toEqual([256, expect.stringMatching(/ 255\b/)]);
    expect(await device.shutDown()).toEqual([]);
    expect(backend.violations).toEqual([]);
  });

  it.each([['0, which is none', 0n, 'PROTOCOL_VIOLATION']])(
    '[25] ends when GET_QUEUE_NUM answers %s',
    async (_what, pairs, code) => {
      const { device } = deviceWorld({ queues: 2 });
      const { frontend } = connectScripted({ ...rich, queuePairs: Number(pairs) });
      expect((await failureOf(device.bringUp(frontend))).code).toBe(code);
    },
  );

  it('[25] names no ring beyond 255 however many pairs a backend claims', async () => {
    const { frontend } = connectScripted({ ...rich, queuePairs: 0x8000 });
    await frontend.setOwner();
    await frontend.getFeatures();
    expect(frontend.abilities.maxQueuePairs).toBe(128);
  });

  it('[15] [16] [17] [18] [19] [20] [24] [28] breaks no rule on random offers, and sends what an independent model says', async () => {
    const random = seededRandom(39);
    const outcomes = { ready: 0, parked: 0 };
    for (let round = 0; round < 150; round += 1) {
      const flag = (): boolean => random() < 0.5;
      const options = {
        queues: 1 + (round % 3),
        cq: flag(),
        mrgRxbuf: flag(),
        inOrder: flag(),
        packedVq: flag(),
      };
      const { device, ledger } = deviceWorld(options);
      // Often with what several pairs take: by chance alone it would be rare.
      const offer = {
        features: random64(random) | (flag() ? featureMask(22, 30, 32) : 0n),
        protocolFeatures: random64(random) | (flag() ? 1n : 0n),
        queuePairs: 1 + (round % 4),
      };
      const { backend, frontend } = connectScripted(offer, ledger);
      // GET_QUEUE_NUM is there with protocol feature MQ, which is there with bit 30.
      const multiQueue = ((offer.features >> 30n) & offer.protocolFeatures & 1n) === 1n;
      const expected = modelNegotiation(
        { features: offer.features, maxQueuePairs: multiQueue ? offer.queuePairs : 1 },
        options,
      );
      const outcome = await device.bringUp(frontend).then(
        ({ ackedFeatures, localFeatures, queuePairs }) => ({ ackedFeatures, localFeatures, queuePairs }),
        (error: unknown) => String(error),
      );
      if (expected === null) {
        expect([outcome, backend.order.ackedFeatures]).toEqual([expect.stringContaining('VERSION_1'), null]);
      } else {
        const { acked, local, queuePairs, wire } = expected;
        expect(outcome).toEqual({ ackedFeatures: acked, localFeatures: local, queuePairs });
        expect(backend.order.ackedFeatures).toBe(wire);
      }
      outcomes[expected === null ? 'parked' : 'ready'] += 1;
      await device.shutDown();
      await settle();
      expect([backend.violations, ledger.open]).toEqual([[], 0]);
    }
    expect(Math.min(outcomes.ready, outcomes.parked)).toBeGreaterThan(30);
  });

  it('[34] accepts replies delivered one byte at a time', async () => {
    const { device } = deviceWorld();
    const { backend, frontend } = connectScripted({ ...rich, misbehave: () => ({ kind: 'byte by byte' }) });
    await device.bringUp(frontend);
    expect(backend.running).toBe(true);
  });

  it('[46] stops in order: every ring disabled, then taken back', async () => {
    const { device, ledger } = deviceWorld();
    const { backend, frontend } = connectScripted(rich, ledger);
    await device.bringUp(frontend);
    const before = backend.trace.length;
    expect(await device.shutDown()).toEqual([]);
    expect(backend.trace.slice(before)).toEqual([
      'SET_VRING_ENABLE! 0 0',
      'SET_VRING_ENABLE! 1 0',
      'GET_VRING_BASE 0 0',
      'GET_VRING_BASE 1 0',
    ]);
    await backend.ended;
    expect([backend.violations, ledger.open]).toEqual([[], 0]);
  });

  it('[38] without REPLY_ACK each SET_VRING_ENABLE 0 is followed by a barrier', async () => {
    const { device } = deviceWorld();
    const { backend, frontend } = connectScripted(vppOffer);
    await device.bringUp(frontend);
    const before = backend.trace.length;
    await device.shutDown();
    expect(backend.trace.slice(before, before + 4)).toEqual([
      'SET_VRING_ENABLE 0 0',
      'GET_FEATURES',
      'SET_VRING_ENABLE 1 0',
      'GET_FEATURES',
    ]);
  });
});

describe('a backend that comes back', () => {
  it.each<readonly [string, ScriptedOptions, readonly string[]]>([
    ['the same', dpdkOffer, []],
    ['without REPLY_ACK', { ...dpdkOffer, protocolFeatures: 0x10011n }, []],
    ['without STATUS', { ...dpdkOffer, protocolFeatures: 0x19n }, []],
    ['without MQ', { ...dpdkOffer, protocolFeatures: 0x10018n }, []],
    ['without bit 30', { features: dpdkOffer.features & ~featureMask(30) }, []],
    [
      'without merging and events',
      { ...dpdkOffer, features: dpdkOffer.features & ~featureMask(15, 29) },
      ['MRG_RXBUF', 'EVENT_IDX'],
    ],
    ['with more', rich, []],
  ])('[76] [78] [79] [F26] [F27] %s is brought up again with the same labels', async (_what, offer, degradedBy) => {
    const { device, ledger } = deviceWorld();
    const first = connectScripted(dpdkOffer, ledger);
    const before = await device.bringUp(first.frontend);
    first.backend.die();
    await device.shutDown();
    const second = connectScripted(offer, ledger);
    const after = await device.bringUp(second.frontend);
    expect([second.backend.violations, second.backend.running]).toEqual([[], true]);
    expect(after.degradedBy).toEqual(degradedBy);
    // Growth is ignored, labels are the same.
    expect(after.ackedFeatures & ~before.ackedFeatures).toBe(0n);
    expect(second.backend.memoryTables).toEqual(first.backend.memoryTables);
    expect(first.backend.memoryTables).toHaveLength(1);
  });
});
