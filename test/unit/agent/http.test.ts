import { mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { once } from 'node:events';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Health } from '../../../src/agent/health.ts';
import { Introspection, type IntrospectionParts } from '../../../src/agent/introspect.ts';
import { introspectionSocketName, requestOverSocket } from '../../../src/agent/http-client.ts';
import type { AttachmentView } from '../../../src/attachment/api.ts';
import { VirtioUserError } from '../../../src/errors.ts';
import { silentLogger } from '../../../src/telemetry/log.ts';
import { attachmentView } from './views.ts';

let closers: (() => void)[];
beforeEach(() => {
  closers = [];
});
afterEach(() => {
  for (const close of closers) close();
});

describe('health', () => {
  async function serve(problem: string | null): Promise<(path: string, method?: string) => Promise<[number, string]>> {
    const health = new Health({
      checks: { 'cni-socket-open': () => problem, 'not-stopping': () => null },
      metrics: async () => ({ contentType: 'text/plain; version=0.0.4', body: 'metric 1\n' }),
      log: silentLogger,
    });
    const port = await health.open({ host: '127.0.0.1', port: 0 });
    closers.push(() => health.close());
    return async (path, method = 'GET') => {
      const response = await fetch(`http://127.0.0.1:${port}${path}`, { method });
      return [response.status, await response.text()];
    };
  }

  it('is alive and ready when no check fails', async () => {
    const get = await serve(null);
    expect(await get('/livez')).toEqual([200, 'ok\n']);
    expect(await get('/readyz')).toEqual([200, 'ready\n']);
    expect(await get('/readyz?verbose')).toEqual([200, '[+] cni-socket-open\n[+] not-stopping\nready\n']);
    expect(await get('/metrics')).toEqual([200, 'metric 1\n']);
  });

  it('is alive but not ready when a check fails, and names it', async () => {
    const get = await serve('restoring');
    expect((await get('/livez'))[0]).toBe(200);
    expect(await get('/readyz')).toEqual([503, '[-] cni-socket-open: restoring\nnot ready\n']);
    expect(await get('/readyz?verbose')).toEqual([
      503,
      '[-] cni-socket-open: restoring\n[+] not-stopping\nnot ready\n',
    ]);
  });

  it('answers nothing else', async () => {
    const get = await serve(null);
    expect((await get('/attachments'))[0]).toBe(404);
    expect((await get('/readyz', 'POST'))[0]).toBe(405);
  });

  it('a port that is taken is an error that says what to do', async () => {
    const other = createServer().listen(0, '127.0.0.1');
    await once(other, 'listening');
    closers.push(() => other.close());
    const address = other.address();
    const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
    const health = new Health({ checks: {}, metrics: () => Promise.reject(new Error()), log: silentLogger });
    await expect(health.open({ host: '127.0.0.1', port })).rejects.toMatchObject({
      code: 'SYSCALL_FAILED',
      message: expect.stringContaining(`port ${port}`),
      remedy: expect.stringContaining('--metrics-address'),
    });
  });
});

