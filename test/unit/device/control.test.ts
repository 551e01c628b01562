/** Commands through the control queue of a device that runs: what they do, and what refuses them. */
import { describe, expect, it } from '@jest/globals';
import type { DeviceOptions, VirtioUserDevice } from '../../../src/device/api.ts';
import { createVirtioUserDevice } from '../../../src/device/device.ts';
import { VirtioUserError } from '../../../src/errors.ts';
import type { ControlQueue } from '../../../src/native/binding.ts';
import { featureMask } from '../../../src/virtio/feature.ts';
import { failureOf } from '../../support/connection.ts';
import { FakeControlQueue } from '../../support/fake-control-queue.ts';
import { FakeDataPath } from '../../support/fake-data-path.ts';
import { FakeFrontend, type FakeFrontendOptions } from '../../support/fake-frontend.ts';
import { deviceOptions, type FakeSessions, fakeSessions } from '../../support/fake-session.ts';
import { FdLedger } from '../../support/memory-socket.ts';

const rich = featureMask(0, 1, 7, 8, 11, 12, 15, 22, 29, 30, 32);

interface Running {
  readonly ledger: FdLedger;
  readonly sessions: FakeSessions;
  readonly device: VirtioUserDevice;
  readonly path: FakeDataPath;
  readonly frontend: FakeFrontend;
  /** Wire calls since the device runs. */
  readonly sent: () => readonly string[];
  readonly queue: () => FakeControlQueue;
}

async function running(
  options: Partial<DeviceOptions> = {},
  frontendOptions: Partial<FakeFrontendOptions> = {},
): Promise<Running> {
  const ledger = new FdLedger();
  const sessions = fakeSessions(ledger);
  const path = new FakeDataPath();
  const device = createVirtioUserDevice(deviceOptions(options), sessions.create, path);
  const frontend = new FakeFrontend({ features: rich, ...frontendOptions });
  const ready = await device.bringUp(frontend);
  const before = frontend.calls.length;
  return {
    ledger,
    sessions,
    device,
    path,
    frontend,
    sent: () => frontend.calls.slice(before),
    queue: () => fakeQueue(ready.session.control),
  };
}

function fakeQueue(queue: ControlQueue | null): FakeControlQueue {
  if (!(queue instanceof FakeControlQueue)) throw new Error('no control queue');
  return queue;
}

const refused = (request: string): VirtioUserError =>
  new VirtioUserError('BACKEND_REFUSED', `backend refused ${request}`);

