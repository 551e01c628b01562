/** Paths of sockets that a pod or a switch may have prepared: what is replaced, what is refused, what is left alone. */
import net from 'node:net';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, renameSync, rmSync, statSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import type { Listener } from '../../src/native/binding.ts';
import { loadNative } from '../../src/native/load.ts';
import { openDescriptors } from '../support/open-descriptors.ts';
import { faultOf, SocketRecorder, TestListener } from '../support/native-sockets.ts';
import { run } from '../support/process.ts';

const native = loadNative();
let directory = '';

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vu-path-'));
});

afterEach(() => rmSync(directory, { recursive: true }));
afterAll(() => native.shutdown());

function listen(relativePath: string, mode = 0o600, groupId: number | null = null): Listener {
  return native.listenUnix(
    { path: { baseDirectory: directory, relativePath }, mode, groupId, backlog: 4 },
    {
      onConnection: (incoming) => incoming.refuse(),
      onFault: (fault) => {
        throw fault;
      },
    },
  );
}

const connect = (relativePath: string) =>
  native.connectUnix({ baseDirectory: directory, relativePath }, new SocketRecorder());

/** The file of a listener that died without unlinking it. */
async function deadSocket(name: string): Promise<void> {
  const server = net.createServer().listen(join(directory, `${name}.bound`));
  await once(server, 'listening');
  renameSync(join(directory, `${name}.bound`), join(directory, name));
  server.close();
  await once(server, 'close');
}

describe('listen', () => {
  it('makes the file with the mode and the group asked for, whatever the umask, and unlinks it on close', () => {
    const before = process.umask(0o777);
    try {
      const listener = listen('vhost.sock', 0o660, 12_345);
      const { mode, gid } = statSync(join(directory, 'vhost.sock'));
      expect([mode & 0o7777, gid]).toEqual([0o660, 12_345]);
      listener.close();
      listener.close();
      expect(statSync(join(directory, 'vhost.sock'), { throwIfNoEntry: false })).toBeUndefined();
    } finally {
      process.umask(before);
    }
  });

  it('[F3] replaces the file of a dead listener', async () => {
    await deadSocket('vhost.sock');
    expect(statSync(join(directory, 'vhost.sock')).isSocket()).toBe(true);
    const server = new TestListener(native, directory);
    connect('vhost.sock').close();
    (await server.next()).socket.close();
    server.listener.close();
  });

  it('[F3] refuses a path where somebody answers, and leaves him alone', async () => {
    const server = net.createServer().listen(join(directory, 'vhost.sock'));
    await once(server, 'listening');
    const { ino } = statSync(join(directory, 'vhost.sock'));
    expect(faultOf(() => listen('vhost.sock'))).toMatchObject({ code: 'EADDRINUSE', path: `${directory}/vhost.sock` });
    expect(statSync(join(directory, 'vhost.sock')).ino).toBe(ino);
    server.close();
  });

  it('[F3] refuses a path whose owner is too busy to answer', () => {
    const path = { baseDirectory: directory, relativePath: 'busy.sock' };
    const busy = native.listenUnix(
      { path, mode: 0o600, groupId: null, backlog: 0 },
      { onConnection: (incoming) => incoming.refuse(), onFault: () => undefined },
    );
    // This thread accepts nothing while it is here; the reactor takes one, the backlog another.
    const clients = [];
    let full = null;
    for (let index = 0; full === null && index < 8; index += 1) {
      try {
        clients.push(native.connectUnix(path, new SocketRecorder()));
      } catch (error) {
        full = error;
      }
    }
    expect(full).toMatchObject({ code: 'EAGAIN', syscall: 'connect' });
    expect(faultOf(() => listen('busy.sock')).code).toBe('EADDRINUSE');
    for (const client of clients) client.close();
    busy.close();
  });

  it.each<readonly [string, string, (at: string) => void]>([
    ['a file', 'ENOTSOCK', (at) => writeFileSync(at, 'precious')],
    ['a directory', 'ENOTSOCK', (at) => mkdirSync(at)],
    ['a link to nothing', 'ELOOP', (at) => symlinkSync('/nonexistent', at)],
    ['a link to a file', 'ELOOP', (at) => symlinkSync('/etc/passwd', at)],
  ])('refuses %s and does not touch it', (_what, code, make) => {
    make(join(directory, 'vhost.sock'));
    const before = openDescriptors();
    expect(faultOf(() => listen('vhost.sock')).code).toBe(code);
    expect(statSync(join(directory, 'vhost.sock'), { throwIfNoEntry: false })?.isSocket()).not.toBe(true);
    expect(openDescriptors()).toBeLessThanOrEqual(before);
  });

  it('does not unlink what somebody else has put in its place', () => {
    const listener = listen('vhost.sock');
    unlinkSync(join(directory, 'vhost.sock'));
    writeFileSync(join(directory, 'vhost.sock'), 'not ours');
    listener.close();
    expect(statSync(join(directory, 'vhost.sock')).size).toBe(8);
  });

  it('works below a directory whose own path is longer than a socket address', async () => {
    const deep = 'd'.repeat(120);
    mkdirSync(join(directory, deep));
    const listener = listen(`${deep}/vhost.sock`);
    const seen = new SocketRecorder();
    native.connectUnix({ baseDirectory: directory, relativePath: `${deep}/vhost.sock` }, seen);
    expect(await seen.ended()).toBeNull();
    listener.close();
    expect(faultOf(() => listen('n'.repeat(100))).code).toBe('ENAMETOOLONG');
  });

  it('reports a path right below the root as it is written', () => {
    const path = { baseDirectory: '/', relativePath: 'no-such-socket' };
    expect(() => native.connectUnix(path, new SocketRecorder())).toThrow(
      expect.objectContaining({ code: 'ENOENT', path: '/no-such-socket' }),
    );
  });

  it('reports ENOENT for a directory that is missing, by its path', () => {
    const path = { baseDirectory: join(directory, 'nowhere'), relativePath: 'a.sock' };
    const handlers = { onConnection: () => undefined, onFault: () => undefined };
    expect(faultOf(() => native.listenUnix({ path, mode: 0o600, groupId: null, backlog: 1 }, handlers))).toMatchObject({
      code: 'ENOENT',
      syscall: 'open',
      path: join(directory, 'nowhere', 'a.sock'),
    });
  });

  it.each(['mode', 'backlog', 'groupId', 'path'])('refuses a wrong %s with a TypeError', (key) => {
    const path = { baseDirectory: directory, relativePath: 'a.sock' };
    const options = { path, mode: 0o600, groupId: null, backlog: 1, [key]: 0o10000000 };
    const handlers = { onConnection: () => undefined, onFault: () => undefined };
    if (key === 'groupId') Object.assign(options, { groupId: -1 });
    expect(faultOf(() => native.listenUnix(options as never, handlers)).name).toBe('TypeError');
    expect(statSync(join(directory, 'a.sock'), { throwIfNoEntry: false })).toBeUndefined();
  });
});

