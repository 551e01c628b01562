import { describe, expect, it } from '@jest/globals';
import type { DeviceOptions, VirtioUserDevice } from '../../../src/device/api.ts';
import { createVirtioUserDevice } from '../../../src/device/device.ts';
import { VirtioUserError } from '../../../src/errors.ts';
import { featureMask } from '../../../src/virtio/feature.ts';
import { FakeDataPath } from '../../support/fake-data-path.ts';
import { FakeFrontend } from '../../support/fake-frontend.ts';
import { deviceOptions, type FakeSessions, fakeSessions } from '../../support/fake-session.ts';
import { FdLedger, nativeFault } from '../../support/memory-socket.ts';

const rich = featureMask(0, 1, 7, 8, 11, 12, 15, 22, 29, 30, 32);

interface World {
  readonly ledger: FdLedger;
  readonly sessions: FakeSessions;
  readonly path: FakeDataPath;
  readonly device: VirtioUserDevice;
}

function world(options: Partial<DeviceOptions> = {}): World {
  const ledger = new FdLedger();
  const sessions = fakeSessions(ledger);
  const path = new FakeDataPath();
  return { ledger, sessions, path, device: createVirtioUserDevice(deviceOptions(options), sessions.create, path) };
}

async function failureOf(promise: Promise<unknown>): Promise<VirtioUserError> {
  return promise.then(
    () => {
      throw new Error('it succeeded');
    },
    (error: unknown) => VirtioUserError.from(error, 'test'),
  );
}

/** The handshake of one pair on a backend with everything. */
const handshake = [
  'setOwner',
  'getFeatures',
  'setVringCall 0',
  'setVringCall 1',
  'setFeatures 0x120009983',
  'setStatus 0xb',
  'getStatus',
  'setMtu 1500',
  'setMemoryTable 1',
  'setVringNum 0 1024',
  'setVringBase 0 0',
  'setVringAddr 0',
  'setVringKick 0',
  'setVringNum 1 1024',
  'setVringBase 1 0',
  'setVringAddr 1',
  'setVringKick 1',
  'setVringEnable 0 1',
  'setVringEnable 1 1',
  'setStatus 0xf',
  'barrier',
];

