/** The handshake over real sockets, with real memory and eventfds, against the scripted backend in both modes. */
import { once } from 'node:events';
import { mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import type { VirtioUserDevice } from '../../src/device/api.ts';
import { createVirtioUserDevice } from '../../src/device/device.ts';
import type { Frontend, FrontendSource } from '../../src/device/frontend.ts';
import { probeBackend } from '../../src/frontends/probe.ts';
import { createVhostUserSource } from '../../src/frontends/source.ts';
import type { Listener } from '../../src/native/binding.ts';
import { loadNative } from '../../src/native/load.ts';
import { silentLogger } from '../../src/telemetry/log.ts';
import { failureOf } from '../support/connection.ts';
import { FakeDataPath } from '../support/fake-data-path.ts';
import { deviceOptions } from '../support/fake-session.ts';
import { descriptorsBackTo, openDescriptors } from '../support/open-descriptors.ts';
import { give } from '../support/native-sockets.ts';
import { until } from '../support/process.ts';
import { dpdkOffer, ScriptedBackend, type ScriptedOptions, vppOffer } from '../support/scripted-backend.ts';

const native = loadNative();
let directory = '';
const undos: (() => void)[] = [];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vu-conn-'));
});

afterEach(() => {
  for (const undo of undos.splice(0).reverse()) undo();
  rmSync(directory, { recursive: true });
});

const socketPath = () => ({ baseDirectory: directory, relativePath: 'vhost.sock' });

/** Of threads that no session has, and that earlier tests of the process may have left on their way out. */
const passing = ['vu-dellink', 'vu-child'];

function threadNames(): string[] {
  return readdirSync('/proc/self/task').flatMap((task) => {
    try {
      return [readFileSync(`/proc/self/task/${task}/comm`, 'utf8').trim()];
    } catch {
      return []; // ended meanwhile
    }
  });
}

/** What else a session could leave behind: its mappings, and threads of ours. */
function held(): { readonly mappings: number; readonly threads: readonly string[] } {
  const mapped = readFileSync('/proc/self/maps', 'utf8').split('\n');
  return {
    mappings: mapped.filter((line) => /memfd:vu-/.test(line)).length,
    threads: threadNames().filter((name) => name.startsWith('vu-') && !passing.includes(name)),
  };
}

/** The kernel takes its time over what has ended. */
async function expectNothingHeld(): Promise<void> {
  const nothing = { mappings: 0, threads: ['vu-reactor'] };
  await until('nothing to be held', () => JSON.stringify(held()) === JSON.stringify(nothing)).catch(() => undefined);
  expect(held()).toEqual(nothing);
}

function newDevice(queues = 1): VirtioUserDevice {
  return createVirtioUserDevice(
    deviceOptions({ queues, queueSize: 256 }),
    (options) => native.createSession(options),
    new FakeDataPath(),
  );
}

interface Connected {
  readonly frontend: Frontend;
  readonly released: () => void;
}

function openSource(server: boolean): { readonly source: FrontendSource; readonly next: () => Promise<Connected> } {
  const source = createVhostUserSource({
    binding: native,
    path: socketPath(),
    server,
    mode: 0o660,
    groupId: null,
    logger: silentLogger,
  });
  undos.push(() => source.close());
  const arrived: Connected[] = [];
  const waiting: ((connected: Connected) => void)[] = [];
  source.open((frontend, released) => {
    const take = waiting.shift();
    if (take === undefined) arrived.push({ frontend, released });
    else take({ frontend, released });
  });
  const next = (): Promise<Connected> => {
    const first = arrived.shift();
    return first === undefined ? new Promise((resolve) => waiting.push(resolve)) : Promise.resolve(first);
  };
  return { source, next };
}