describe('a control command', () => {
  it('goes over the ring, has its effect on the port, and is kept as state', async () => {
    const { device, path, queue } = await running();
    await device.control({ kind: 'mac', mac: '02:00:00:00:00:05' });
    await device.control({ kind: 'rx-mode', mode: 'promiscuous', on: false });
    expect(queue().sent.map(({ commandClass, command }) => [commandClass, command])).toEqual([
      [1, 1],
      [0, 0],
    ]);
    expect(path.filters.at(-1)).toMatchObject({ mac: '02:00:00:00:00:05', promiscuous: false });
    expect(device.net?.mac).toBe('02:00:00:00:00:05');
  });

  it.each([
    [
      { kind: 'mac-table', unicast: ['02:00:00:00:00:09'], multicast: ['33:33:00:00:00:01'] },
      { unicast: ['02:00:00:00:00:09'], multicast: ['33:33:00:00:00:01'] },
    ],
    [{ kind: 'vlan', id: 5, pass: true }, { vlans: [5] }],
    [{ kind: 'rx-mode', mode: 'allMulticast', on: true }, { allMulticast: true }],
    [{ kind: 'rx-mode', mode: 'noBroadcast', on: true }, { noBroadcast: true }],
  ] as const)('%j changes this of the filter of the port, and nothing else', async (command, changed) => {
    const { device, path } = await running();
    await device.control({ kind: 'rx-mode', mode: 'promiscuous', on: false });
    const before = path.filters.at(-1);
    await device.control(command);
    expect(path.filters).toHaveLength(2);
    expect(path.filters.at(-1)).toEqual({ ...before, ...changed });
  });

  it('is refused without an effect when the port cannot follow', async () => {
    const { device, path } = await running();
    path.failing = 'setRxFilter';
    const error = await failureOf(device.control({ kind: 'rx-mode', mode: 'promiscuous', on: false }));
    expect([error.code, error.message]).toEqual(['CONTROL_REFUSED', expect.stringContaining('setRxFilter failed')]);
    expect(device.net?.rxModes.has('promiscuous')).toBe(true);
  });

  it('is refused before DRIVER_OK, after the end, and without a control queue', async () => {
    const { device } = await running();
    await device.shutDown();
    const command = { kind: 'announced' } as const;
    expect((await failureOf(device.control(command))).code).toBe('DEVICE_NOT_RUNNING');
    const without = await running({ cq: false });
    expect((await failureOf(without.device.control(command))).code).toBe('NOT_NEGOTIATED');
    expect(without.device.net?.announce).toBe(false);
  });

  it('[F61] on a ring that is broken says so, and the device runs on', async () => {
    const { device, queue } = await running();
    queue().brokenBy = new Error('control buffer outside its memory');
    const error = await failureOf(device.control({ kind: 'announced' }));
    expect([error.code, error.message]).toEqual([
      'CONTROL_QUEUE_BROKEN',
      expect.stringContaining('control buffer outside its memory'),
    ]);
    expect(device.state.kind).toBe('ready');
  });

  it('is forgotten with the connection, but for the number of pairs and the address', async () => {
    const { device } = await running({ queues: 4 });
    expect(device.driverMac).toBe(null);
    await device.control({ kind: 'mac', mac: '02:00:00:00:00:05' });
    await device.control({ kind: 'rx-mode', mode: 'promiscuous', on: false });
    await device.control({ kind: 'queue-pairs', pairs: 2 });
    await device.shutDown();
    expect([device.net, device.activePairs]).toEqual([null, 0]);
    const next = new FakeFrontend({ features: rich });
    const ready = await device.bringUp(next);
    expect(device.net?.rxModes.has('promiscuous')).toBe(true);
    expect([device.net?.mac, device.driverMac]).toEqual(['02:00:00:00:00:05', '02:00:00:00:00:05']);
    expect([ready.queuePairs, ready.activePairs]).toEqual([4, 2]);
    expect(next.calls.filter((call) => call.startsWith('setVringEnable'))).toEqual(
      [1, 1, 1, 1, 0, 0, 0, 0].map((enabled, ring) => `setVringEnable ${ring} ${enabled}`),
    );
  });
});

