/** A socket file that disappears under the agent: the source that listens makes it again. */
import { mkdtempSync, rmSync, statSync, unlinkSync } from 'node:fs';
import net from 'node:net';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import type { Frontend, FrontendSource } from '../../src/device/frontend.ts';
import { createVhostUserSource } from '../../src/frontends/source.ts';
import { loadNative } from '../../src/native/load.ts';
import { silentLogger } from '../../src/telemetry/log.ts';
import { ManualTimers } from '../support/manual-timers.ts';
import { openDescriptors } from '../support/open-descriptors.ts';

const native = loadNative();
let directory = '';
let path = '';
let timers: ManualTimers;
let source: FrontendSource;
const ends: (() => void)[] = [];
let offered: PromiseWithResolvers<Frontend>;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vu-listen-'));
  path = join(directory, 'vhost.sock');
  timers = new ManualTimers();
  offered = Promise.withResolvers();
  source = createVhostUserSource({
    binding: native,
    path: { baseDirectory: directory, relativePath: 'vhost.sock' },
    server: true,
    mode: 0o660,
    groupId: null,
    logger: silentLogger,
    timers,
    random: () => 0.5,
  });
  source.open((frontend) => offered.resolve(frontend));
});

afterEach(() => {
  source.close();
  for (const end of ends.splice(0)) end();
  rmSync(directory, { recursive: true });
});
afterAll(() => native.shutdown());

const exists = (): boolean => statSync(path, { throwIfNoEntry: false }) !== undefined;

async function somebodyElse(): Promise<net.Server> {
  const server = net.createServer().listen(path);
  ends.push(() => server.close());
  await once(server, 'listening');
  return server;
}

function connect(): void {
  const socket = net.connect(path).on('error', () => undefined);
  ends.push(() => socket.destroy());
}

describe('a source that listens', () => {
  it('is found by its path again some seconds after its file was removed, with nothing left open', async () => {
    const descriptors = openDescriptors();
    for (let round = 0; round < 3; round += 1) {
      unlinkSync(path);
      timers.advance(5000);
    }
    expect([statSync(path).mode & 0o777, openDescriptors()]).toEqual([0o660, descriptors]);
    connect();
    const frontend = await offered.promise;
    expect(frontend.isOpen).toBe(true);
    frontend.close();
    source.close();
    expect(exists()).toBe(false);
  });

  it('leaves its path to somebody who answers there, until he has gone', async () => {
    unlinkSync(path);
    const server = await somebodyElse();
    const { ino } = statSync(path);
    timers.advance(60_000);
    expect(statSync(path).ino).toBe(ino);
    expect(source.situation).toContain('another process answers there');
    server.close();
    await once(server, 'close');
    timers.advance(60_000);
    expect(source.situation).toBe(`listening on ${path}`);
    connect();
    (await offered.promise).close();
  });

  it('removes nothing of somebody who answers at its path when it ends', async () => {
    unlinkSync(path);
    await somebodyElse();
    timers.advance(5000);
    source.close();
    expect(exists()).toBe(true);
  });
});
