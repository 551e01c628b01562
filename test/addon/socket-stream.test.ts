/** Bytes and descriptors over sockets of the addon: order, ownership, backpressure, and every way to end. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import type { NativeFd } from '../../src/native/binding.ts';
import { loadNative } from '../../src/native/load.ts';
import { descriptorsBackTo, openDescriptors } from '../support/open-descriptors.ts';
import {
  connectedPair,
  faultOf,
  foreignPeer,
  openSockets,
  SocketRecorder,
  TestListener,
} from '../support/native-sockets.ts';
import { until } from '../support/process.ts';

const native = loadNative();
const megabyte = 1 << 20;
let directory = '';

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vu-stream-'));
});

afterEach(() => rmSync(directory, { recursive: true }));
afterAll(() => native.shutdown());

function lockFile(name: string): NativeFd {
  const fd = native.tryLockFile(join(directory, name), false);
  if (fd === null) throw new Error(`${name} is locked`);
  return fd;
}

function pattern(length: number, seed: number): Buffer {
  const bytes = Buffer.alloc(length);
  for (let index = 0; index < length; index += 1) bytes[index] = (index * 31 + seed * 7 + (index >> 8)) & 0xff;
  return bytes;
}

describe('bytes', () => {
  it('go both ways and know who is at the other end', async () => {
    const { near, far } = await connectedPair(native, directory);
    const self = { pid: process.pid, uid: process.getuid?.(), gid: process.getgid?.() };
    expect([near.socket.peer, far.socket.peer]).toEqual([self, self]);
    near.socket.send(Buffer.from('there'), []);
    far.socket.send(Buffer.from('back'), []);
    expect((await far.seen.atLeast(5)).toString()).toBe('there');
    expect((await near.seen.atLeast(4)).toString()).toBe('back');
    near.socket.close();
    expect(await far.seen.ended()).toBeNull();
    far.socket.close();
    expect(near.seen.isClosed).toBe(false);
  });

  it('of 100 000 small messages arrive complete and in order, though the kernel takes a few hundred at once', async () => {
    const { near, far } = await connectedPair(native, directory);
    const count = 100_000;
    const message = Buffer.alloc(8);
    for (let index = 0; index < count; index += 1) {
      message.writeBigUInt64LE(BigInt(index));
      near.socket.send(message, []);
    }
    expect(near.socket.pendingBytes).toBeGreaterThan(0);
    const bytes = await far.seen.atLeast(count * 8);
    for (let index = 0; index < count; index += 1) {
      if (bytes.readUInt32LE(index * 8) !== index) throw new Error(`message ${index} is out of order`);
    }
    expect(near.socket.pendingBytes).toBe(0);
    near.socket.close();
    far.socket.close();
  });

  it('arrive in chunks of at most 64 KiB', async () => {
    const { near, far } = await connectedPair(native, directory);
    near.socket.send(pattern(3 * megabyte, 1), []);
    expect((await far.seen.atLeast(3 * megabyte)).equals(pattern(3 * megabyte, 1))).toBe(true);
    expect(Math.max(...far.seen.chunks.map((chunk) => chunk.bytes.length))).toBeLessThanOrEqual(65_536);
    near.socket.close();
    far.socket.close();
  });
});

describe('descriptors', () => {
  it('cross as the same file: a session memory, a network namespace, 8 at once', async () => {
    const { near, far } = await connectedPair(native, directory);
    const session = native.createSession({
      pairs: 1,
      queueSize: 64,
      rxBufferBytes: 2048,
      features: 1n << 32n,
      memory: 'memfd',
    });
    const netns = native.ownNetns();
    const many = [session.memory, netns, ...session.kicks, ...session.calls, session.memory, netns];
    near.socket.send(Buffer.from('x'), many);
    await far.seen.atLeast(1);
    const received = far.seen.fds;
    expect(received.map((fd) => fd.identity())).toEqual(many.map((fd) => fd.identity()));
    expect(received[0]?.identity()).not.toEqual(received[1]?.identity());
    const [memory, namespace] = received;
    if (memory === undefined || namespace === undefined) throw new Error('nothing came');
    native.checkNetns(namespace);
    expect(faultOf(() => native.checkNetns(memory)).code).toBe('EINVAL');
    session.close();
    netns.close();
    expect(memory.isOpen).toBe(true);
    for (const fd of received) fd.close();
    near.socket.close();
    far.socket.close();
  });

  it('come with the chunk that holds the first byte of their message, never with those of another', async () => {
    const { near, far } = await connectedPair(native, directory);
    const [first, second] = [lockFile('first'), lockFile('second')];
    // All of it is in the socket before anything is read.
    near.socket.send(Buffer.alloc(10, 'a'), []);
    near.socket.send(Buffer.alloc(10, 'B'), [first]);
    near.socket.send(Buffer.alloc(10, 'C'), [second]);
    near.socket.send(Buffer.alloc(10, 'd'), []);
    expect((await far.seen.atLeast(40)).toString()).toBe(
      `${'a'.repeat(10)}${'B'.repeat(10)}${'C'.repeat(10)}${'d'.repeat(10)}`,
    );
    const carriers = far.seen.chunks.filter((chunk) => chunk.fds.length > 0);
    expect(carriers.map((chunk) => chunk.fds.map((fd) => fd.identity()))).toEqual([
      [first.identity()],
      [second.identity()],
    ]);
    for (const [index, start] of [10, 20].entries()) {
      const chunk = carriers[index];
      expect(chunk?.offset).toBeLessThanOrEqual(start);
      expect((chunk?.offset ?? 0) + (chunk?.bytes.length ?? 0)).toBeGreaterThan(start);
    }
    for (const fd of [...far.seen.fds, first, second]) fd.close();
    near.socket.close();
    far.socket.close();
  });

  it('that must wait in the queue still travel with their message, after the sender closed its own', async () => {
    const { near, far } = await connectedPair(native, directory);
    const file = lockFile('late');
    const identity = file.identity();
    const ahead = pattern(2 * megabyte, 3);
    near.socket.send(ahead, []);
    near.socket.send(Buffer.from('tail'), [file]);
    file.close();
    const bytes = await far.seen.atLeast(ahead.length + 4);
    expect(bytes.subarray(-4).toString()).toBe('tail');
    expect(far.seen.chunks.at(-1)?.fds.map((fd) => fd.identity())).toEqual([identity]);
    for (const fd of far.seen.fds) fd.close();
    near.socket.close();
    far.socket.close();
  });

  it('of a chunk that nobody hears of any more are closed', async () => {
    const { near, far } = await connectedPair(native, directory);
    const file = lockFile('unheard');
    far.socket.close();
    near.socket.close();
    const before = openDescriptors();
    const again = await connectedPair(native, directory);
    again.near.socket.send(Buffer.from('x'), [file, file]);
    again.far.socket.close();
    again.near.socket.close();
    await descriptorsBackTo(before);
    file.close();
  });
});

describe('a peer that does not read', () => {
  it('fills the queue up to ENOBUFS; what was taken arrives unharmed, what was refused not at all', async () => {
    const { near, peer } = await foreignPeer(native, directory);
    const sent: Buffer[] = [];
    let refused = null;
    for (let index = 0; refused === null && index < 64; index += 1) {
      const bytes = pattern(megabyte, index);
      try {
        near.socket.send(bytes, []);
        sent.push(bytes);
      } catch (error) {
        refused = error;
      }
    }
    expect(refused).toMatchObject({ code: 'ENOBUFS', syscall: 'sendmsg' });
    expect(near.socket.pendingBytes).toBeGreaterThan(7 * megabyte);
    expect(near.socket.pendingBytes).toBeLessThanOrEqual(8 * megabyte);
    const expected = Buffer.concat(sent);
    const received: Buffer[] = [];
    peer.on('data', (chunk: Buffer) => received.push(chunk)).resume();
    await until('all bytes', () => received.reduce((sum, chunk) => sum + chunk.length, 0) >= expected.length);
    expect(Buffer.concat(received).equals(expected)).toBe(true);
    expect(near.socket.pendingBytes).toBe(0);
    near.socket.close();
    await once(peer, 'close');
  });

  it('still gets everything that was queued before close()', async () => {
    const { near, peer } = await foreignPeer(native, directory);
    const bytes = pattern(4 * megabyte, 9);
    near.socket.send(bytes, []);
    near.socket.close();
    const received: Buffer[] = [];
    peer.on('data', (chunk: Buffer) => received.push(chunk)).resume();
    await once(peer, 'end');
    expect(Buffer.concat(received).equals(bytes)).toBe(true);
    expect(near.seen.isClosed).toBe(false);
    await once(peer, 'close');
  });

  it('holds a closed socket for about a second and no longer', async () => {
    // Those of the tests before may still be going.
    const others = new Set(openSockets());
    const { near, peer } = await foreignPeer(native, directory);
    const ours = openSockets().filter((socket) => !others.has(socket));
    const allThere = (): boolean => ours.every((socket) => openSockets().includes(socket));
    near.socket.send(pattern(4 * megabyte, 5), []);
    const since = performance.now();
    near.socket.close();
    expect(allThere()).toBe(true);
    await until('the descriptor goes', () => !allThere());
    const waited = performance.now() - since;
    expect(waited).toBeGreaterThan(900);
    expect(waited).toBeLessThan(8000);
    peer.destroy();
    await once(peer, 'close');
  });

  it('that floods us is read one chunk per handler call', async () => {
    let calls = 0;
    class Slow extends SocketRecorder {
      override readonly onData = (bytes: Buffer): void => {
        calls += 1;
        expect(bytes.length).toBeLessThanOrEqual(65_536);
      };
    }
    const server = new TestListener(native, directory, { handlers: () => new Slow() });
    const socket = native.connectUnix({ baseDirectory: directory, relativePath: 'vhost.sock' }, new SocketRecorder());
    const far = await server.next();
    socket.send(pattern(6 * megabyte, 2), []);
    await until('the whole flood', () => socket.pendingBytes === 0);
    expect(calls).toBeGreaterThan(6 * 16 - 10);
    socket.close();
    await far.seen.ended();
    server.listener.close();
  });
});

describe('the end', () => {
  it('is seen when the peer process is killed', async () => {
    const server = new TestListener(native, directory);
    const script = `require('net').connect(${JSON.stringify(server.path)}); setInterval(() => {}, 1000)`;
    const child = spawn(process.execPath, ['-e', script], { stdio: 'ignore' });
    const near = await server.next();
    expect(near.socket.peer.pid).toBe(child.pid);
    // Asked for before: the child may be reaped before its socket's end is told.
    const closed = once(child, 'close');
    child.kill('SIGKILL');
    expect(await near.seen.ended()).toBeNull();
    expect(faultOf(() => near.socket.send(Buffer.from('x'), []))).toMatchObject({ code: 'EPIPE', syscall: 'sendmsg' });
    server.listener.close();
    await closed;
  });

  it('carries a reset when the peer left bytes of ours unread', async () => {
    const { near, peer } = await foreignPeer(native, directory);
    near.socket.send(Buffer.from('unread'), []);
    peer.destroy();
    expect(await near.seen.ended()).toMatchObject({ code: 'ECONNRESET', syscall: 'recvmsg' });
  });

  it('comes after the last bytes, whatever became of ours', async () => {
    const { near, peer } = await foreignPeer(native, directory);
    peer.end('last words');
    near.socket.send(Buffer.from('too late'), []);
    await near.seen.ended();
    expect(near.seen.bytes.toString()).toBe('last words');
    peer.destroy();
  });

  it('leaves no event behind once close() was called, in a handler too', async () => {
    const { near, far } = await connectedPair(native, directory);
    near.socket.send(pattern(megabyte, 1), []);
    await far.seen.atLeast(1);
    far.socket.close();
    far.socket.close();
    const received = far.seen.received;
    await near.seen.ended();
    expect([far.seen.received, far.seen.isClosed]).toEqual([received, false]);
    expect(faultOf(() => far.socket.send(Buffer.from('x'), [])).code).toBe('EPIPE');
    near.socket.close();
  });

  it('of every object is shutdown(), after which sockets can be opened anew', async () => {
    const path = { baseDirectory: directory, relativePath: 'vhost.sock' };
    const server = new TestListener(native, directory);
    const seen = new SocketRecorder();
    const socket = native.connectUnix(path, seen);
    const far = await server.next();
    native.shutdown();
    native.shutdown();
    expect(faultOf(() => native.connectUnix(path, seen)).code).toBe('ENOENT');
    for (const end of [socket, far.socket]) expect(faultOf(() => end.send(Buffer.from('x'), [])).code).toBe('EPIPE');
    const { near, far: other } = await connectedPair(native, directory);
    near.socket.send(Buffer.from('alive'), []);
    expect((await other.seen.atLeast(5)).toString()).toBe('alive');
    expect([seen.isClosed, far.seen.isClosed]).toEqual([false, false]);
    near.socket.close();
    other.socket.close();
  });

  it('of 200 connections leaves the descriptors as they were', async () => {
    const warm = await connectedPair(native, directory);
    warm.near.socket.close();
    await warm.far.seen.ended();
    const before = openDescriptors();
    for (let round = 0; round < 200; round += 1) {
      const { near, far } = await connectedPair(native, directory);
      const netns = native.ownNetns();
      near.socket.send(Buffer.from('x'), [netns]);
      netns.close();
      await far.seen.atLeast(1);
      for (const fd of far.seen.fds) fd.close();
      near.socket.close();
      await far.seen.ended();
    }
    await descriptorsBackTo(before);
  });
});

describe('misuse is a TypeError', () => {
  it('of send, with a closed or foreign descriptor, bytes that are none, too many descriptors', async () => {
    const { near, far } = await connectedPair(native, directory);
    const fd = native.ownNetns();
    const closed = native.ownNetns();
    closed.close();
    const { send } = near.socket as unknown as { send: (...args: unknown[]) => void };
    for (const args of [
      [],
      ['text', []],
      [Buffer.alloc(0), []],
      [new Uint16Array(4), []],
      [Buffer.from('x'), null],
      [Buffer.from('x'), [closed]],
      [Buffer.from('x'), [7]],
      [Buffer.from('x'), [{ close: () => undefined, isOpen: true }]],
      [Buffer.from('x'), [near.socket]],
      [Buffer.from('x'), Array.from({ length: 9 }, () => fd)],
    ]) {
      expect(faultOf(() => send.apply(near.socket, args)).name).toBe('TypeError');
    }
    expect(faultOf(() => send.apply(fd, [Buffer.from('x'), []])).name).toBe('TypeError');
    near.socket.send(Buffer.from('fine'), [fd]);
    expect((await far.seen.atLeast(4)).toString()).toBe('fine');
    for (const each of [fd, ...far.seen.fds]) each.close();
    near.socket.close();
    far.socket.close();
  });

  it('of accept, twice or after onConnection has returned', async () => {
    const messages: string[] = [];
    const kept: (() => void)[] = [];
    const path = { baseDirectory: directory, relativePath: 'late.sock' };
    const ends: SocketRecorder[] = [new SocketRecorder(), new SocketRecorder()];
    const listener = native.listenUnix(
      { path, mode: 0o600, groupId: null, backlog: 4 },
      {
        onConnection: (incoming) => {
          if (kept.length > 0) {
            incoming.refuse();
            messages.push(faultOf(() => incoming.accept(new SocketRecorder())).message);
          }
          kept.push(() => incoming.accept(new SocketRecorder()));
        },
        onFault: (fault) => {
          throw fault;
        },
      },
    );
    for (const seen of ends) {
      native.connectUnix(path, seen);
      expect(await seen.ended()).toBeNull();
    }
    messages.push(faultOf(kept[0] ?? (() => undefined)).message);
    expect(messages).toEqual([expect.stringContaining('accept'), expect.stringContaining('accept')]);
    listener.close();
  });
});
