/** The loader in trees where the addon is missing or broken: the error says what was tried and how to mend it. */
import { cpSync, mkdirSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it } from '@jest/globals';
import { run } from '../support/process.ts';

const source = join(import.meta.dirname, '../../src');
let tree = '';

beforeEach(() => {
  tree = realpathSync(mkdtempSync(join(tmpdir(), 'vu-load-')));
  mkdirSync(join(tree, 'src/native'), { recursive: true });
  writeFileSync(join(tree, 'package.json'), '{ "type": "module" }');
  cpSync(join(source, 'errors.ts'), join(tree, 'src/errors.ts'));
  cpSync(join(source, 'native/load.ts'), join(tree, 'src/native/load.ts'));
});

afterEach(() => rmSync(tree, { recursive: true }));

async function failure(): Promise<{ readonly code: string; readonly message: string; readonly remedy: string }> {
  const script = `import('${tree}/src/native/load.ts').then(({ loadNative }) => {
    try { loadNative(); } catch ({ code, message, remedy }) { console.log(JSON.stringify({ code, message, remedy })); }
  })`;
  const env = { ...process.env, NODE_OPTIONS: '' };
  return JSON.parse(await run(process.execPath, ['--no-warnings', '-e', script], { env })) as never;
}

it('names every place where it looked, and the command that builds', async () => {
  const { code, message, remedy } = await failure();
  expect(code).toBe('BUG');
  for (const place of ['src/native/native', 'src/native', 'build/native']) {
    expect(message).toContain(join(tree, place, 'virtio_user.node'));
  }
  expect(remedy).toContain('npm run build');
});

it('names the file that does not load, and why', async () => {
  mkdirSync(join(tree, 'build/native'), { recursive: true });
  writeFileSync(join(tree, 'build/native/virtio_user.node'), 'not an addon');
  const { message, remedy } = await failure();
  expect(message).toContain(join(tree, 'build/native/virtio_user.node'));
  expect(message).toMatch(/file too short|invalid ELF header/);
  expect(remedy).toContain('npm run build');
});
