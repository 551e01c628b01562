import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import type { EventRecord } from '../../../src/kubernetes/api.ts';
import { ApiException } from '../../../src/kubernetes/client-node.ts';
import { EventRecorder, type EventSubject, type News } from '../../../src/kubernetes/event-recorder.ts';
import { RecordingLogger } from '../../support/recording-logger.ts';

const pod: EventSubject = { kind: 'Pod', namespace: 'ns', name: 'web-0', uid: 'uid-0' };
const node: EventSubject = { kind: 'Node', namespace: '', name: 'node1', uid: 'node1' };
const news = (note: string, change: Partial<News> = {}): News => ({
  subject: pod,
  reason: 'BackendDisconnected',
  note,
  type: 'Warning',
  ...change,
});

let created: EventRecord[];
let repeated: string[];
let failure: ((call: 'create' | 'repeat', namespace: string) => Error | null) | null;
let log: RecordingLogger;
let recorder: EventRecorder;

beforeEach(() => {
  jest.useFakeTimers({ now: 1_000_000_000 });
  created = [];
  repeated = [];
  failure = null;
  log = new RecordingLogger();
  recorder = new EventRecorder(
    {
      createEvent: async (event) => {
        const error = failure?.('create', event.namespace) ?? null;
        if (error !== null) throw error;
        created.push(event);
      },
      repeatEvent: async (namespace, name, count) => {
        const error = failure?.('repeat', namespace) ?? null;
        if (error !== null) throw error;
        repeated.push(`${namespace}/${name} ${count}`);
      },
    },
    log,
  );
});
afterEach(() => {
  recorder.stop();
  jest.useRealTimers();
});

const pass = (ms: number): Promise<void> => jest.advanceTimersByTimeAsync(ms);
const http = (code: number, message = 'no'): ApiException<string> =>
  new ApiException(code, '', JSON.stringify({ message }), {});
async function record(...what: News[]): Promise<void> {
  for (const one of what) recorder.record(one);
  await pass(0);
}

