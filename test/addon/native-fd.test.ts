/** What the addon exports, descriptors as objects, and file locks. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, statSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import type { NativeBinding, NativeFd } from '../../src/native/binding.ts';
import { loadNative } from '../../src/native/load.ts';
import { openDescriptors } from '../support/open-descriptors.ts';
import { faultOf } from '../support/native-sockets.ts';
import { runAny } from '../support/process.ts';

const native = loadNative();
let directory = '';

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vu-fd-'));
});

afterEach(() => rmSync(directory, { recursive: true }));

function lock(name: string, shared: boolean): NativeFd | null {
  return native.tryLockFile(join(directory, name), shared);
}

function held(fd: NativeFd | null): NativeFd {
  if (fd === null) throw new Error('somebody holds the lock');
  return fd;
}

it('the addon exports what the binding says, and nothing else', () => {
  // The compiler holds this list to the interface.
  const names: Record<keyof NativeBinding, true> = {
    listenUnix: true,
    connectUnix: true,
    socketPair: true,
    openNetns: true,
    ownNetns: true,
    checkNetns: true,
    openTap: true,
    setupPodLink: true,
    inspectPodLink: true,
    deletePodLink: true,
    watchPodLink: true,
    createSession: true,
    createPump: true,
    createPort: true,
    runChild: true,
    replaceFile: true,
    syncDirectory: true,
    keepOffCores: true,
    tryLockFile: true,
    shutdown: true,
  };
  expect(Object.keys(native).sort()).toEqual(Object.keys(names).sort());
});

describe('a NativeFd', () => {
  it('is open until it is closed, once or twice, and shows no number', () => {
    const before = openDescriptors();
    const fd = native.ownNetns();
    // Fewer: what earlier tests of the process left to the garbage collector may go meanwhile.
    expect(openDescriptors()).toBeLessThanOrEqual(before + 1);
    expect([fd.isOpen, Object.keys(fd)]).toEqual([true, []]);
    fd.close();
    fd.close();
    expect(fd.isOpen).toBe(false);
    expect(openDescriptors()).toBeLessThanOrEqual(before);
    expect(faultOf(() => fd.identity()).name).toBe('TypeError');
  });

  it('names its file by device and inode', () => {
    const fd = held(lock('file', false));
    const { dev, ino } = statSync(join(directory, 'file'), { bigint: true });
    expect(fd.identity()).toEqual({ device: dev, inode: ino });
    fd.close();
  });

  it('made by hand, or its methods on another object, do nothing', () => {
    const fd = native.ownNetns();
    const { constructor } = fd as unknown as { constructor: new () => NativeFd };
    const empty = new constructor();
    expect(empty.isOpen).toBe(false);
    expect(faultOf(() => native.checkNetns(empty)).name).toBe('TypeError');
    const { close } = fd as unknown as { close: () => void };
    expect(faultOf(() => close.call({})).name).toBe('TypeError');
    for (const value of [null, undefined, 3, 'fd', {}, Object.create(fd)] as unknown[]) {
      expect(faultOf(() => native.checkNetns(value as NativeFd)).name).toBe('TypeError');
    }
    expect(fd.isOpen).toBe(true);
    fd.close();
  });
});

describe('tryLockFile', () => {
  it('creates the file for its owner alone, whatever the umask lets through', () => {
    const before = process.umask(0);
    try {
      held(lock('lock', false)).close();
      expect(statSync(join(directory, 'lock')).mode & 0o7777).toBe(0o600);
    } finally {
      process.umask(before);
    }
  });

  it('gives the exclusive lock to one, the shared one to many', () => {
    const exclusive = held(lock('lock', false));
    expect([lock('lock', false), lock('lock', true)]).toEqual([null, null]);
    exclusive.close();
    const readers = [held(lock('lock', true)), held(lock('lock', true))];
    expect(lock('lock', false)).toBeNull();
    for (const reader of readers) reader.close();
    held(lock('lock', false)).close();
  });

  it('leaves no descriptor behind when it is refused', () => {
    const exclusive = held(lock('lock', false));
    const before = openDescriptors();
    for (let attempt = 0; attempt < 50; attempt += 1) expect(lock('lock', false)).toBeNull();
    expect(openDescriptors()).toBeLessThanOrEqual(before);
    exclusive.close();
  });

  it('excludes other processes, until they end in whatever way', async () => {
    const path = join(directory, 'lock');
    const other = spawn('flock', [path, '-c', 'echo locked; read line'], { stdio: ['pipe', 'pipe', 'ignore'] });
    await once(other.stdout, 'data');
    expect(lock('lock', true)).toBeNull();
    const ended = once(other, 'close');
    other.stdin.end();
    await ended;
    const ours = held(lock('lock', false));
    expect((await runAny('flock', ['-n', path, 'true'])).code).toBe(1);
    ours.close();
    expect((await runAny('flock', ['-n', path, 'true'])).code).toBe(0);
  });

  it('does not follow a link, and names the path', () => {
    symlinkSync('/etc/passwd', join(directory, 'link'));
    expect(faultOf(() => lock('link', false))).toMatchObject({ code: 'ELOOP', path: join(directory, 'link') });
    expect(faultOf(() => lock('none/lock', false))).toMatchObject({ code: 'ENOENT', syscall: 'open', errno: 2 });
    expect(faultOf(() => native.tryLockFile('a\0b', false)).name).toBe('TypeError');
  });
});
