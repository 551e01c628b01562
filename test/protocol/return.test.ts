/** Another backend, or the same one poorer, in the place of the first: adapted to, and never on the first one's memory. */
import { describe, expect, it } from '@jest/globals';
import type { DeviceOptions, ReadyDevice } from '../../src/device/api.ts';
import { featureMask, featureNames } from '../../src/virtio/feature.ts';
import { connectScripted, type Connection, deviceWorld } from '../support/connection.ts';
import { dpdkOffer, type ScriptedOptions, vppOffer } from '../support/scripted-backend.ts';

interface Visit extends Connection {
  readonly ready: ReadyDevice;
}

/** One device that is brought up on each offer in turn; every backend dies before the next comes. */
async function visits(options: Partial<DeviceOptions>, ...offers: readonly ScriptedOptions[]) {
  const { device, ledger, sessions } = deviceWorld(options);
  const all: Visit[] = [];
  for (const offer of offers) {
    const connection = connectScripted(offer, ledger);
    const ready = await device.bringUp(connection.frontend);
    expect([connection.backend.violations, connection.backend.running]).toEqual([[], true]);
    all.push({ ...connection, ready });
    connection.backend.die();
    await device.shutDown();
    expect(ledger.open).toBe(0);
  }
  return { all, sessions };
}

const sent = ({ backend }: Visit, name: string): string[] => backend.trace.filter((line) => line.startsWith(name));

describe('a backend in the place of the first', () => {
  it('[F27] [18] without multi-queue leaves one pair, says so, and names no other ring', async () => {
    const { all } = await visits({ queues: 4 }, dpdkOffer, { ...dpdkOffer, protocolFeatures: 0x10018n });
    expect(all.map(({ ready }) => ready.queuePairs)).toEqual([4, 1]);
    expect(all[1]?.ready.degradedBy).toEqual(['MQ']);
    expect(all.map((visit) => sent(visit, 'SET_VRING_CALL').length)).toEqual([8, 2]);
    expect(featureNames(all[1]?.ready.ackedFeatures ?? 0n)).not.toContain('MQ');
  });

  it('[25] [78] [F28] with fewer pairs gets those that it has, enabled, and no more rings', async () => {
    const { all, sessions } = await visits({ queues: 4 }, dpdkOffer, { ...dpdkOffer, queuePairs: 2 }, dpdkOffer);
    expect(all.map(({ ready }) => ready.queuePairs)).toEqual([4, 2, 4]);
    expect(all.map(({ ready }) => ready.degradedBy)).toEqual([[], ['MQ'], []]);
    expect(all.map((visit) => sent(visit, 'SET_VRING_ENABLE').length)).toEqual([8, 4, 8]);
    expect(sessions.made.map(({ pairs }) => pairs)).toEqual([4, 2, 4]);
  });

  it('[F29] is told the MTU, as every one before it', async () => {
    const { all } = await visits({ mtu: 9000 }, dpdkOffer, vppOffer, dpdkOffer);
    expect(all.map((visit) => sent(visit, 'NET_SET_MTU'))).toEqual([['NET_SET_MTU! 9000'], [], ['NET_SET_MTU! 9000']]);
  });

  it('[F45] [F25] may be VPP after DPDK: what it lacks is named, and nothing else matters', async () => {
    const { all } = await visits({}, dpdkOffer, vppOffer, dpdkOffer);
    expect(all.map(({ ready }) => ready.degradedBy)).toEqual([
      [],
      featureNames((all[0]?.ready.ackedFeatures ?? 0n) & ~vppOffer.features),
      [],
    ]);
    expect(all[1]?.ready.degradedBy).toEqual(expect.arrayContaining(['CSUM', 'EVENT_IDX']));
    expect(all[2]?.ready.ackedFeatures).toBe(all[0]?.ready.ackedFeatures);
  });

  it('[77] with the other ring format gets memory of that format, never the first one’s', async () => {
    const split = { ...dpdkOffer, features: dpdkOffer.features & ~featureMask(34) };
    const { all, sessions } = await visits({ packedVq: true }, dpdkOffer, split, dpdkOffer);
    expect(sessions.made.map(({ features }) => featureNames(features).includes('RING_PACKED'))).toEqual([
      true,
      false,
      true,
    ]);
    expect(new Set(all.map(({ ready }) => ready.session)).size).toBe(3);
    const fresh = (packed: boolean) => [0, 1].map((ring) => `SET_VRING_BASE! ${ring} ${packed ? 0x80008000 : 0}`);
    expect(all.map((visit) => sent(visit, 'SET_VRING_BASE'))).toEqual([fresh(true), fresh(false), fresh(true)]);
    // A device without packed rings at first has none later either.
    const grown = await visits({ packedVq: true }, split, dpdkOffer);
    expect(grown.all.map(({ ready }) => featureNames(ready.ackedFeatures).includes('RING_PACKED'))).toEqual([
      false,
      false,
    ]);
  });
});
