import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from '@jest/globals';
import type { Frontend, FrontendSource } from '../../src/device/frontend.ts';
import { createVhostUserSource, type VhostUserSourceOptions } from '../../src/frontends/source.ts';
import type { Listener } from '../../src/native/binding.ts';
import { silentLogger } from '../../src/telemetry/log.ts';
import { deviceWorld, settle } from '../support/connection.ts';
import { ManualTimers } from '../support/manual-timers.ts';
import { MemoryBinding, type MemorySocket } from '../support/memory-socket.ts';
import { dpdkOffer, ScriptedBackend } from '../support/scripted-backend.ts';

const directory = '/run/virtio-user/vhost';
const path = `${directory}/vu0123456789ab.sock`;

interface Offered {
  readonly frontend: Frontend;
  readonly released: () => void;
}

interface SourceWorld {
  readonly binding: MemoryBinding;
  readonly timers: ManualTimers;
  readonly source: FrontendSource;
  readonly offered: Offered[];
  /** Tells the source that a name changed in its directory. */
  readonly change: (name: string | null) => void;
  readonly watching: () => number;
}

function sourceWorld(server: boolean, changes: Partial<VhostUserSourceOptions> = {}): SourceWorld {
  const binding = new MemoryBinding();
  const timers = new ManualTimers();
  const watchers = new Set<(name: string | null) => void>();
  const source = createVhostUserSource({
    binding,
    path: { baseDirectory: directory, relativePath: 'vu0123456789ab.sock' },
    server,
    mode: 0o660,
    groupId: null,
    logger: silentLogger,
    timers,
    random: () => 0.5,
    watchDirectory: (_directory, onChange) => {
      watchers.add(onChange);
      return () => watchers.delete(onChange);
    },
    ...changes,
  });
  const offered: Offered[] = [];
  return {
    binding,
    timers,
    source,
    offered,
    change: (name) => watchers.forEach((onChange) => onChange(name)),
    watching: () => watchers.size,
  };
}

function open({ source, offered }: SourceWorld): void {
  source.open((frontend, released) => offered.push({ frontend, released }));
}

/** What a switch is to the source in client mode: listens, and keeps the sockets that come. */
function switchListens(binding: MemoryBinding): { readonly sockets: MemorySocket[]; readonly listener: Listener } {
  const sockets: MemorySocket[] = [];
  const listener = binding.listenUnix(
    { path: { baseDirectory: directory, relativePath: 'vu0123456789ab.sock' }, mode: 0, groupId: null, backlog: 1 },
    {
      onConnection: (incoming) =>
        sockets.push(incoming.accept({ onData: () => {}, onClose: () => {} }) as MemorySocket),
      onFault: () => {},
    },
  );
  return { sockets, listener };
}