/** A switch that listens and serves each connection with a backend of its own. */
function backendListens(options: ScriptedOptions): {
  readonly backends: ScriptedBackend[];
  readonly listener: Listener;
} {
  const backends: ScriptedBackend[] = [];
  const listener = native.listenUnix(
    { path: socketPath(), mode: 0o660, groupId: null, backlog: 1 },
    {
      onConnection: (incoming) => {
        backends.push(new ScriptedBackend(options).serve((handlers) => incoming.accept(handlers)));
      },
      onFault: (fault) => {
        throw fault;
      },
    },
  );
  undos.push(() => listener.close());
  return { backends, listener };
}

function backendConnects(options: ScriptedOptions): ScriptedBackend {
  return new ScriptedBackend(options).serve((handlers) => native.connectUnix(socketPath(), handlers));
}

describe.each([
  ['DPDK 22.11', dpdkOffer],
  ['VPP', vppOffer],
])('with what %s offers', (_name, offer) => {
  it.each([true, false])('[29] [39] comes up and goes down over a real socket (server %s)', async (server) => {
    const listening = server ? null : backendListens(offer);
    const { next } = openSource(server);
    const connecting = server ? backendConnects(offer) : null;
    const { frontend, released } = await next();
    const device = newDevice();
    await device.bringUp(frontend);
    const backend = connecting ?? listening?.backends[0];
    if (backend === undefined) throw new Error('no backend');
    expect([backend.violations, backend.fragmented, backend.running]).toEqual([[], 0, true]);
    expect(frontend.backendPid).toBe(process.pid);
    expect(await device.shutDown()).toEqual([]);
    released();
    await backend.ended;
    expect(backend.violations).toEqual([]);
  });
});