describe('bringUp', () => {
  it('[39] runs the handshake in its order and is ready', async () => {
    const { device, sessions } = world();
    const frontend = new FakeFrontend({ features: rich });
    const ready = await device.bringUp(frontend);
    expect(frontend.calls).toEqual(handshake);
    expect(device.state).toEqual({ kind: 'ready', ready });
    expect(sessions.made).toEqual([
      { pairs: 1, queueSize: 1024, rxBufferBytes: 4096, features: 0x120029983n, memory: 'memfd' },
    ]);
    expect(frontend.regions).toEqual([
      { fd: ready.session.memory, label: 0x7f0000000000n, sizeBytes: 0x4000000n, offsetBytes: 0n },
    ]);
    expect(ready).toMatchObject({ offeredFeatures: rich, ackedFeatures: 0x120009983n, queuePairs: 1, degradedBy: [] });
  });

  it('[48] enables every ring of every pair on every connection', async () => {
    const { device } = world({ queues: 3 });
    for (let connection = 0; connection < 2; connection += 1) {
      const frontend = new FakeFrontend({ features: rich });
      await device.bringUp(frontend);
      const enabled = frontend.calls.filter((call) => call.startsWith('setVringEnable'));
      expect(enabled).toEqual([0, 1, 2, 3, 4, 5].map((ring) => `setVringEnable ${ring} 1`));
      await device.shutDown();
    }
  });

  it('[25] asks for no ring beyond what the backend serves', async () => {
    const { device, sessions } = world({ queues: 4 });
    const frontend = new FakeFrontend({ features: rich, abilities: { maxQueuePairs: 2 } });
    expect((await device.bringUp(frontend)).queuePairs).toBe(2);
    expect(sessions.made[0]?.pairs).toBe(2);
    expect(frontend.calls.filter((call) => / [4-7]( |$)/.test(call))).toEqual([]);
  });

  it('[27] sets rings up on a backend without bit 30, status and MTU, and never enables them by message', async () => {
    const { device } = world();
    const abilities = { protocolFeatures: [], maxQueuePairs: 1, ringEnable: false, status: false, mtu: false };
    const frontend = new FakeFrontend({ features: featureMask(32), abilities });
    await device.bringUp(frontend);
    expect(frontend.calls).toEqual(
      handshake
        .filter((call) => !/Enable|Status|Mtu/.test(call))
        .map((call) => (call.startsWith('setFeatures') ? 'setFeatures 0x100000000' : call)),
    );
  });

  it('parks without VERSION_1, before anything is set', async () => {
    const { device, ledger, sessions } = world();
    const frontend = new FakeFrontend({ features: rich & ~featureMask(32) });
    const error = await failureOf(device.bringUp(frontend));
    expect(error).toMatchObject({ code: 'NOT_NEGOTIATED', details: { missing: 'VERSION_1' } });
    expect(device.state).toEqual({ kind: 'parked', missing: ['VERSION_1'] });
    expect(frontend.calls).toEqual(['setOwner', 'getFeatures']);
    expect([sessions.made.length, ledger.open, frontend.closed > 0]).toEqual([0, 0, true]);
  });

  it('parks and names the MTU when the backend refuses it', async () => {
    const { device, ledger } = world({ mtu: 9000 });
    const failure = new VirtioUserError('BACKEND_REFUSED', 'NACK');
    const frontend = new FakeFrontend({ features: rich, failAt: handshake.indexOf('setMtu 1500'), failure });
    const error = await failureOf(device.bringUp(frontend));
    expect(error).toMatchObject({ code: 'NOT_NEGOTIATED', cause: failure });
    expect(device.state).toEqual({ kind: 'parked', missing: ['MTU 9000'] });
    expect(ledger.open).toBe(0);
  });

  it.each([
    ['lacks FEATURES_OK', 0x03],
    ['has NEEDS_RESET', 0x4b],
    ['has FAILED', 0x8b],
  ])('[26] [F23] [F24] fails when the status read back %s', async (_what, status) => {
    const { device, ledger } = world();
    const error = await failureOf(device.bringUp(new FakeFrontend({ features: rich, status })));
    expect(error.code).toBe('BACKEND_REFUSED');
    expect([device.state.kind, device.status & 0x80, ledger.open]).toEqual(['failed', 0x80, 0]);
  });

  it.each(handshake.map((call, step) => [call, step] as const))(
    '[9] [10] [43] unwinds all when %s fails, never sends DRIVER_OK, and works on the next connection',
    async (call, step) => {
      const { device, ledger, sessions } = world();
      const frontend = new FakeFrontend({ features: rich, failAt: step });
      const error = await failureOf(device.bringUp(frontend));
      expect(error.code).toBe('DISCONNECTED');
      expect(device.state).toEqual({ kind: 'failed', error });
      expect([ledger.open, sessions.open.size, frontend.closed > 0]).toEqual([0, 0, true]);
      expect(frontend.calls.at(-1)).toBe(call);
      await device.bringUp(new FakeFrontend({ features: rich }));
      expect(device.status).toBe(0x0f);
    },
  );

  it.each([
    ['ENOMEM', 'hugetlb', 'RESOURCE_HUGEPAGES'],
    ['ENOSPC', 'hugetlb', 'RESOURCE_HUGEPAGES'],
    ['ENOMEM', 'memfd', 'RESOURCE_EXHAUSTED'],
    ['EMFILE', 'memfd', 'RESOURCE_EXHAUSTED'],
    ['EPERM', 'memfd', 'SYSCALL_FAILED'],
  ] as const)('[F49] [F50] unwinds when memory fails with %s (%s) as %s', async (errno, memory, code) => {
    const { device, sessions } = world({ memory });
    sessions.failWith = nativeFault(errno, 'memfd_create');
    const frontend = new FakeFrontend({ features: rich });
    expect((await failureOf(device.bringUp(frontend))).code).toBe(code);
    expect([device.state.kind, frontend.closed > 0]).toEqual(['failed', true]);
  });

  it('shows NEEDS_RESET from what breaks the session until it is shut down', async () => {
    const { device } = world();
    await device.bringUp(new FakeFrontend({ features: rich }));
    device.needReset();
    expect(device.status).toBe(0x4f);
    await device.shutDown();
    expect(device.status).toBe(0);
    await device.bringUp(new FakeFrontend({ features: rich }));
    expect(device.status).toBe(0x0f);
  });

  it.each([
    ['TIMEOUT', 0x0f],
    ['BACKEND_REFUSED', 0x4f],
  ] as const)('[F24] a probe that ends with %s leaves the status at %d', async (code, status) => {
    const { device } = world();
    const failure = new VirtioUserError(code, 'GET_STATUS');
    await device.bringUp(new FakeFrontend({ features: rich, failAt: handshake.length, failure }));
    expect((await failureOf(device.probe(1))).code).toBe(code);
    expect(device.status).toBe(status);
  });

  it('[F24] a backend that says its configuration has changed, and asks to be reset, is shown', async () => {
    const { device } = world();
    const failure = new VirtioUserError('BACKEND_REFUSED', 'GET_STATUS');
    const frontend = new FakeFrontend({ features: rich, failAt: handshake.length, failure });
    await device.bringUp(frontend);
    frontend.onConfigChange?.();
    // Serialised after the look.
    await device.probe(1);
    expect(device.status).toBe(0x4f);
  });

  it('[44] shows status 0x0F only while ready', async () => {
    const seen: (readonly [string, number])[] = [];
    const { device } = world();
    const frontend = new FakeFrontend({ features: rich });
    const calls = frontend.calls;
    const push = calls.push.bind(calls);
    calls.push = (...call) => {
      seen.push([device.state.kind, device.status]);
      return push(...call);
    };
    seen.push([device.state.kind, device.status]);
    await device.bringUp(frontend);
    seen.push([device.state.kind, device.status]);
    await device.shutDown();
    seen.push([device.state.kind, device.status]);
    for (const [kind, status] of seen) expect([kind, status === 0x0f]).toEqual([kind, kind === 'ready']);
    expect(new Set(seen.filter(([kind]) => kind === 'negotiating').map(([, status]) => status))).toEqual(
      new Set([0x03, 0x0b]),
    );
  });

  it('[45] does not start twice: a second connection without a shutdown is a bug, and the first goes on', async () => {
    const { device } = world();
    const ready = await device.bringUp(new FakeFrontend({ features: rich }));
    const second = new FakeFrontend({ features: rich });
    expect((await failureOf(device.bringUp(second))).code).toBe('BUG');
    expect([second.calls, second.closed > 0]).toEqual([[], true]);
    expect(device.state).toEqual({ kind: 'ready', ready });
  });

  it('names the step under way', async () => {
    const { device } = world();
    const frontend = new FakeFrontend({ features: rich, stopAt: handshake.indexOf('setMemoryTable 1') });
    const outcome = failureOf(device.bringUp(frontend));
    await frontend.stopped;
    expect(device.state).toEqual({ kind: 'negotiating', step: 'SET_MEM_TABLE' });
    await device.shutDown();
    await outcome;
  });
});

