/** The tables of test/conformance: what they name must be there, or a run of hours finds out first. */
import { existsSync, globSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from '@jest/globals';
import { z } from 'zod';
import { idsOfIdentifier, idsOfTitle } from '../conformance/results.ts';

const root = join(import.meta.dirname, '../..');
const read = (path: string): string => readFileSync(join(root, path), 'utf8');

const statements = z
  .array(z.strictObject({ id: z.string(), text: z.string().min(10), notCovered: z.string().optional() }))
  .parse(JSON.parse(read('test/conformance/statements.json')));
const mutations = z
  .array(
    z.strictObject({
      rule: z.string(),
      file: z.string(),
      search: z.string().min(1),
      replace: z.string(),
      all: z.boolean().optional(),
      test: z.string(),
      binary: z.string().optional(),
    }),
  )
  .parse(JSON.parse(read('test/conformance/mutations.json')));

const ids = statements.map(({ id }) => id);
/** Suite and name of every test of native/core. */
const nativeTests = globSync('test/native/*_test.cc', { cwd: root }).flatMap((file) =>
  Array.from(read(file).matchAll(/^TEST(?:_P|_F)?\((\w+), (\w+)\)/gm), ([, suite = '', name = '']) => ({
    suite,
    name,
  })),
);
const nativeNames = nativeTests.map(({ name }) => name);

/** Whether a filter of GoogleTest finds any test. */
function findsAny(filter: string): boolean {
  const pattern = new RegExp(`^${filter.replaceAll('.', '\\.').replaceAll('*', '.*')}$`);
  return nativeTests.some(({ suite, name }) => pattern.test(`${suite}.${name}`));
}

describe('statements', () => {
  it('have a number each, and no number twice', () => {
    expect(ids.filter((id) => !/^F?[1-9]\d?$/.test(id))).toEqual([]);
    expect(ids.filter((id, index) => ids.indexOf(id) !== index)).toEqual([]);
  });

  it('are found by the names of native tests: a name that looks numbered is', () => {
    const numbered = nativeNames.filter((name) => /^[A-Z]+\d+_/.test(name));
    expect(numbered.length).toBeGreaterThan(20);
    expect(numbered.filter((name) => idsOfIdentifier(name).length === 0)).toEqual([]);
  });

  it.each([
    ['F61_EndsAtChains/packed', ['F61']],
    ['S55_F31_ReceiveIndexJumps/split', ['55', 'F31']],
    ['FrameOf55Bytes', []],
  ])('are read out of the C++ name %s', (name, numbers) => {
    expect(idsOfIdentifier(name)).toEqual(numbers);
  });

  it('are read out of the title of a test', () => {
    expect(idsOfTitle('[33] [F15] with [34] in it')).toEqual(['33', 'F15']);
  });
});

describe('mutations', () => {
  it('break statements', () => {
    expect(mutations.filter(({ rule }) => !ids.includes(rule))).toEqual([]);
  });

  it('find the line that they change, once', () => {
    const times = mutations.map(({ file, search, all }) => {
      const found = existsSync(join(root, file)) ? read(file).split(search).length - 1 : 0;
      return { file, search, found: all === true ? Math.min(found, 1) : found };
    });
    expect(times.filter(({ found }) => found !== 1)).toEqual([]);
  });

  it('change it, and each in another way', () => {
    expect(mutations.filter(({ search, replace }) => search === replace)).toEqual([]);
    const changes = mutations.map(({ rule, file, search, replace, test }) =>
      [rule, file, search, replace, test].join('\n'),
    );
    expect(changes.filter((change, index) => changes.indexOf(change) !== index)).toEqual([]);
  });

  it('are judged by tests that there are, by number where no name is given', () => {
    const judged = mutations.filter(({ rule, test }) => {
      if (test.startsWith('native:')) return findsAny(test.slice('native:'.length));
      if (test === 'native') return nativeNames.some((name) => idsOfIdentifier(name).includes(rule));
      return existsSync(join(root, test)) && read(test).includes(`[${rule}]`);
    });
    expect(mutations.filter((mutation) => !judged.includes(mutation))).toEqual([]);
  });
});
