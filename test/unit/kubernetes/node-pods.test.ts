import { once } from 'node:events';
import { createServer, type Server, type ServerResponse } from 'node:http';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { NodePods, whyKeepPod } from '../../../src/kubernetes/node-pods.ts';
import { PooledKubeConfig } from '../../../src/kubernetes/pooled-config.ts';
import { silentLogger } from '../../../src/telemetry/log.ts';
import { until } from '../../support/process.ts';

/** An API server that has these pods now; its watches say nothing by themselves. */
let pods: readonly string[];
/** `list`, `watch from 7`, in their order. */
let asked: string[];
let watches: ServerResponse[];
let version: number;
/** What a watch is answered with. */
let watchStatus: number;
let server: Server;
let config: PooledKubeConfig;
let watched: NodePods | null;

const podObject = (name: string): object => ({ metadata: { name, namespace: 'default', uid: name }, status: {} });
const lists = (): number => asked.filter((request) => request === 'list').length;
const listed = (): readonly string[] | undefined => watched?.list()?.map(({ name }) => name);
const say = (type: string, object: object): unknown => watches.at(-1)?.write(`${JSON.stringify({ type, object })}\n`);

beforeEach(async () => {
  [pods, asked, watches, version, watchStatus, watched] = [['first'], [], [], 1_000, 200, null];
  server = createServer((request, response) => {
    const { searchParams } = new URL(request.url ?? '', 'http://localhost');
    if (searchParams.has('watch')) {
      asked.push(`watch from ${searchParams.get('resourceVersion')}`);
      response.writeHead(watchStatus, { 'content-type': 'application/json' });
      if (watchStatus !== 200) {
        response.end();
        return;
      }
      watches.push(response);
      response.flushHeaders();
      return;
    }
    asked.push('list');
    response.writeHead(200, { 'content-type': 'application/json' });
    response.end(JSON.stringify({ metadata: { resourceVersion: String(version) }, items: pods.map(podObject) }));
  }).listen(0, '127.0.0.1');
  await once(server, 'listening');
  const address = server.address();
  const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
  config = new PooledKubeConfig();
  const cluster = { name: 'test', server: `http://127.0.0.1:${port}`, skipTLSVerify: true };
  config.loadFromClusterAndUser(cluster, { name: 'agent' });
});
afterEach(async () => {
  await watched?.stop();
  await config.closeConnections();
  server.closeAllConnections();
  server.close();
});

async function watch(idleMs: number): Promise<void> {
  watched = new NodePods({ config, nodeName: 'node1', log: silentLogger, idleMs, backoffMs: [10, 20] });
  watched.start();
  await until('the first watch', () => watches.length > 0);
  expect(asked.slice(0, 2)).toEqual(['list', 'watch from 1000']);
}

describe('a watch of the pods that has ended', () => {
  const ends: readonly (readonly [string, number, () => unknown])[] = [
    ['in silence', 500, () => undefined],
    ['in order', 60_000, () => watches.at(-1)?.end()],
    ['by a reset', 60_000, () => watches.at(-1)?.socket?.resetAndDestroy()],
  ];
  it.each(ends)('%s is not continued: an etcd that was restored knows lower versions', async (_how, idleMs, end) => {
    await watch(idleMs);
    [pods, version] = [['second'], 7];
    end();
    await until('a watch from what the server has now', () => asked.includes('watch from 7'));
    expect(asked.filter((_, index) => index % 2 === 0)).toEqual(Array.from({ length: lists() }, () => 'list'));
    await until('the pods', () => listed()?.join() === 'second');
    if (watched === null) throw new Error('not watched');
    expect(whyKeepPod(watched, { namespace: 'default', name: 'second', uid: '' })).toBe('pod default/second is there');
  });

  it('in order after an event is not continued either: versions between were given out twice', async () => {
    await watch(60_000);
    say('BOOKMARK', { kind: 'Pod', metadata: { resourceVersion: '1001' } });
    say('ADDED', { metadata: { name: 'another', namespace: 'default', uid: 'another', resourceVersion: '1002' } });
    await until('the event', () => listed()?.includes('another') === true);
    [pods, version] = [['second'], 1_003];
    watches.at(-1)?.end();
    await until('the second watch', () => watches.length > 1);
    expect(asked.slice(2)).toEqual(['list', 'watch from 1003']);
    await until('the pods', () => listed()?.join() === 'second');
  });
});

it('nothing is concluded while a watch is refused, though lists work', async () => {
  await watch(60_000);
  watchStatus = 403;
  watches.at(-1)?.end();
  await until('three refusals', () => lists() >= 4);
  expect(watched?.trouble).toBe('Forbidden');
  expect(watched?.list()).toBeNull();
  watchStatus = 200;
  await until('the second watch', () => watches.length > 1);
  await until('the recovery', () => watched?.trouble === null);
});

it('bookmarks keep a watch of a quiet node: it lists no more', async () => {
  await watch(4_000);
  for (let bookmark = 1; bookmark <= 8; bookmark += 1) {
    say('BOOKMARK', { kind: 'Pod', metadata: { resourceVersion: String(1_000 + bookmark) } });
    await new Promise((resolve) => setTimeout(resolve, 700)); // the silence between is what is tested
  }
  expect(lists()).toBe(1);
});
