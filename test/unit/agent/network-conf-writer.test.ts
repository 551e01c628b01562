import { once } from 'node:events';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { askPodCidrs, installNetworkConf } from '../../../src/agent/network-conf.ts';
import { NetworkConfWriter } from '../../../src/agent/network-conf-writer.ts';
import { createLogger } from '../../../src/telemetry/log.ts';
import { kubeconfigOf } from '../../support/kubeconfig.ts';

const template = '{"cniVersion":"1.0.0","name":"n","plugins":[{"ipam":{"subnet":"{podCIDR}"}}]}';
const filled = template.replace('{podCIDR}', '10.244.3.0/24');
const node = { apiVersion: 'v1', kind: 'Node', metadata: { name: 'node1' }, spec: { podCIDRs: ['10.244.3.0/24'] } };

let directory: string;
let server: Server | null;
let writer: NetworkConfWriter | null;
let logged: { readonly level: string; readonly message: string; readonly result?: string }[];
/** Timers that fire when the test says so. */
let waiting: { readonly delayMs: number; readonly run: () => void }[];
/** Told of every timer that is set and every line that is logged. */
let wake: () => void;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vu-conf-'));
  mkdirSync(join(directory, 'net.d'));
  server = null;
  writer = null;
  logged = [];
  waiting = [];
  wake = () => undefined;
});
afterEach(() => {
  writer?.close();
  server?.close();
  server?.closeAllConnections();
  rmSync(directory, { recursive: true });
});

const target = (): string => join(directory, 'net.d', '10-vu.conflist');

/** An API server that gives these status codes, the last one for ever. @returns its URL */
async function apiServer(...codes: number[]): Promise<string> {
  server = createServer((_request, response) => {
    const code = (codes.length > 1 ? codes.shift() : codes[0]) ?? 500;
    const body = code === 200 ? node : { message: `answer ${code}` };
    response.writeHead(code, { 'content-type': 'application/json' }).end(JSON.stringify(body));
  });
  server.listen(0, '127.0.0.1');
  await once(server, 'listening');
  return `http://127.0.0.1:${(server.address() as AddressInfo).port}`;
}

function open(url: string, text = template): void {
  const source = join(directory, basename(target()));
  writeFileSync(source, text);
  const kubeconfig = join(directory, 'kubeconfig');
  writeFileSync(kubeconfig, kubeconfigOf(url));
  const log = createLogger({
    level: 'info',
    destination: {
      write: (line: string) => {
        logged.push(JSON.parse(line) as (typeof logged)[number]);
        wake();
      },
    },
  });
  const credentials = { kind: 'kubeconfig', path: kubeconfig } as const;
  const podCidrs = (): Promise<readonly string[]> => askPodCidrs({ source, credentials, nodeName: 'node1', waitMs: 0 });
  writer = new NetworkConfWriter({
    path: target(),
    install: (signal) => installNetworkConf({ source, target: target(), podCidrs, signal }),
    clock: {
      after: (delayMs, run) => {
        const timer = { delayMs, run };
        waiting.push(timer);
        wake();
        return () => (waiting = waiting.filter((one) => one !== timer));
      },
    },
    log,
  });
  writer.open();
}

async function event(seen: () => boolean): Promise<void> {
  while (!seen()) await new Promise<void>((resolve) => (wake = resolve));
}
const written = (): Promise<void> => event(() => logged.some(({ result }) => result !== undefined));

/** When the next try is due. */
async function fireRetry(): Promise<number> {
  await event(() => waiting.length > 0);
  const timer = waiting.shift();
  timer?.run();
  return timer?.delayMs ?? NaN;
}

describe('the configuration of an agent that is ready', () => {
  it('is written with the subnet of the node, and told of once', async () => {
    open(await apiServer(200));
    await written();
    expect(readFileSync(target(), 'utf8')).toBe(filled);
    expect(logged).toMatchObject([{ result: 'installed', path: target() }]);
    expect(waiting).toEqual([]);
  });

  it('needs no API server where it names no subnet of the node', async () => {
    open('http://127.0.0.1:1', filled);
    await written();
    expect(readFileSync(target(), 'utf8')).toBe(filled);
  });

  it('comes when the API server does: tried again, later each time up to a minute, with one line for one trouble', async () => {
    open(await apiServer(...Array<number>(9).fill(503), 200));
    const delays: number[] = [];
    for (let tries = 0; tries < 9; tries += 1) {
      expect(existsSync(target())).toBe(false);
      delays.push(Math.round((await fireRetry()) / 1000));
    }
    await written();
    expect(readFileSync(target(), 'utf8')).toBe(filled);
    expect(delays.slice(0, 3)).toEqual([1, 2, 4]);
    expect(Math.max(...delays)).toBeLessThan(67);
    expect(logged.map(({ message }) => message)).toEqual([
      'the network configuration is not there yet; it is tried again',
      'the network configuration is in place',
    ]);
  });

  it('stays as it was while the API server is away, and is brought up to date after', async () => {
    const before = filled.replace('1.0.0', '0.4.0');
    writeFileSync(target(), before);
    open(await apiServer(503, 200));
    await event(() => waiting.length > 0);
    expect(readFileSync(target(), 'utf8')).toBe(before);
    expect(logged[0]?.message).toContain('kept as it was');
    await fireRetry();
    await written();
    expect(readFileSync(target(), 'utf8')).toBe(filled);
  });

  it('that the runtime takes after an older one of this plugin is warned of, once; other plugins are not our concern', async () => {
    for (const [name, type] of [
      ['05-old.conflist', 'virtio-user'],
      ['06-old.conflist', 'virtio-user'],
      ['00-other.conf', 'bridge'],
      ['01-note.txt', 'virtio-user'],
    ] as const)
      writeFileSync(join(directory, 'net.d', name), `{"plugins":[{"type": "${type}"}]}`);
    open('http://127.0.0.1:1', filled);
    await event(() => logged.length > 1);
    const before = join(directory, 'net.d', '05-old.conflist');
    expect(logged).toMatchObject([{ level: 'info' }, { level: 'warn', path: target(), before }]);
  });

  it('that sorts before the others of this plugin has no warning, and what cannot be read there is no trouble', async () => {
    writeFileSync(join(directory, 'net.d', '20-late.conf'), '{"type":"virtio-user"}');
    mkdirSync(join(directory, 'net.d', '05-directory.conf'));
    open('http://127.0.0.1:1', filled);
    await written();
    await new Promise(setImmediate);
    expect([logged.length, waiting]).toEqual([1, []]);
  });

  it('is left alone by an agent that starts again, and by one that stops', async () => {
    writeFileSync(target(), filled);
    open(await apiServer(200));
    await written();
    expect(logged).toMatchObject([{ result: 'unchanged' }]);
    writer?.close();
    expect(readFileSync(target(), 'utf8')).toBe(filled);
  });

  it('is not written any more by an agent that was told to stop', async () => {
    let answer: () => void = () => undefined;
    const asked = new Promise<void>((resolve) => {
      server = createServer((_request, response) => {
        answer = () => response.writeHead(200, { 'content-type': 'application/json' }).end(JSON.stringify(node));
        resolve();
      });
    });
    server?.listen(0, '127.0.0.1');
    if (server !== null) await once(server, 'listening');
    open(`http://127.0.0.1:${(server?.address() as AddressInfo).port}`);
    await asked;
    writer?.close();
    answer();
    if (server !== null) {
      server.close();
      await once(server, 'close');
    }
    await new Promise(setImmediate);
    expect(readdirSync(join(directory, 'net.d'))).toEqual([]);
    expect([waiting, logged]).toEqual([[], []]);
  });
});
