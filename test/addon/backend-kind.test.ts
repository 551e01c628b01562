/** What a backend path may lead to: a socket, or nothing yet. Everything else is an error by name. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from '@jest/globals';
import { VirtioUserError } from '../../src/errors.ts';
import { probeBackend } from '../../src/frontends/probe.ts';
import { loadNative } from '../../src/native/load.ts';
import { failureOf } from '../support/connection.ts';

const native = loadNative();
let directory = '';

afterEach(() => {
  if (directory !== '') rmSync(directory, { recursive: true });
  directory = '';
});

describe('a backend path', () => {
  it.each(['/dev/null', '/dev/net/tun'])('[5] that is the device node %s is refused', async (path) => {
    const error = await failureOf(probeBackend(path, native));
    expect(error).toBeInstanceOf(VirtioUserError);
    expect([error.code, error.message]).toEqual(['SOCKET_PATH', expect.stringContaining(path)]);
  });

  it('[5] that is a regular file is refused, a missing one is a backend that is not there', async () => {
    directory = mkdtempSync(join(tmpdir(), 'vu-kind-'));
    writeFileSync(join(directory, 'file'), '');
    expect((await failureOf(probeBackend(join(directory, 'file'), native))).code).toBe('SOCKET_PATH');
    expect((await failureOf(probeBackend(join(directory, 'none'), native))).code).toBe('BACKEND_ABSENT');
  });
});