describe('both ways', () => {
  const outside = (): string => mkdtempSync(join(tmpdir(), 'vu-outside-'));

  it.each<readonly [string, string, string, (elsewhere: string) => void]>([
    [
      'a link as the last part',
      'link.sock',
      'ELOOP',
      (to) => symlinkSync(join(to, 'a.sock'), join(directory, 'link.sock')),
    ],
    ['a link in the middle', 'link/a.sock', 'ELOOP', (to) => symlinkSync(to, join(directory, 'link'))],
    ['a link that stays inside', 'inner/a.sock', 'ELOOP', () => symlinkSync('.', join(directory, 'inner'))],
    ['a way up', '../a.sock', 'EXDEV', () => undefined],
    ['an absolute path', '/a.sock', 'EXDEV', () => undefined],
    ['a file as a directory', 'file/a.sock', 'ENOTDIR', () => writeFileSync(join(directory, 'file'), '')],
    ['an empty path', '', '', () => undefined],
  ])('%s is refused', async (_what, relativePath, code, make) => {
    const elsewhere = outside();
    const server = net.createServer().listen(join(elsewhere, 'a.sock'));
    await once(server, 'listening');
    let connections = 0;
    server.on('connection', () => (connections += 1));
    make(elsewhere);
    for (const call of [() => listen(relativePath), () => connect(relativePath)]) {
      const fault = faultOf(call);
      expect(fault.code).toMatch(code === '' ? /^E(INVAL|NOENT|NOTSOCK)$/ : code);
    }
    server.close();
    await once(server, 'close');
    expect(connections).toBe(0);
    rmSync(elsewhere, { recursive: true });
  });

  it('a base directory may be reached through links: an admin set it', async () => {
    const alias = `${directory}-alias`;
    symlinkSync(directory, alias);
    try {
      const server = new TestListener(native, alias);
      connect('vhost.sock').close();
      (await server.next()).socket.close();
      server.listener.close();
    } finally {
      unlinkSync(alias);
    }
  });
});

describe('connect', () => {
  it('[5] names what is there instead of a listener', async () => {
    writeFileSync(join(directory, 'file'), '');
    await run('mkfifo', [join(directory, 'fifo')]);
    await deadSocket('dead.sock');
    expect(faultOf(() => connect('missing.sock')).code).toBe('ENOENT');
    expect(faultOf(() => connect('file')).code).toBe('ENOTSOCK');
    expect(faultOf(() => connect('fifo')).code).toBe('ENOTSOCK');
    expect(faultOf(() => connect('dead.sock'))).toMatchObject({
      code: 'ECONNREFUSED',
      errno: 111,
      syscall: 'connect',
      path: join(directory, 'dead.sock'),
    });
  });
});