describe('a number of queue pairs', () => {
  it('that an earlier device was asked for holds from the first connection, as far as the backend has so many', async () => {
    const offers = [2, 8, 3];
    const active = offers.map(async (maxQueuePairs) => {
      const { device } = await running({ queues: 4, wantedPairs: 3 }, { abilities: { maxQueuePairs } });
      return device.activePairs;
    });
    expect(await Promise.all(active)).toEqual([2, 3, 3]);
  });

  it('that a backend has fewer of is asked for again when one has enough', async () => {
    const { device } = await running({ queues: 4, wantedPairs: 3 });
    for (const [maxQueuePairs, expected] of [
      [2, 2],
      [4, 3],
    ] as const) {
      await device.shutDown();
      await device.bringUp(new FakeFrontend({ features: rich, abilities: { maxQueuePairs } }));
      expect(device.activePairs).toBe(expected);
    }
  });

  it('fewer: sends what waits, detaches, disables the rings, delivers what came', async () => {
    const { device, path, frontend } = await running({ queues: 3 });
    const order: string[] = [];
    path.calls.push = (...calls) => order.push(...calls);
    frontend.calls.push = (...calls) => order.push(...calls);
    await device.control({ kind: 'queue-pairs', pairs: 2 });
    expect(order).toEqual([
      'finishTransmit 2',
      'detachQueues 2',
      'setVringEnable 4 0',
      'setVringEnable 5 0',
      'retire 2',
    ]);
    expect(device.activePairs).toBe(2);
  });

  it('more: enables the rings before anything of the pod goes there', async () => {
    const { device, path, sent } = await running({ queues: 3 });
    await device.control({ kind: 'queue-pairs', pairs: 1 });
    path.calls.length = 0;
    const before = sent().length;
    await device.control({ kind: 'queue-pairs', pairs: 3 });
    expect(sent().slice(before)).toEqual([2, 3, 4, 5].map((ring) => `setVringEnable ${ring} 1`));
    expect(path.calls).toEqual(['enlist 3']);
  });

  it('the same: changes nothing', async () => {
    const { device, path, sent } = await running({ queues: 2 });
    await device.control({ kind: 'queue-pairs', pairs: 2 });
    expect([path.calls, sent()]).toEqual([[], []]);
  });

  it.each([0, 3, 0x8000])('[49] [F62] of %d with 2 there is refused and changes nothing', async (pairs) => {
    const { device, path, sent } = await running({ queues: 2 });
    expect((await failureOf(device.control({ kind: 'queue-pairs', pairs }))).code).toBe('CONTROL_REFUSED');
    expect([path.calls, sent(), device.activePairs]).toEqual([[], [], 2]);
  });

  it('[49] [F22] that the backend refuses half-way is taken back on both sides, and the connection lives', async () => {
    // Rings 2 and 3 are told first; ring 4 is refused.
    const first = await running({ queues: 3 });
    await first.device.control({ kind: 'queue-pairs', pairs: 1 });
    const failAt = first.frontend.calls.length + 2;
    const { device, path, frontend, sent } = await running(
      { queues: 3 },
      { failAt, failure: refused('SET_VRING_ENABLE') },
    );
    await device.control({ kind: 'queue-pairs', pairs: 1 });
    const before = sent().length;
    path.calls.length = 0;
    const error = await failureOf(device.control({ kind: 'queue-pairs', pairs: 3 }));
    expect([error.code, error.message]).toEqual(['CONTROL_REFUSED', expect.stringContaining('SET_VRING_ENABLE')]);
    expect(sent().slice(before)).toEqual([
      'setVringEnable 2 1',
      'setVringEnable 3 1',
      'setVringEnable 4 1',
      'setVringEnable 3 0',
      'setVringEnable 2 0',
    ]);
    expect([path.calls, device.activePairs, frontend.closed, device.state.kind]).toEqual([[], 1, 0, 'ready']);
    await device.control({ kind: 'queue-pairs', pairs: 2 });
    expect(device.activePairs).toBe(2);
  });

  it('[49] a refusal to disable gives the pairs back to the pod', async () => {
    const first = await running({ queues: 2 });
    const { device, path, sent } = await running(
      { queues: 2 },
      { failAt: first.frontend.calls.length + 1, failure: refused('SET_VRING_ENABLE') },
    );
    await failureOf(device.control({ kind: 'queue-pairs', pairs: 1 }));
    expect(sent()).toEqual(['setVringEnable 2 0', 'setVringEnable 3 0', 'setVringEnable 2 1']);
    expect(path.calls).toEqual(['finishTransmit 1', 'detachQueues 1', 'enlist 2']);
    expect(device.activePairs).toBe(2);
  });

  it('[50] waits for the switch before it, and a shutdown waits for both', async () => {
    const { device, sent } = await running({ queues: 2 });
    const switches = [
      device.control({ kind: 'queue-pairs', pairs: 1 }),
      device.control({ kind: 'queue-pairs', pairs: 2 }),
    ];
    await device.shutDown();
    await Promise.all(switches);
    expect(sent().slice(0, 4)).toEqual([
      'setVringEnable 2 0',
      'setVringEnable 3 0',
      'setVringEnable 2 1',
      'setVringEnable 3 1',
    ]);
    expect(
      sent()
        .slice(4)
        .filter((call) => call.startsWith('getVringBase')),
    ).toHaveLength(4);
  });

  it('is not switched on a connection that ends meanwhile', async () => {
    const first = await running({ queues: 2 });
    const { device } = await running({ queues: 2 }, { failAt: first.frontend.calls.length });
    await failureOf(device.control({ kind: 'queue-pairs', pairs: 1 }));
    expect(device.activePairs).toBe(2);
  });
});

