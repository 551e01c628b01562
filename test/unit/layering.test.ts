import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from '@jest/globals';

const root = fileURLToPath(new URL('../..', import.meta.url));
const importPattern =
  /(?:^|\n)\s*(?:import|export)\b[^'"]*?from\s*'([^']+)'|\bimport\s*\(\s*'([^']+)'|(?:^|\n)import '([^']+)'/g;

/** Room → level, read from the table of docs/architecture.md. A room is a folder below src/ or a file in it. */
function levelsOfRooms(): ReadonlyMap<string, number> {
  const text = readFileSync(join(root, 'docs/architecture.md'), 'utf8');
  const levels = new Map<string, number>();
  for (const [, level, rooms] of text.matchAll(/^\| (\d+) \| ([^|]+) \|/gm)) {
    for (const [, room] of (rooms ?? '').matchAll(/`(src\/[^`]+?)\/?`/g)) levels.set(room ?? '', Number(level));
  }
  return levels;
}

function filesBelow(directory: string, ending: RegExp): string[] {
  return readdirSync(join(root, directory), { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile() && ending.test(entry.name))
    .map((entry) => relative(root, join(entry.parentPath, entry.name)));
}

const levels = levelsOfRooms();
const sources = filesBelow('src', /\.ts$/);

function roomOf(path: string): string {
  return path.split('/').slice(0, 2).join('/');
}

function importsOf(path: string): string[] {
  return [...readFileSync(join(root, path), 'utf8').matchAll(importPattern)].map(
    ([, fromClause, call, bare]) => fromClause ?? call ?? bare ?? '',
  );
}

function importsErrorCodes(path: string): boolean {
  return importsOf(path).some((name) => /(^|\/)errors\.ts$/.test(name)) && roomOf(path) !== 'src/virtio';
}

describe('direction of dependency', () => {
  it('every room of src/ stands in the table of docs/architecture.md', () => {
    expect(levels.size).toBeGreaterThan(10);
    expect([...new Set(sources.map(roomOf))].filter((room) => !levels.has(room))).toEqual([]);
  });

  it('a file imports only from its own room and from rooms below', () => {
    const upward: string[] = [];
    let seen = 0;
    for (const path of sources) {
      for (const specifier of importsOf(path).filter((name) => name.startsWith('.'))) {
        seen += 1;
        const target = relative(root, join(root, dirname(path), specifier));
        const [from, to] = [roomOf(path), roomOf(target)];
        if (from !== to && (levels.get(to) ?? Infinity) >= (levels.get(from) ?? -1)) upward.push(`${path} → ${target}`);
      }
    }
    expect(seen).toBeGreaterThan(20);
    expect(upward).toEqual([]);
  });

  it('only src/native loads the addon', () => {
    const doors = sources.filter((path) => /['"`][^'"`\n]*\.node['"`]/.test(readFileSync(join(root, path), 'utf8')));
    expect(doors.filter((path) => roomOf(path) !== 'src/native')).toEqual([]);
  });

  it('the wire and the virtio facts do no input or output and read no clock', () => {
    const impure = sources
      .filter((path) => ['src/virtio', 'src/vhost-user'].includes(roomOf(path)))
      .filter(
        (path) =>
          importsOf(path).some((name) => name.startsWith('node:')) ||
          /\b(Date\.now|performance\.now|setTimeout|setInterval)\b/.test(readFileSync(join(root, path), 'utf8')),
      );
    expect(impure).toEqual([]);
  });

  it('the device has no timers and no sockets', () => {
    const device = sources.filter((path) => roomOf(path) === 'src/device');
    const text = device.map((path) => readFileSync(join(root, path), 'utf8')).join('\n');
    expect(text).not.toMatch(/\b(setTimeout|setInterval|connectUnix|listenUnix)\s*\(/);
  });

  it('CNI error numbers do not leave src/cni', () => {
    const importers = sources.filter((path) => importsOf(path).some((name) => name.endsWith('cni/error.ts')));
    expect(importers).toEqual([]);
    const withNumbers = sources.filter((path) => /\b[A-Z]+_[A-Z]+: \d/.test(readFileSync(join(root, path), 'utf8')));
    expect(withNumbers.filter((path) => importsErrorCodes(path))).toEqual(['src/cni/error.ts']);
  });

  it('the native core knows no JavaScript', () => {
    const core = filesBelow('native/core', /\.(cc|h)$/);
    expect(core.length).toBeGreaterThan(5);
    const knowing = core.filter((path) =>
      /#include\s*["<](napi|node|uv|v8|.*bind\/)/.test(readFileSync(join(root, path), 'utf8')),
    );
    expect(knowing).toEqual([]);
  });
});