describe('server mode', () => {
  it('[11] listens at once, hands over a connection when one comes, and frees the path on close', async () => {
    const world = sourceWorld(true);
    open(world);
    expect(world.source.situation).toBe(`listening on ${path}`);
    world.binding.dial(path).attach({ onData: () => {}, onClose: () => {} });
    await settle();
    expect(world.offered.map(({ frontend }) => frontend.generation)).toEqual([1]);
    expect(world.source.situation).toContain('connected');
    world.source.close();
    expect(world.binding.isListening(path)).toBe(false);
  });

  it('serves a handshake on what it hands over', async () => {
    const world = sourceWorld(true);
    open(world);
    const backend = new ScriptedBackend(dpdkOffer).serve((handlers) => world.binding.dial(path).attach(handlers));
    await settle();
    const frontend = world.offered[0]?.frontend;
    if (frontend === undefined) throw new Error('nothing offered');
    await deviceWorld().device.bringUp(frontend);
    expect([backend.violations, backend.running]).toEqual([[], true]);
  });

  describe('[80] [F43] a second connection', () => {
    async function twoConnected() {
      const world = sourceWorld(true);
      open(world);
      const events: string[] = [];
      const dial = (name: string): MemorySocket =>
        world.binding.dial(path).attach({
          onData: () => events.push(`${name} data`),
          onClose: () => events.push(`${name} closed`),
        });
      const first = dial('first');
      await settle();
      world.timers.advance(1000);
      const second = dial('second');
      await settle();
      return { world, events, first, second, dial };
    }

    it('is held, not answered, and does not disturb the first', async () => {
      const { world, events } = await twoConnected();
      expect([world.offered.length, events]).toEqual([1, []]);
      expect(world.timers.pending).toEqual([2000]);
    });

    it('is refused after two seconds, and the first lives on', async () => {
      const { world, events } = await twoConnected();
      world.timers.advance(1999);
      await settle();
      expect(events).toEqual([]);
      world.timers.advance(1);
      await settle();
      expect([world.offered.length, events]).toEqual([1, ['second closed']]);
      world.offered[0]?.released();
      expect(world.offered).toHaveLength(1);
    });

    it('is promoted when the first has ended and was released', async () => {
      const { world, events, first } = await twoConnected();
      first.close();
      await settle();
      expect(world.offered).toHaveLength(1);
      world.offered[0]?.released();
      expect(world.offered.map(({ frontend }) => frontend.generation)).toEqual([1, 2]);
      void world.offered[1]?.frontend.setOwner();
      await settle();
      expect(events).toEqual(['second data']);
      expect(world.timers.pending).toEqual([]);
    });

    it('is a first one once promoted: its end does not touch the next that is held', async () => {
      const { world, events, first, second, dial } = await twoConnected();
      first.close();
      await settle();
      world.offered[0]?.released();
      dial('third');
      await settle();
      world.timers.advance(1000);
      second.close();
      await settle();
      expect(events).toEqual([]);
      world.offered[1]?.released();
      expect(world.offered).toHaveLength(3);
    });

    it('waits beyond two seconds when the first has ended and its user is still cleaning up', async () => {
      const { world, events, first } = await twoConnected();
      first.close();
      await settle();
      world.timers.advance(3000);
      world.offered[0]?.released();
      expect([world.offered.length, events]).toEqual([2, []]);
    });

    it('is forgotten when it leaves, or speaks before it is spoken to', async () => {
      for (const misbehave of [
        (socket: MemorySocket) => socket.close(),
        (s: MemorySocket) => s.send(Buffer.of(1), []),
      ]) {
        const { world, second } = await twoConnected();
        misbehave(second);
        await settle();
        world.offered[0]?.released();
        expect([world.offered.length, world.timers.pending]).toEqual([1, []]);
      }
    });

    it('stays in its place when a third comes, which is refused', async () => {
      const { world, events, dial } = await twoConnected();
      dial('third');
      await settle();
      expect(events).toEqual(['third closed']);
      world.offered[0]?.released();
      expect(world.offered).toHaveLength(2);
    });

    it('goes when the source closes', async () => {
      const { world, events } = await twoConnected();
      world.source.close();
      await settle();
      expect([events, world.timers.pending]).toEqual([['second closed'], []]);
    });
  });

  describe('a backend that leaves as soon as it has come', () => {
    function leavingBackend() {
      const world = sourceWorld(true);
      open(world);
      const dial = async (): Promise<MemorySocket> => {
        const socket = world.binding.dial(path).attach({ onData: () => {}, onClose: () => {} });
        await settle();
        return socket;
      };
      const leave = async (socket: MemorySocket): Promise<void> => {
        socket.close();
        await settle();
        world.offered.at(-1)?.released();
      };
      return { world, dial, leave };
    }

    it('is served again after a back-off from 100 ms to 1 s, which one that stayed ends', async () => {
      const { world, dial, leave } = leavingBackend();
      const delays: number[] = [];
      for (let connection = 0; connection < 6; connection += 1) {
        const socket = await dial();
        if (connection > 0) world.timers.advance(world.timers.pending[0] ?? Number.NaN);
        expect(world.offered).toHaveLength(connection + 1);
        await leave(socket);
        delays.push(world.timers.pending[0] ?? Number.NaN);
      }
      expect(delays).toEqual([100, 200, 400, 800, 1000, 1000]);
      const staying = await dial();
      world.timers.advance(2000);
      await leave(staying);
      expect(world.timers.pending).toEqual([]);
      await leave(await dial());
      expect([world.offered.length, world.timers.pending]).toEqual([8, [100]]);
    });

    it('is accepted and not answered meanwhile; one that leaves meanwhile too is never served', async () => {
      const { world, dial, leave } = leavingBackend();
      await leave(await dial());
      const impatient = await dial();
      expect(world.source.situation).toContain('the next is served in about a second');
      impatient.close();
      await settle();
      world.timers.advance(100);
      expect([world.offered.length, world.timers.pending]).toEqual([1, []]);
      await dial();
      expect(world.offered).toHaveLength(2);
    });

    it('leaves no timer behind when the source closes, before or after its release', async () => {
      for (const closeFirst of [true, false]) {
        const { world, dial, leave } = leavingBackend();
        const socket = await dial();
        if (closeFirst) world.source.close();
        await leave(socket);
        world.source.close();
        expect(world.timers.pending).toEqual([]);
      }
    });
  });

  describe('a socket whose file is gone', () => {
    function listening() {
      let file: string | null = 'ours';
      const world = sourceWorld(true, { fileAt: () => file });
      open(world);
      const { binding, timers, source } = world;
      const listen = binding.listenUnix.bind(binding);
      const tries: number[] = [];
      // A new socket is a new file.
      binding.listenUnix = (options, handlers) => {
        tries.push(timers.now());
        const listener = listen(options, handlers);
        file = `ours ${tries.length}`;
        return listener;
      };
      const lose = (by: string | null): void => {
        file = by;
        binding.forget(path);
      };
      return { ...world, source, tries, lose };
    }
    const dial = async ({ binding }: SourceWorld): Promise<MemorySocket> => {
      const socket = binding.dial(path).attach({ onData: () => {}, onClose: () => {} });
      await settle();
      return socket;
    };

    it('is made again within seconds, and only once', async () => {
      const world = listening();
      world.timers.advance(20_000);
      expect(world.tries).toEqual([]);
      for (const by of [null, 'another dead one']) {
        world.lose(by);
        world.timers.advance(5000);
        expect(world.binding.isListening(path)).toBe(true);
      }
      world.timers.advance(60_000);
      expect(world.tries).toEqual([25_000, 30_000]);
      await dial(world);
      expect(world.offered).toHaveLength(1);
      world.source.close();
      expect([world.binding.isListening(path), world.timers.pending]).toEqual([false, []]);
    });

    it('is not looked at while somebody is connected, and right after', async () => {
      const world = listening();
      const socket = await dial(world);
      expect(world.timers.pending).toEqual([]);
      world.lose(null);
      world.timers.advance(60_000);
      expect(world.tries).toEqual([]);
      socket.close();
      await settle();
      world.offered[0]?.released();
      world.timers.advance(0);
      expect(world.tries).toEqual([60_000]);
    });

    it('stays with somebody who answers there; asked for ever more seldom, and had again when he has gone', () => {
      const world = listening();
      world.lose('theirs');
      world.binding.failures.set(path, 'EADDRINUSE');
      world.timers.advance(300_000);
      const waits = world.tries.map((at, index) => at - (world.tries[index - 1] ?? 0));
      expect(waits.slice(0, 6)).toEqual([5000, 10_000, 20_000, 40_000, 60_000, 60_000]);
      expect(world.source.situation).toMatch(/its file is gone: .*another process answers there/);
      world.binding.failures.delete(path);
      world.timers.advance(60_000);
      expect(world.source.situation).toBe(`listening on ${path}`);
      expect(world.binding.isListening(path)).toBe(true);
    });
  });

  it.each([
    ['EADDRINUSE', 'CONFLICT_SOCKET'],
    ['ELOOP', 'SOCKET_PATH'],
    ['ENAMETOOLONG', 'SOCKET_PATH'],
    ['EACCES', 'SYSCALL_FAILED'],
    ['ENOENT', 'SYSCALL_FAILED'],
    ['EMFILE', 'RESOURCE_EXHAUSTED'],
    ['ENOMEM', 'RESOURCE_EXHAUSTED'],
  ])('says at once that it cannot listen: %s is %s', (errno, code) => {
    const world = sourceWorld(true);
    world.binding.failures.set(path, errno);
    expect(() => open(world)).toThrow(expect.objectContaining({ code, details: { errno, path } }));
  });
});