describe('another MTU', () => {
  const offersNoMerging = { features: featureMask(0, 1, 22, 29, 30, 32) } as const;

  it('is told to the backend; buffers that merge hold it already', async () => {
    const { device, sent, path } = await running();
    await device.setMtu(9000);
    expect([sent(), path.calls]).toEqual([['setMtu 9000'], []]);
    await device.setMtu(9000);
    expect(sent()).toHaveLength(1);
  });

  it('where a frame must fit one buffer: pauses the active rings, sets the longer table, goes on in larger buffers', async () => {
    const { device, sent, path, frontend } = await running({ queues: 2, mrgRxbuf: false }, offersNoMerging);
    await device.control({ kind: 'queue-pairs', pairs: 1 });
    const before = sent().length;
    path.calls.length = 0;
    await device.setMtu(9000);
    expect(sent().slice(before)).toEqual([
      'setVringEnable 0 0',
      'setVringEnable 1 0',
      'setMemoryTable 2',
      'setVringEnable 0 1',
      'setVringEnable 1 1',
      'setMtu 9000',
    ]);
    expect(path.calls).toEqual(['useReceiveBuffers']);
    const [first, again, second] = frontend.regions;
    expect([again, second?.label]).toEqual([first, (first?.label ?? 0n) + 0x100000000n]);
    await device.setMtu(1500);
    expect(sent().at(-1)).toBe('setMtu 1500');
    expect(sent().filter((call) => call.startsWith('setMemoryTable'))).toHaveLength(1);
  });

  it('[47] on a backend that cannot disable rings: takes them back and gives all of them again from where it stopped', async () => {
    const { device, sent, path } = await running(
      { mrgRxbuf: false },
      { features: featureMask(0, 1, 29, 32), abilities: { ringEnable: false, maxQueuePairs: 1 }, base: 77 },
    );
    await device.setMtu(9000);
    const ring = (index: number): string[] => [
      `setVringNum ${index} 1024`,
      `setVringBase ${index} 77`,
      `setVringAddr ${index}`,
      `setVringKick ${index}`,
    ];
    expect(sent()).toEqual([
      'getVringBase 0',
      'getVringBase 1',
      'setMemoryTable 2',
      'setVringCall 0',
      'setVringCall 1',
      ...ring(0),
      ...ring(1),
      'setMtu 9000',
    ]);
    expect(path.calls).toEqual(['useReceiveBuffers']);
  });

  it('holds for the next connection, which begins with buffers that fit', async () => {
    const { device, sessions } = await running({ mrgRxbuf: false }, offersNoMerging);
    await device.setMtu(9000);
    await device.shutDown();
    const next = new FakeFrontend(offersNoMerging);
    await device.bringUp(next);
    expect(sessions.made.map((options) => options.rxBufferBytes)).toEqual([4096, 12288]);
    expect(next.calls).toContain('setMtu 9000');
  });

  it('that the backend refuses is not kept, and the connection lives', async () => {
    const first = await running();
    const { device, frontend } = await running(
      {},
      { failAt: first.frontend.calls.length, failure: refused('NET_SET_MTU') },
    );
    expect((await failureOf(device.setMtu(9000))).code).toBe('BACKEND_REFUSED');
    expect([frontend.closed, device.state.kind]).toEqual([0, 'ready']);
    await device.setMtu(9000);
    expect(frontend.calls.at(-1)).toBe('setMtu 9000');
  });

  it.each([
    ['the table', 2],
    ['a ring afterwards', 3],
  ])('[F20] ends the connection when the backend refuses %s: nothing is left half paused', async (_what, step) => {
    const first = await running({ mrgRxbuf: false }, offersNoMerging);
    const { device, frontend } = await running(
      { mrgRxbuf: false },
      { ...offersNoMerging, failAt: first.frontend.calls.length + step, failure: refused('SET_MEM_TABLE') },
    );
    const ends: Error[] = [];
    frontend.onDisconnect = (error) => ends.push(error);
    expect((await failureOf(device.setMtu(9000))).code).toBe('BACKEND_REFUSED');
    expect([ends.length, frontend.isOpen]).toEqual([1, false]);
  });

  it('goes on as before when the backend will not pause', async () => {
    const first = await running({ mrgRxbuf: false }, offersNoMerging);
    const { ledger, device, frontend, sent } = await running(
      { mrgRxbuf: false },
      { ...offersNoMerging, failAt: first.frontend.calls.length + 1, failure: refused('SET_VRING_ENABLE') },
    );
    const descriptors = ledger.open;
    expect((await failureOf(device.setMtu(9000))).code).toBe('BACKEND_REFUSED');
    expect(sent()).toEqual(['setVringEnable 0 0', 'setVringEnable 1 0', 'setVringEnable 0 1']);
    expect([frontend.isOpen, ledger.open]).toEqual([true, descriptors]);
  });

  it('for which there is no memory leaves everything as it was', async () => {
    const { device, sessions, sent } = await running({ mrgRxbuf: false }, offersNoMerging);
    sessions.failGrowth = new Error('mmap session memory: ENOMEM');
    expect((await failureOf(device.setMtu(9000))).code).toBe('RESOURCE_EXHAUSTED');
    expect([sent(), device.state.kind]).toEqual([[], 'ready']);
  });

  it('leaves no descriptor behind', async () => {
    const { device, sessions } = await running({ mrgRxbuf: false }, offersNoMerging);
    await device.setMtu(9000);
    await device.shutDown();
    expect(sessions.open.size).toBe(0);
  });
});
