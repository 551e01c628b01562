import { readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from '@jest/globals';

const dist = fileURLToPath(new URL('../../dist', import.meta.url));

/** Files of the bundle that a process loads which starts with `entry`, without those that `import()` brings. */
function loadedBy(entry: string, seen = new Set<string>()): ReadonlySet<string> {
  if (seen.has(entry)) return seen;
  seen.add(entry);
  const text = readFileSync(join(dist, entry), 'utf8');
  for (const [, specifier] of text.matchAll(/^\s*(?:\} from|import) "(\.[^"]+\.js)";$/gm)) {
    loadedBy(relative(dist, join(dist, dirname(entry), specifier ?? '')), seen);
  }
  return seen;
}

const holdsClient = (file: string): boolean => readFileSync(join(dist, file), 'utf8').includes('CoordinationV1Api');
const chunk = (name: string): string => {
  const found = readdirSync(join(dist, 'chunks')).filter((file) => file.startsWith(`${name}-`));
  expect(found).toHaveLength(1);
  return join('chunks', found[0] ?? '');
};

describe('the bundle', () => {
  it('keeps the Kubernetes client in a chunk that only its use loads', () => {
    const process = loadedBy(chunk('process'));
    expect(process.size).toBeGreaterThan(1);
    expect([...loadedBy('cli.js'), ...process].filter(holdsClient)).toEqual([]);
    expect([...loadedBy(chunk('kubernetes'))].filter(holdsClient)).not.toEqual([]);
  });
});