describe('a later connection', () => {
  it('[77] gets new memory and base 0', async () => {
    const { device, sessions } = world();
    const first = await device.bringUp(new FakeFrontend({ features: rich }));
    await device.shutDown();
    const frontend = new FakeFrontend({ features: rich });
    const second = await device.bringUp(frontend);
    expect(second.session).not.toBe(first.session);
    expect(sessions.open.size).toBe(1);
    expect(frontend.calls).toContain('setVringBase 0 0');
  });

  it('[F25] reports what it lacks, and takes it back when the full offer returns', async () => {
    const { device } = world();
    await device.bringUp(new FakeFrontend({ features: rich }));
    await device.shutDown();
    const poor = await device.bringUp(new FakeFrontend({ features: rich & ~featureMask(11, 12) }));
    expect(poor.degradedBy).toEqual(['HOST_TSO4', 'HOST_TSO6']);
    expect(poor.offloads.softwareGso).toBe(true);
    await device.shutDown();
    const full = await device.bringUp(new FakeFrontend({ features: rich }));
    expect([full.degradedBy, full.offloads.softwareGso]).toEqual([[], false]);
  });

  it('[76] [F26] is measured by the first that reached DRIVER_OK, not by one that failed', async () => {
    const { device } = world();
    await failureOf(device.bringUp(new FakeFrontend({ features: featureMask(30, 32), failAt: 12 })));
    const ready = await device.bringUp(new FakeFrontend({ features: rich }));
    expect(ready.ackedFeatures).toBe(0x120009983n);
    expect(ready.degradedBy).toEqual([]);
  });

  it('[75] [F25] parks on loss of VERSION_1 with nothing set, and resumes with the full offer', async () => {
    const { device } = world();
    await device.bringUp(new FakeFrontend({ features: rich }));
    await device.shutDown();
    const poor = new FakeFrontend({ features: rich & ~featureMask(32) });
    await failureOf(device.bringUp(poor));
    expect([device.state.kind, poor.calls]).toEqual(['parked', ['setOwner', 'getFeatures']]);
    expect((await device.bringUp(new FakeFrontend({ features: rich }))).degradedBy).toEqual([]);
  });
});