describe('over a real socket', () => {
  it('[9] [36] a handshake that fails at any message leaves descriptors, mappings and threads as they were', async () => {
    const { next } = openSource(true);
    const device = newDevice();
    // The first connection starts the reactor, whose descriptors stay.
    const warm = backendConnects({ ...dpdkOffer, misbehave: () => ({ kind: 'close' }) });
    const first = await next();
    await failureOf(device.bringUp(first.frontend));
    await warm.ended;
    first.released();
    await expectNothingHeld();
    let fewest = openDescriptors();
    const mapped: number[] = [];
    for (const name of ['GET_FEATURES', 'SET_VRING_CALL', 'SET_FEATURES', 'SET_MEM_TABLE', 'SET_VRING_KICK']) {
      const backend = backendConnects({
        ...dpdkOffer,
        misbehave: (message) => {
          if (message.name !== name) return null;
          mapped.push(held().mappings);
          return { kind: 'close' };
        },
      });
      const { frontend, released } = await next();
      expect((await failureOf(device.bringUp(frontend))).code).toBe('DISCONNECTED');
      await backend.ended;
      released();
      await descriptorsBackTo(fewest);
      fewest = Math.min(fewest, openDescriptors());
      await expectNothingHeld();
    }
    // Those that come after the session was made.
    expect(mapped.filter((count) => count > 0)).toHaveLength(4);
  });

  it('[F8] sees a backend die while it waits, long before the deadline', async () => {
    const { next } = openSource(true);
    const backend = backendConnects({
      ...dpdkOffer,
      misbehave: ({ name }) => (name === 'SET_MEM_TABLE' ? { kind: 'silent' } : null),
    });
    const { frontend } = await next();
    const outcome = failureOf(newDevice().bringUp(frontend));
    await backend.stalled;
    const since = performance.now();
    backend.die();
    expect(await outcome).toMatchObject({ code: 'DISCONNECTED', details: { request: 'SET_MEM_TABLE' } });
    expect(performance.now() - since).toBeLessThan(4000); // of 5000
  });

  it('[79] tells every backend the same labels of its new memory', async () => {
    const { next } = openSource(true);
    const device = newDevice();
    const backends: ScriptedBackend[] = [];
    for (const offer of [dpdkOffer, vppOffer, dpdkOffer]) {
      const backend = backendConnects(offer);
      backends.push(backend);
      const { frontend, released } = await next();
      await device.bringUp(frontend);
      expect(backend.violations).toEqual([]);
      backend.die();
      await device.shutDown();
      released();
    }
    const [first, ...later] = backends.map(({ memoryTables }) => memoryTables);
    expect(first).toEqual([[{ ...first?.[0]?.[0], userAddress: first?.[0]?.[0]?.guestAddress, offsetBytes: 0n }]]);
    expect(later).toEqual([first, first]);
  });

  it('[69] client mode finds a backend that comes back on the same path', async () => {
    const first = backendListens(dpdkOffer);
    const { next } = openSource(false);
    const device = newDevice(2);
    const before = await next();
    const ended = new Promise((resolve) => {
      before.frontend.onDisconnect = resolve;
    });
    await device.bringUp(before.frontend);
    first.listener.close();
    first.backends[0]?.die();
    await ended;
    await device.shutDown();
    before.released();
    const second = backendListens(dpdkOffer);
    const after = await next();
    expect(after.frontend.generation).toBe(2);
    expect((await device.bringUp(after.frontend)).degradedBy).toEqual([]);
    expect(second.backends[0]?.violations).toEqual([]);
    await device.shutDown();
  });

  it('[39] server mode serves the second connection when the first has ended', async () => {
    const { next } = openSource(true);
    const device = newDevice();
    const [first, second] = [backendConnects(dpdkOffer), backendConnects(dpdkOffer)];
    const before = await next();
    await device.bringUp(before.frontend);
    expect([first.running, second.trace]).toEqual([true, []]);
    first.die();
    await device.shutDown();
    before.released();
    const after = await next();
    await device.bringUp(after.frontend);
    expect([second.running, second.violations]).toEqual([true, []]);
    await device.shutDown();
  });

  it('[42] [F46] [F47] serves the back channel: one request answered, one refused, descriptors closed, then the end', async () => {
    const { next } = openSource(true);
    const device = newDevice();
    const backend = backendConnects(dpdkOffer);
    const { frontend } = await next();
    await device.bringUp(frontend);
    const { backChannel } = backend;
    if (backChannel === null) throw new Error('no back channel');
    const before = openDescriptors();
    const peer = give(
      backChannel,
      `
import socket, struct
s = socket.socket(fileno=3)
ask = lambda number, size=0: struct.pack("=III", number, 9, size) + bytes(size)
answer = lambda: struct.unpack("=IIIQ", s.recv(20, socket.MSG_WAITALL))
s.send(ask(2))
assert answer() == (2, 5, 8, 0)
socket.send_fds(s, [ask(3, 24)], [0, 1, 2])
assert answer() == (3, 5, 8, 1)
s.send(struct.pack("=III", 2, 0, 0))
assert s.recv(1) == b""
`,
    );
    const [code] = (await once(peer, 'exit')) as [number | null];
    expect(code).toBe(0);
    expect(backend.trace.at(-1)).toBe('GET_STATUS');
    // Ours is closed; the one that the backend holds is still there.
    await descriptorsBackTo(before - 1);
    expect(await device.shutDown()).toEqual([]);
  });

  it('probe reads what a backend offers', async () => {
    const { backends } = backendListens({ ...dpdkOffer, probed: true, queuePairs: 8 });
    expect(await probeBackend(join(directory, 'vhost.sock'), native)).toMatchObject({
      features: dpdkOffer.features,
      queuePairs: 8,
      backendPid: process.pid,
    });
    await backends[0]?.ended;
    expect(backends[0]?.violations).toEqual([]);
  });

  it.each<readonly [string, () => void, string]>([
    ['nothing', () => undefined, 'BACKEND_ABSENT'],
    ['a file', () => writeFileSync(join(directory, 'vhost.sock'), ''), 'SOCKET_PATH'],
    ['a symbolic link', () => symlinkSync('/run/elsewhere.sock', join(directory, 'vhost.sock')), 'SOCKET_PATH'],
  ])('probe of %s is refused by name', async (_what, make, code) => {
    make();
    expect((await failureOf(probeBackend(join(directory, 'vhost.sock'), native))).code).toBe(code);
  });
});
