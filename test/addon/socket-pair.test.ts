/** socketPair: one end is ours, the other is given away, as the back channel of a vhost-user connection does it. */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import type { SocketHandlers } from '../../src/native/binding.ts';
import { loadNative } from '../../src/native/load.ts';
import { openDescriptors } from '../support/open-descriptors.ts';
import { connectedPair, faultOf, give, SocketRecorder } from '../support/native-sockets.ts';

const native = loadNative();
let directory = '';

beforeAll(() => {
  // The first socket starts the reactor, whose descriptors stay.
  const { socket, peer } = native.socketPair(new SocketRecorder());
  socket.close();
  peer.close();
});

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vu-pair-'));
});

afterEach(() => rmSync(directory, { recursive: true }));

const echo = `
import os, socket
s = socket.socket(fileno=3)
assert s.getblocking()
bytes, fds, flags, _ = socket.recv_fds(s, 100, 4)
socket.send_fds(s, [b"got " + bytes], fds + fds)
`;

describe('a socket pair', () => {
  it('[42] carries bytes and descriptors between us and whoever has the other end, then says that it has closed it', async () => {
    const before = openDescriptors();
    const seen = new SocketRecorder();
    const { socket, peer } = native.socketPair(seen);
    expect(socket.peer.pid).toBe(process.pid);
    const child = give(peer, echo);
    peer.close();
    const exited = once(child, 'exit');
    const netns = native.ownNetns();
    socket.send(Buffer.from('a request'), [netns]);
    await seen.until(() => seen.received >= 13 || seen.isClosed);
    expect(seen.bytes.toString()).toBe('got a request');
    expect(seen.fds.map((fd) => fd.identity())).toEqual([netns.identity(), netns.identity()]);
    expect([await seen.ended(), (await exited)[0]]).toEqual([null, 0]);
    for (const fd of [netns, ...seen.fds]) fd.close();
    socket.close();
    expect(openDescriptors()).toBeLessThanOrEqual(before);
  });

  it('[F47] has no end of file while a copy of the other end is open', async () => {
    const { near, far } = await connectedPair(native, directory);
    const seen = new SocketRecorder();
    const pair = native.socketPair(seen);
    near.socket.send(Buffer.from('take this'), [pair.peer]);
    pair.peer.close();
    await far.seen.atLeast(9);
    expect(seen.isClosed).toBe(false);
    for (const fd of far.seen.fds) fd.close();
    expect(await seen.ended()).toBeNull();
    near.socket.close();
    far.socket.close();
  });

  it('takes two handlers and makes nothing without', () => {
    const before = openDescriptors();
    for (const handlers of [null, {}, { onData: () => undefined }, { onData: () => undefined, onClose: 1 }]) {
      expect(faultOf(() => native.socketPair(handlers as unknown as SocketHandlers)).name).toBe('TypeError');
    }
    expect(openDescriptors()).toBeLessThanOrEqual(before);
  });
});