describe('socket paths', () => {
  const named = (server: boolean, length: number): SourceWorld =>
    sourceWorld(server, { path: { baseDirectory: '/r', relativePath: 'x'.repeat(length - '/r/'.length) } });

  it.each([true, false])('[4] of 108 bytes are refused, of 107 are not (server %s)', (server) => {
    expect(() => open(named(server, 108))).toThrow(expect.objectContaining({ code: 'SOCKET_PATH' }));
    const world = named(server, 107);
    open(world);
    world.source.close();
  });
});

describe('client mode', () => {
  it('connects, and says where it stands', async () => {
    const world = sourceWorld(false);
    const { sockets } = switchListens(world.binding);
    open(world);
    world.timers.advance(0);
    await settle();
    expect([world.offered.length, sockets.length]).toEqual([1, 1]);
    expect(world.source.situation).toBe(`connected to ${path}`);
  });

  it('[F1] backs off from 100 ms to 1 s while there is no socket', () => {
    const world = sourceWorld(false);
    open(world);
    const delays: number[] = [];
    for (let attempt = 0; attempt < 7; attempt += 1) {
      world.timers.advance(world.timers.pending[0] ?? Number.NaN);
      delays.push(world.timers.pending[0] ?? Number.NaN);
    }
    expect(delays).toEqual([100, 200, 400, 800, 1000, 1000, 1000]);
    expect(world.source.situation).toBe(`connect ${path}: ENOENT, waiting for the backend`);
  });

  it.each([
    [0, 80],
    [0.999999999, 120],
  ])('[85] spreads attempts by a fifth: random %d waits %d ms', (random, expected) => {
    const world = sourceWorld(false, { random: () => random });
    open(world);
    world.timers.advance(0);
    expect(world.timers.pending[0]).toBeCloseTo(expected, 3);
  });

  it.each(['EACCES', 'ENOTSOCK', 'ELOOP', 'EXDEV'])('[F2] retries %s after 30 s and says why', (errno) => {
    const world = sourceWorld(false);
    world.binding.failures.set(path, errno);
    open(world);
    world.timers.advance(0);
    expect(world.timers.pending).toEqual([30_000]);
    expect(world.source.situation).toBe(`connect ${path}: ${errno}, does not mend by itself, next attempt within 30 s`);
    world.binding.failures.delete(path);
    switchListens(world.binding);
    world.timers.advance(30_000);
    expect(world.offered).toHaveLength(1);
  });

  it('tries a socket that appears at once, whatever the back-off says', () => {
    const world = sourceWorld(false);
    open(world);
    world.timers.advance(5000);
    switchListens(world.binding);
    world.change('vu0123456789ab.sock');
    expect(world.timers.pending).toEqual([5]);
    world.timers.advance(5);
    expect(world.offered).toHaveLength(1);
  });

  it('does not care for other names, and is not put off by a stream of changes', () => {
    const world = sourceWorld(false);
    open(world);
    world.timers.advance(3000);
    const before = world.timers.pending;
    world.change('another.sock');
    expect(world.timers.pending).toEqual(before);
    const attempts = world.binding.attempts.length;
    for (let tick = 0; tick < 100; tick += 1) {
      world.change('vu0123456789ab.sock');
      world.timers.advance(1);
    }
    const made = world.binding.attempts.length - attempts;
    expect(made).toBeGreaterThan(10);
    expect(made).toBeLessThanOrEqual(21);
  });

  it('offers the next connection only when the one before was released, without delay if the socket is new', async () => {
    const world = sourceWorld(false);
    const { sockets, listener } = switchListens(world.binding);
    open(world);
    world.timers.advance(0);
    await settle();
    world.timers.advance(60_000);
    sockets[0]?.close();
    listener.close();
    switchListens(world.binding);
    world.change('vu0123456789ab.sock');
    await settle();
    expect([world.offered.length, world.timers.pending]).toEqual([1, []]);
    world.offered[0]?.released();
    world.offered[0]?.released();
    expect(world.timers.pending).toEqual([5]);
    world.timers.advance(5);
    expect(world.offered.map(({ frontend }) => frontend.generation)).toEqual([1, 2]);
  });

  it('waits longer each time a connection ends soon, and starts anew after one that lasted', async () => {
    const world = sourceWorld(false);
    switchListens(world.binding);
    open(world);
    world.timers.advance(0);
    const delays: number[] = [];
    for (let connection = 0; connection < 6; connection += 1) {
      if (connection === 5) world.timers.advance(1000);
      world.offered[connection]?.frontend.close();
      world.offered[connection]?.released();
      delays.push(world.timers.pending[0] ?? Number.NaN);
      world.timers.advance(delays.at(-1) ?? 0);
      await settle();
    }
    expect(delays).toEqual([100, 200, 400, 800, 1000, 100]);
  });

  it('(EAGAIN) treats a full backlog as something that passes', () => {
    const world = sourceWorld(false);
    world.binding.failures.set(path, 'EAGAIN');
    open(world);
    world.timers.advance(0);
    expect(world.timers.pending).toEqual([100]);
  });

  it('leaves no timer and no watch when it closes, before or after a connection', async () => {
    for (const connected of [false, true]) {
      const world = sourceWorld(false);
      if (connected) switchListens(world.binding);
      open(world);
      world.timers.advance(0);
      await settle();
      expect(world.watching()).toBe(1);
      world.source.close();
      world.offered[0]?.released();
      world.change('vu0123456789ab.sock');
      expect([world.timers.pending, world.watching()]).toEqual([[], 0]);
    }
  });

  it('watches anew while the path leads to nothing: the directory may be a new one', () => {
    const watched = { made: 0, stopped: 0 };
    const world = sourceWorld(false, {
      watchDirectory: () => {
        watched.made += 1;
        return () => (watched.stopped += 1);
      },
    });
    open(world);
    world.timers.advance(0);
    expect(watched).toEqual({ made: 1, stopped: 0 });
    world.timers.advance(100);
    expect(watched).toEqual({ made: 2, stopped: 1 });
    world.binding.failures.set(path, 'ECONNREFUSED');
    world.timers.advance(200);
    world.timers.advance(400);
    expect(watched).toEqual({ made: 3, stopped: 2 });
  });

  it('goes on without a watch when there is no directory yet', () => {
    const world = sourceWorld(false, {
      watchDirectory: () => {
        throw new Error('ENOENT');
      },
    });
    open(world);
    world.timers.advance(0);
    switchListens(world.binding);
    world.timers.advance(100);
    expect(world.offered).toHaveLength(1);
  });
});

