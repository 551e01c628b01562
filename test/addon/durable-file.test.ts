/** Durable files as the store asks for them. What reaches the disk in which order: test/native/durable_file_test.cc. */
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { loadNative } from '../../src/native/load.ts';
import { faultOf } from '../support/native-sockets.ts';

const native = loadNative();
let directory = '';
const at = (name: string): string => join(directory, name);

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vu-file-'));
});

afterEach(() => rmSync(directory, { recursive: true }));

describe('replaceFile', () => {
  it('writes a file whole, in the place of an old one', async () => {
    const contents = '{"pod":"päckchen 🐋"}'.repeat(100_000);
    writeFileSync(at('record'), 'old');
    await native.replaceFile(at('tmp'), at('record'), contents);
    expect([readFileSync(at('record'), 'utf8') === contents, readdirSync(directory)]).toEqual([true, ['record']]);
  });

  it('does many at a time', async () => {
    const names = Array.from({ length: 64 }, (_, index) => `r${index}`);
    await Promise.all(names.map((name) => native.replaceFile(at(`${name}.tmp`), at(name), name)));
    expect(names.map((name) => readFileSync(at(name), 'utf8'))).toEqual(names);
  });

  it('names the file, the call and the error', async () => {
    mkdirSync(at('record'));
    await expect(native.replaceFile(at('tmp'), at('record'), '')).rejects.toMatchObject({
      code: 'EISDIR',
      syscall: 'rename',
      path: at('record'),
    });
    await expect(native.replaceFile(at('none/tmp'), at('none/record'), '')).rejects.toMatchObject({
      code: 'ENOENT',
      syscall: 'open',
    });
    expect(readdirSync(directory)).toEqual(['record']);
  });

  it('takes no text with a NUL where it would end a path', () => {
    expect(faultOf(() => native.replaceFile(at('tmp\0x'), at('record'), '')).name).toBe('TypeError');
    expect(faultOf(() => native.replaceFile(at('tmp'), at('record\0x'), '')).name).toBe('TypeError');
  });
});

describe('syncDirectory', () => {
  it('says that there is none', async () => {
    await native.syncDirectory(directory);
    await expect(native.syncDirectory(at('none'))).rejects.toMatchObject({ code: 'ENOENT', path: at('none') });
    writeFileSync(at('file'), '');
    await expect(native.syncDirectory(at('file'))).rejects.toMatchObject({ code: 'ENOTDIR' });
  });
});
