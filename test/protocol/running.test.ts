/** What changes on a device that runs, against a peer that insists on the order: memory, rings, queue pairs. */
import { describe, expect, it } from '@jest/globals';
import type { DeviceOptions } from '../../src/device/api.ts';
import { featureMask } from '../../src/virtio/feature.ts';
import { connectScripted, deviceWorld, failureOf, settle } from '../support/connection.ts';
import type { ScriptedOptions } from '../support/scripted-backend.ts';

/** No merging: a larger MTU needs larger buffers, which is memory that the backend has not mapped. */
const unmerged = { features: featureMask(0, 1, 22, 29, 30, 32), protocolFeatures: 0x10019n } as const;
const withoutAcks = { ...unmerged, protocolFeatures: 0x10011n } as const;
const withoutEnable = { features: featureMask(0, 1, 29, 32) } as const;

async function running(offer: ScriptedOptions, options: Partial<DeviceOptions> = {}) {
  const world = deviceWorld({ mrgRxbuf: false, ...options });
  const connection = connectScripted(offer, world.ledger);
  const ready = await world.device.bringUp(connection.frontend);
  const before = connection.backend.trace.length;
  /** Messages since, once all have arrived. */
  const sent = async (): Promise<string[]> => {
    await settle();
    return connection.backend.trace.slice(before);
  };
  return { ...world, ...connection, ready, sent };
}

const nackEnable =
  (ring: number, enabled: number): NonNullable<ScriptedOptions['misbehave']> =>
  ({ name, payload }) =>
    name === 'SET_VRING_ENABLE' && payload.readUInt32LE(0) === ring && payload.readUInt32LE(4) === enabled
      ? { kind: 'nack' }
      : null;

describe('memory that grows under a running device', () => {
  it('[39] [50] pauses every active ring, adds to the table, and goes on', async () => {
    const { device, backend, path, sent } = await running(unmerged, { queues: 2 });
    await device.setMtu(9000);
    expect(await sent()).toEqual([
      ...[0, 1, 2, 3].map((ring) => `SET_VRING_ENABLE! ${ring} 0`),
      'SET_MEM_TABLE! 2',
      ...[0, 1, 2, 3].map((ring) => `SET_VRING_ENABLE! ${ring} 1`),
      'NET_SET_MTU! 9000',
    ]);
    expect([backend.violations, backend.running, path.calls]).toEqual([[], true, ['useReceiveBuffers']]);
    const [first, grown] = backend.memoryTables;
    expect(grown).toEqual([...(first ?? []), { ...grown?.[1], offsetBytes: 0n }]);
  });

  it('[38] [39] without REPLY_ACK knows of every pause before it changes the table, and of the table before it goes on', async () => {
    const { device, backend, sent } = await running(withoutAcks);
    await device.setMtu(9000);
    expect(await sent()).toEqual([
      'SET_VRING_ENABLE 0 0',
      'GET_FEATURES',
      'SET_VRING_ENABLE 1 0',
      'GET_FEATURES',
      'SET_MEM_TABLE 2',
      'GET_FEATURES',
      'SET_VRING_ENABLE 0 1',
      'SET_VRING_ENABLE 1 1',
      'NET_SET_MTU 9000',
    ]);
    expect([backend.violations, backend.running]).toEqual([[], true]);
  });

  it('[39] leaves the rings of pairs that rest alone', async () => {
    const { device, backend, sent } = await running(unmerged, { queues: 2 });
    await device.control({ kind: 'queue-pairs', pairs: 1 });
    await device.setMtu(9000);
    expect((await sent()).slice(2)).toEqual([
      'SET_VRING_ENABLE! 0 0',
      'SET_VRING_ENABLE! 1 0',
      'SET_MEM_TABLE! 2',
      'SET_VRING_ENABLE! 0 1',
      'SET_VRING_ENABLE! 1 1',
      'NET_SET_MTU! 9000',
    ]);
    expect([backend.violations, backend.order.movingRings]).toEqual([[], [0, 1]]);
  });

  it('[39] [47] without bit 30 takes every ring back, and gives all of it again from the index it stopped at', async () => {
    const { device, backend, path, sent } = await running({ ...withoutEnable, base: 77 });
    await device.setMtu(9000);
    const again = (ring: number): string[] => [
      `SET_VRING_NUM ${ring} 1024`,
      `SET_VRING_BASE ${ring} 77`,
      `SET_VRING_ADDR ${ring}`,
      `SET_VRING_KICK ${ring}`,
    ];
    expect(await sent()).toEqual([
      'GET_VRING_BASE 0 0',
      'GET_VRING_BASE 1 0',
      'SET_MEM_TABLE 2',
      'GET_FEATURES',
      'SET_VRING_CALL 0',
      'SET_VRING_CALL 1',
      ...again(0),
      ...again(1),
    ]);
    expect([backend.violations, backend.running, path.calls]).toEqual([[], true, ['useReceiveBuffers']]);
  });

  it('[F22] a refusal to pause is taken back: the rings move on in the memory there was', async () => {
    const { device, backend, frontend, path } = await running({ ...unmerged, misbehave: nackEnable(1, 0) });
    expect((await failureOf(device.setMtu(9000))).code).toBe('BACKEND_REFUSED');
    expect([backend.order.movingRings, frontend.isOpen, path.calls]).toEqual([[0, 1], true, []]);
    expect([backend.violations, backend.memoryTables.length]).toEqual([[], 1]);
  });

  it('[F20] a table that is refused ends the connection', async () => {
    const { device, backend, frontend } = await running({
      ...unmerged,
      misbehave: ({ name }, count) => (name === 'SET_MEM_TABLE' && count === 2 ? { kind: 'nack' } : null),
    });
    expect((await failureOf(device.setMtu(9000))).code).toBe('BACKEND_REFUSED');
    await backend.ended;
    expect([frontend.isOpen, backend.violations]).toEqual([false, []]);
  });
});

