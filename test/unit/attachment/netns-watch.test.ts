/** Names of namespaces that go, watched in real directories. */
import { mkdtempSync, readFileSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { NetnsWatch } from '../../../src/attachment/netns-watch.ts';

let root: string;
let watch: NetnsWatch;
let onGone: (path: string) => void;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'vu-netns-watch-'));
  onGone = () => undefined;
  watch = new NetnsWatch((path) => onGone(path));
});
afterEach(() => {
  watch.close();
  rmSync(root, { recursive: true });
});

function made(directory: string, name: string): string {
  const path = join(directory, name);
  writeFileSync(path, '');
  return path;
}

/** How many directories below `root` this process watches (proc(5), fdinfo of inotify). */
function watches(): number {
  const inodes = readdirSync(root).map((name) => statSync(join(root, name), { bigint: true }).ino.toString(16));
  return readdirSync('/proc/self/fdinfo').reduce((count, fd) => {
    try {
      const watched = readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8').matchAll(/^inotify .*\bino:([\da-f]+)/gm);
      return count + [...watched].filter(([, inode = '']) => inodes.includes(inode)).length;
    } catch {
      return count; // closed meanwhile
    }
  }, 0);
}

async function expectTold(path: string): Promise<void> {
  const told = new Promise<string>((resolve) => (onGone = resolve));
  rmSync(path);
  expect(await told).toBe(path);
}

describe('the watch of namespaces', () => {
  it('tells of a name that goes, also when the directory was without any in between', async () => {
    const first = made(root, 'first');
    watch.add(first, 'a');
    watch.remove(first, 'a');
    const second = made(root, 'second');
    watch.add(second, 'b');
    await expectTold(second);
  });

  it.each(['a directory that is watched already', 'a new directory'])(
    'tells of a name that went before it was watched, in %s',
    async (where) => {
      if (where !== 'a new directory') watch.add(made(root, 'other'), 'a');
      const told = new Promise<string>((resolve) => (onGone = resolve));
      watch.add(join(root, 'gone'), 'b');
      expect(await told).toBe(join(root, 'gone'));
    },
  );

  it('is silent about a path whose directory it cannot see, and about one that was let go at once', async () => {
    const told: string[] = [];
    onGone = (path) => told.push(path);
    watch.add(join(root, 'out/of/sight'), 'a');
    watch.add(join(root, 'gone'), 'b');
    watch.remove(join(root, 'gone'), 'b');
    await new Promise((resolve) => setImmediate(resolve));
    expect(told).toEqual([]);
  });

  it('is silent about a name that was let go', async () => {
    const former = made(root, 'let-go');
    const kept = made(root, 'kept');
    watch.add(former, 'a');
    watch.add(kept, 'b');
    watch.remove(former, 'a');
    rmSync(former);
    await expectTold(kept);
  });

  it('has no more directories than it needs when they change with every pod', async () => {
    for (let pod = 0; pod < 20; pod++) {
      const path = made(mkdtempSync(join(root, 'pod-')), 'net');
      watch.add(path, 'a');
      watch.remove(path, 'a');
    }
    expect(watches()).toBe(1);
    const path = made(mkdtempSync(join(root, 'pod-')), 'net');
    watch.add(path, 'a');
    await expectTold(path);
  });
});