describe('events', () => {
  it('on a pod lie in its namespace, on the node in default', async () => {
    await record(news('gone'), news('away', { subject: node, reason: 'OrphanRemoved' }));
    expect(created).toMatchObject([
      { namespace: 'ns', regarding: { kind: 'Pod', name: 'web-0', namespace: 'ns', uid: 'uid-0' }, note: 'gone' },
      { namespace: 'default', regarding: { kind: 'Node', name: 'node1', uid: 'node1' }, reason: 'OrphanRemoved' },
    ]);
    expect(created[1]?.regarding).not.toHaveProperty('namespace');
  });

  it('a storm about one pod is two writes: the first at once, the last with the number of the others', async () => {
    for (let number = 1; number <= 1_000; number += 1) await record(news(`outage ${number}`));
    expect(created.map(({ note }) => note)).toEqual(['outage 1']);
    await pass(60_000);
    expect(created.map(({ note }) => note)).toEqual(['outage 1', 'outage 1000 (and 998 more since the last event)']);
    expect(created[0]?.name).not.toBe(created[1]?.name);
  });

  it('the same news again is counted in the series of its event', async () => {
    await record(news('gone'), news('gone'), news('gone'));
    await pass(60_000);
    await record(news('gone'));
    await pass(60_000);
    expect(created).toHaveLength(1);
    expect(repeated).toEqual([`ns/${created[0]?.name} 3`, `ns/${created[0]?.name} 4`]);
  });

  it('are told in time when the clock is set back', async () => {
    await record(news('gone'));
    jest.setSystemTime(Date.now() - 3_600_000);
    await record(news('gone again'));
    await pass(60_000);
    expect(created.map(({ note }) => note)).toEqual(['gone', 'gone again']);
  });

  it('a series whose event has expired begins anew', async () => {
    await record(news('gone'));
    failure = (call) => (call === 'repeat' ? http(404) : null);
    await pass(61_000);
    await record(news('gone'));
    failure = null;
    await pass(61_000);
    await record(news('gone'));
    expect(created).toHaveLength(2);
    expect(repeated).toEqual([`ns/${created[1]?.name} 2`]);
  });

  it('pods and reasons do not share a budget', async () => {
    await record(
      news('a'),
      news('b', { reason: 'BackendReconnected' }),
      news('c', { subject: { ...pod, uid: 'uid-1' } }),
    );
    expect(created.map(({ note }) => note)).toEqual(['a', 'b', 'c']);
  });

  it('wait for an API server that is away, in their order', async () => {
    failure = () => new TypeError('fetch failed');
    await record(news('gone'), news('back', { reason: 'BackendReconnected' }));
    await pass(60_000);
    expect(log.messages).toEqual(['events wait for the API server']);
    failure = null;
    await pass(30_000);
    expect(created.map(({ note }) => note)).toEqual(['gone', 'back']);
    expect(recorder.dropped).toBe(0);
  });

  it('that are older than ten minutes when it comes back are dropped and counted', async () => {
    failure = () => new TypeError('fetch failed');
    await record(news('old'));
    await pass(700_000);
    expect(recorder.dropped).toBe(1);
    failure = null;
    await record(news('new', { reason: 'AttachmentReady' }));
    expect(created.map(({ note }) => note)).toEqual(['new']);
  });

  it('that are refused do not hold up the others', async () => {
    failure = () => {
      failure = null;
      return http(403, 'unable to create new content in namespace ns because it is being terminated');
    };
    await record(news('into a namespace that ends'), news('next', { reason: 'BackendReconnected' }));
    expect(created.map(({ note }) => note)).toEqual(['next']);
    expect(recorder.dropped).toBe(1);
  });

  describe('of a namespace that refuses them', () => {
    const elsewhere: EventSubject = { ...pod, namespace: 'other' };
    const rbac = 'User "agent" cannot create resource "events" in the namespace "ns"';

    it.each([403, 500])('hold up nobody else’s, and keep their order (HTTP %d)', async (code) => {
      failure = (_call, namespace) => (namespace === 'ns' ? http(code, rbac) : null);
      await record(news('gone'), news('gone', { subject: elsewhere }));
      expect(created.map(({ namespace }) => namespace)).toEqual(['other']);
      await record(news('back', { reason: 'BackendReconnected' }));
      await record(news('back', { reason: 'BackendReconnected', subject: elsewhere }));
      expect(created.map(({ namespace }) => namespace)).toEqual(['other', 'other']);
      await pass(120_000);
      expect(log.messages).toEqual(['events of a namespace wait']);
      failure = null;
      await pass(30_000);
      expect(created.slice(2).map(({ namespace, note }) => `${namespace} ${note}`)).toEqual(['ns gone', 'ns back']);
      expect(recorder.dropped).toBe(0);
    });

    it('are tried less and less often', async () => {
      let tries = 0;
      failure = () => {
        tries += 1;
        return http(403, rbac);
      };
      await record(news('gone'));
      await pass(60_000);
      expect(tries).toBe(6);
    });

    it('without an answer let the others have their turn first', async () => {
      failure = (_call, namespace) => (namespace === 'ns' ? new TypeError('timeout') : null);
      await record(news('gone'), news('gone', { subject: elsewhere }));
      expect(created).toEqual([]);
      await pass(1_000);
      expect(created.map(({ namespace }) => namespace)).toEqual(['other']);
    });
  });

  it('wait all together for as long as a server with too much to do says', async () => {
    failure = () => new ApiException(429, '', '{}', { 'retry-after': '20' });
    await record(news('gone'), news('away', { subject: node, reason: 'OrphanRemoved' }));
    failure = null;
    await pass(19_000);
    expect(created).toEqual([]);
    await pass(1_000);
    expect(created).toHaveLength(2);
  });

  it('whose answer was lost are not written twice', async () => {
    failure = () => http(409);
    await record(news('gone'));
    await pass(600_000);
    expect(recorder.dropped).toBe(0);
    expect(log.messages).toEqual([]);
  });

  it('beyond 500 that wait are dropped', async () => {
    failure = () => new TypeError('fetch failed');
    const many = Array.from({ length: 600 }, (_, number) => news('x', { subject: { ...pod, uid: `uid-${number}` } }));
    await record(...many);
    expect(recorder.dropped).toBe(100);
  });

  it('have names and notes that the API server accepts, however long', async () => {
    const name = `${'a'.repeat(219)}.${'b'.repeat(33)}`;
    await record(news('ü'.repeat(2_000), { subject: { ...pod, name } }));
    expect(created[0]?.name).toMatch(/^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$/);
    expect(created[0]?.name.length).toBeLessThanOrEqual(253);
    expect(Buffer.byteLength(created[0]?.note ?? '')).toBeLessThanOrEqual(1_024);
  });
});