describe('queue pairs switched under a running device', () => {
  it.each([
    ['with acknowledgements', unmerged],
    ['with barriers', withoutAcks],
  ])('[39] [49] are what the backend works on after every switch, %s', async (_how, offer) => {
    const { device, backend } = await running(offer, { queues: 4 });
    for (const pairs of [2, 1, 4, 4, 3]) {
      await device.control({ kind: 'queue-pairs', pairs });
      await settle();
      expect(backend.order.movingRings).toEqual(Array.from({ length: 2 * pairs }, (_, ring) => ring));
    }
    await device.shutDown();
    expect(backend.violations).toEqual([]);
  });

  it.each([
    ['more', [1], 3, 4, 1, [0, 1]],
    ['fewer', [], 1, 5, 0, [0, 1, 2, 3, 4, 5]],
  ] as const)(
    '[49] [F22] %s, refused half-way, are taken back: the backend works on what it worked on',
    async (_what, first, wanted, ring, enabled, moving) => {
      let armed = false;
      const { device, backend, frontend } = await running(
        { ...unmerged, misbehave: (message) => (armed ? nackEnable(ring, enabled)(message, 0) : null) },
        { queues: 3 },
      );
      for (const pairs of first) await device.control({ kind: 'queue-pairs', pairs });
      armed = true;
      expect((await failureOf(device.control({ kind: 'queue-pairs', pairs: wanted }))).code).toBe('CONTROL_REFUSED');
      expect([backend.order.movingRings, 2 * device.activePairs]).toEqual([moving, moving.length]);
      expect([frontend.isOpen, backend.violations]).toEqual([true, []]);
    },
  );

  it('[F22] where the way back is refused as well the connection ends', async () => {
    let armed = false;
    const { device, backend, frontend } = await running(
      {
        ...unmerged,
        misbehave: (message) => (armed ? (nackEnable(5, 1)(message, 0) ?? nackEnable(4, 0)(message, 0)) : null),
      },
      { queues: 3 },
    );
    await device.control({ kind: 'queue-pairs', pairs: 1 });
    armed = true;
    await failureOf(device.control({ kind: 'queue-pairs', pairs: 3 }));
    await backend.ended;
    expect([frontend.isOpen, backend.violations]).toEqual([false, []]);
  });
});
