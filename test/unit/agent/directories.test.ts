import { chmodSync, existsSync, mkdirSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { prepareDirectories } from '../../../src/agent/directories.ts';
import { allowedPath } from '../../../src/agent/paths.ts';

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vu-directories-'));
});
afterEach(() => rmSync(directory, { recursive: true }));

function prepare(vhostGroup: string | null = null): ReturnType<typeof prepareDirectories> {
  return prepareDirectories({
    runDir: join(directory, 'run'),
    stateDir: join(directory, 'state'),
    socket: join(directory, 'run', 'agent.sock'),
    vhostGroup,
  });
}

const mode = (path: string): string => (statSync(path).mode & 0o7777).toString(8);

describe('directories of the agent', () => {
  it('are made with the modes of the contract', () => {
    const { vhost, attachments, deleteQueue } = prepare();
    expect(mode(join(directory, 'run'))).toBe('711');
    expect(mode(vhost)).toBe('750');
    expect(mode(join(directory, 'state'))).toBe('700');
    expect([mode(attachments), mode(deleteQueue)]).toEqual(['700', '700']);
  });

  it('that are there with wider modes are narrowed', () => {
    mkdirSync(join(directory, 'state'));
    chmodSync(join(directory, 'state'), 0o777);
    prepare();
    expect(mode(join(directory, 'state'))).toBe('700');
  });

  it('a file in the place of one is an error that names it', () => {
    writeFileSync(join(directory, 'run'), '');
    expect(() => prepare()).toThrow(`prepare directory ${join(directory, 'run')}`);
    expect(existsSync(join(directory, 'state'))).toBe(false);
  });

  it('that cannot be given to the group say what the container lacks', () => {
    // Whoever else runs the tests has no CHOWN as it is.
    const root = process.geteuid?.() === 0;
    chmodSync(directory, 0o777);
    if (root) process.seteuid?.(65_534);
    try {
      expect(() => prepare('4242')).toThrow(
        expect.objectContaining({
          code: 'SYSCALL_FAILED',
          message: expect.stringMatching(/^give .*\/run\/vhost to group 4242: EPERM/),
          remedy: expect.stringContaining('capability CHOWN'),
        }),
      );
    } finally {
      if (root) process.seteuid?.(0);
    }
  });

  it('the group of the vhost directory comes by name or number; an unknown name is an error', () => {
    expect(prepare('root').vhostGroupId).toBe(0);
    expect(prepare(String(process.getegid?.())).vhostGroupId).toBe(process.getegid?.());
    expect(() => prepare('no-such-group')).toThrow('there is no group "no-such-group"');
  });
});

describe('a backend path', () => {
  it('is split at the innermost allowed directory that contains it', () => {
    expect(allowedPath('/run/vu/vhost/vu1.sock', ['/run', '/run/vu/vhost'])).toEqual({
      baseDirectory: '/run/vu/vhost',
      relativePath: 'vu1.sock',
    });
    expect(allowedPath('/run/x/y.sock', ['/run'])).toEqual({ baseDirectory: '/run', relativePath: 'x/y.sock' });
  });

  it.each(['/run/vhost-other/a.sock', '/run', '/etc/a.sock'])('%s outside of /run/vhost is refused', (path) => {
    expect(() => allowedPath(path, ['/run/vhost'])).toThrow('lies in none of /run/vhost');
  });
});