describe('the directory watch', () => {
  const cleanups: (() => void)[] = [];
  afterEach(() => cleanups.splice(0).forEach((undo) => undo()));

  it('notices a file that appears in a real directory', async () => {
    const real = mkdtempSync(join(tmpdir(), 'vu-watch-'));
    cleanups.push(() => rmSync(real, { recursive: true }));
    const binding = new MemoryBinding();
    const connected = new Promise<void>((resolve) => {
      const source = createVhostUserSource({
        binding,
        path: { baseDirectory: real, relativePath: 'a.sock' },
        server: false,
        mode: 0,
        groupId: null,
        logger: silentLogger,
        // A back-off that would outlast the test: only the watch can be what finds the socket.
        timers: {
          now: () => 0,
          after: (milliseconds, run) => {
            if (milliseconds > 20) {
              setImmediate(() => {
                binding.listenUnix(
                  { path: { baseDirectory: real, relativePath: 'a.sock' }, mode: 0, groupId: null, backlog: 1 },
                  { onConnection: () => {}, onFault: () => {} },
                );
                writeFileSync(join(real, 'a.sock'), '');
              });
              return () => {};
            }
            const timer = setTimeout(run, milliseconds);
            return () => clearTimeout(timer);
          },
        },
      });
      cleanups.push(() => source.close());
      source.open(() => resolve());
    });
    await connected;
    expect(binding.attempts).toEqual(['ENOENT', null]);
  });
});