describe('introspection', () => {
  let runDir: string;
  beforeEach(() => {
    runDir = mkdtempSync(join(tmpdir(), 'vu-run-'));
    closers.push(() => rmSync(runDir, { recursive: true, force: true }));
  });

  async function serve(views: readonly AttachmentView[], changes: Partial<IntrospectionParts> = {}): Promise<string[]> {
    const reconnected: string[] = [];
    const introspection = new Introspection({
      attachments: {
        list: () => views,
        reconnect: async (id) => void reconnected.push(id),
        setQueuePairs: async (id, pairs) => {
          if (pairs > 4) throw new VirtioUserError('CONTROL_REFUSED', 'the device refused queue-pairs 5');
          if (pairs === 3) throw new VirtioUserError('CONTROL_QUEUE_BROKEN', 'the control queue is broken');
          reconnected.push(`${id} ${pairs}`);
        },
      },
      reconcile: async () => ({ 'ovs-port': 1 }),
      featureNames: (mask) => (mask === 1n << 32n ? ['VERSION_1'] : []),
      log: silentLogger,
      ...changes,
    });
    await introspection.open(runDir);
    closers.unshift(() => introspection.close());
    return reconnected;
  }

  const ask = async (method: 'GET' | 'POST', path: string): Promise<[number, unknown]> => {
    const answer = await requestOverSocket(join(runDir, introspectionSocketName), method, path);
    return [answer.status, JSON.parse(answer.body)];
  };

  it('lists attachments with features by name and counters that keep every digit', async () => {
    await serve([attachmentView({ ackedFeatures: 1n << 32n })]);
    const [status, body] = await ask('GET', '/attachments');
    expect(status).toBe(200);
    expect(body).toEqual([
      expect.objectContaining({
        id: 'vu000000000001',
        ackedFeatures: { mask: '0x100000000', names: ['VERSION_1'] },
        offeredFeatures: null,
        counters: expect.objectContaining({ txFrames: '18446744073709551615', drops: { tx_lost: '3' } }),
      }),
    ]);
  });

  it("switches queue pairs; what the device refuses is the caller's to mend, what is broken is not", async () => {
    const told = await serve([attachmentView()]);
    const path = '/attachments/vu000000000001/queue-pairs';
    expect(await ask('POST', `${path}/2`)).toEqual([200, { id: 'vu000000000001', queuePairs: 2 }]);
    expect(told).toEqual(['vu000000000001 2']);
    expect((await ask('POST', `${path}/5`))[0]).toBe(409);
    expect((await ask('POST', `${path}/3`))[0]).toBe(500);
    expect((await ask('POST', `${path}/x`))[0]).toBe(404);
    expect((await ask('GET', `${path}/2`))[0]).toBe(404);
  });

  it('shows one, reconnects one, reconciles', async () => {
    const reconnected = await serve([attachmentView()]);
    expect(await ask('GET', '/attachments/vu000000000001')).toEqual([200, expect.objectContaining({ mtu: 1500 })]);
    expect(await ask('POST', '/attachments/vu000000000001/reconnect')).toEqual([202, { id: 'vu000000000001' }]);
    expect(reconnected).toEqual(['vu000000000001']);
    expect(await ask('POST', '/reconcile')).toEqual([200, { 'ovs-port': 1 }]);
  });

  it.each([
    ['GET', '/attachments/vu00000000000f'],
    ['POST', '/attachments/vu00000000000f/reconnect'],
    ['GET', '/attachments/../etc'],
    ['GET', '/attachments/vu000000000001/reconnect'],
    ['POST', '/attachments/vu000000000001'],
    ['POST', '/attachments'],
    ['GET', '/reconcile'],
  ] as const)('%s %s is 404', async (method, path) => {
    const reconnected = await serve([attachmentView()]);
    expect((await ask(method, path))[0]).toBe(404);
    expect(reconnected).toEqual([]);
  });

  it('a failure comes with its code and remedy', async () => {
    await serve([], {
      reconcile: () =>
        Promise.reject(new VirtioUserError('OVS_UNAVAILABLE', 'connect: ENOENT', { remedy: 'start it' })),
    });
    expect(await ask('POST', '/reconcile')).toEqual([
      500,
      { error: { code: 'OVS_UNAVAILABLE', message: 'connect: ENOENT', remedy: 'start it' } },
    ]);
  });

  it('its socket is for root alone, and replaces one that nobody answers on', async () => {
    writeFileSync(join(runDir, introspectionSocketName), '');
    await serve([]);
    expect(statSync(join(runDir, introspectionSocketName)).mode & 0o777).toBe(0o600);
  });

  it('a socket that another process answers on is not taken from it', async () => {
    await serve([]);
    await expect(serve([])).rejects.toMatchObject({ code: 'CONFLICT_SOCKET' });
    expect((await ask('GET', '/attachments'))[0]).toBe(200);
  });

  it('nobody there is AGENT_NOT_READY', async () => {
    await expect(ask('GET', '/attachments')).rejects.toMatchObject({ code: 'AGENT_NOT_READY' });
  });
});