describe('shutDown', () => {
  const stop = ['setVringEnable 0 0', 'setVringEnable 1 0', 'getVringBase 0', 'getVringBase 1'];

  it('[46] disables all rings, takes each back, closes connection and memory', async () => {
    const { device, ledger } = world();
    const frontend = new FakeFrontend({ features: rich });
    await device.bringUp(frontend);
    expect(await device.shutDown()).toEqual([]);
    expect(frontend.calls.slice(handshake.length)).toEqual(stop);
    expect([device.state.kind, device.status, ledger.open, frontend.closed > 0]).toEqual(['idle', 0, 0, true]);
  });

  it('knows of a backend that has not given its rings back, whichever side ended the connection', async () => {
    const { device } = world();
    expect(device.ringsOut).toBe(false);
    const frontend = new FakeFrontend({ features: rich, stopAt: handshake.length + stop.length - 1 });
    await device.bringUp(frontend);
    expect(device.ringsOut).toBe(true);
    const ended = device.shutDown();
    await frontend.stopped;
    frontend.close();
    await ended;
    expect(device.ringsOut).toBe(true);
    await device.bringUp(new FakeFrontend({ features: rich }));
    await device.shutDown();
    expect(device.ringsOut).toBe(false);
  });

  it.each([
    ['before it has a ring', 'setMemoryTable 1', false],
    ['when it has one', 'setVringKick 0', true],
  ])('of a handshake that is given up %s says whether rings are out', async (_when, step, out) => {
    const { device } = world();
    const frontend = new FakeFrontend({ features: rich, stopAt: handshake.indexOf(step) });
    const failed = failureOf(device.bringUp(frontend));
    await frontend.stopped;
    await device.shutDown();
    expect([(await failed).code, device.ringsOut]).toEqual(['CANCELLED', out]);
  });

  it.each([0, 1, 2, 3])('[46] [F12] ends locally when the backend is gone at its step %d', async (step) => {
    const { device, ledger } = world();
    const frontend = new FakeFrontend({ features: rich, failAt: handshake.length + step });
    await device.bringUp(frontend);
    expect(await device.shutDown()).toMatchObject([
      { kind: 'no-answer', what: expect.stringContaining('stopped without the backend') },
    ]);
    expect([device.state.kind, ledger.open]).toEqual(['idle', 0]);
  });

  it.each([
    [1023, 1000, 0],
    [5, 65530, 0],
    [1000 + 1024, 1000, 0],
    [1000 + 1025, 1000, 2],
    [999, 1000, 2],
    [70000, 1000, 2],
  ])('[46] [F30] reports a base of %d where %d is expected as %d anomalies', async (base, expectedBase, count) => {
    const { device, sessions } = world();
    sessions.expectedBase = expectedBase;
    await device.bringUp(new FakeFrontend({ features: rich, base }));
    expect((await device.shutDown()).map(({ kind }) => kind)).toEqual(Array<string>(count).fill('vring-base'));
  });

  it('starts packed rings with both wrap counters 1', async () => {
    const { device, sessions } = world({ packedVq: true });
    const frontend = new FakeFrontend({ features: rich | featureMask(34) });
    await device.bringUp(frontend);
    expect(frontend.calls).toContain(`setVringBase 0 ${String(0x80008000)}`);
    expect(frontend.calls).toContain(`setVringBase 1 ${String(0x80008000)}`);
    expect(sessions.made[0]?.features).toBe(0x520029983n);
  });

  it.each([
    [0x8010, 0x8010, 0],
    [0x80108010, 0x8010, 0],
    [3, 0x83ff, 0],
    [0x8011, 0x8010, 0],
    [0x800f, 0x8010, 2],
    [0x0011, 0x8010, 2],
    [0x8400, 0x8010, 2],
  ])(
    '[46] [F30] reports a packed base of %d where %d is expected as %d anomalies',
    async (base, expectedBase, count) => {
      const { device, sessions } = world({ packedVq: true });
      sessions.expectedBase = expectedBase;
      await device.bringUp(new FakeFrontend({ features: rich | featureMask(34), base }));
      expect((await device.shutDown()).map(({ kind }) => kind)).toEqual(Array<string>(count).fill('vring-base'));
    },
  );

  it('reports memory that cannot be freed', async () => {
    const { device, sessions } = world();
    await device.bringUp(new FakeFrontend({ features: rich }));
    sessions.failClose = new Error('a port owns the session');
    expect(await device.shutDown()).toEqual([
      { kind: 'memory-kept', what: 'memory of the connection not freed: a port owns the session' },
    ]);
  });

  it('[13] is harmless when idle, twice, and concurrently', async () => {
    const { device, ledger } = world();
    expect(await device.shutDown()).toEqual([]);
    const frontend = new FakeFrontend({ features: rich });
    await device.bringUp(frontend);
    await Promise.all([device.shutDown(), device.shutDown()]);
    expect(frontend.calls.slice(handshake.length)).toEqual(stop);
    expect(ledger.open).toBe(0);
  });

  it.each(handshake.map((call, step) => [call, step] as const))(
    '[13] [84] ends a handshake that hangs in %s at once, with nothing left',
    async (_call, step) => {
      const { device, ledger } = world();
      const frontend = new FakeFrontend({ features: rich, stopAt: step });
      const outcome = failureOf(device.bringUp(frontend));
      await frontend.stopped;
      await device.shutDown();
      expect((await outcome).code).toBe('CANCELLED');
      expect([device.state.kind, ledger.open]).toEqual(['idle', 0]);
    },
  );

  it.each(handshake.map((call) => [call]))(
    '[50] asked for while %s succeeds still ends the handshake there',
    async (last) => {
      const { device, ledger } = world();
      let stopped: Promise<unknown> = Promise.resolve();
      const frontend = new FakeFrontend({
        features: rich,
        onCall: (call) => {
          if (call === last) stopped = device.shutDown();
        },
      });
      expect((await failureOf(device.bringUp(frontend))).code).toBe('CANCELLED');
      expect([await stopped, device.state.kind, ledger.open]).toEqual([[], 'idle', 0]);
      expect(frontend.calls.at(-1)).toBe(last);
    },
  );

  it('[50] ends a bringUp that waits behind another, and serialises what comes after', async () => {
    const { device, ledger } = world();
    const [first, second, third] = [0, 1, 2].map(() => new FakeFrontend({ features: rich }));
    if (first === undefined || second === undefined || third === undefined) throw new Error('three frontends');
    const outcomes = [failureOf(device.bringUp(first)), failureOf(device.bringUp(second))];
    const stopped = device.shutDown();
    const ready = device.bringUp(third);
    expect((await Promise.all(outcomes)).map(({ code }) => code)).toEqual(['CANCELLED', 'CANCELLED']);
    await stopped;
    await ready;
    expect(second.calls).toEqual([]);
    expect(third.calls).toEqual(handshake);
    await device.shutDown();
    expect(ledger.open).toBe(0);
  });
});
