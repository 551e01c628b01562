/** Servers that a real ovsdb-server never is. */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { createServer, type Server, type Socket } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { JsonStream } from '../../../src/ovs/json-stream.ts';
import { OvsdbClient } from '../../../src/ovs/ovsdb.ts';

const signal = new AbortController().signal;
const operations = [{ op: 'comment', comment: 'x' }];
let directory: string;
let socketPath: string;
let server: Server;
let client: OvsdbClient;
let onRequest: (socket: Socket, request: { id: number; method?: string; result?: unknown }) => void;
let connections = 0;

const connect = (deadlineMs: number): OvsdbClient =>
  new OvsdbClient({ socketPath, deadlineMs, jsonLimits: { maximumBytes: 1 << 20, maximumDepth: 64 } });

beforeEach(async () => {
  directory = mkdtempSync(join(tmpdir(), 'vu-rude-'));
  socketPath = join(directory, 'db.sock');
  connections = 0;
  server = createServer((socket) => {
    connections += 1;
    socket.on('error', () => undefined);
    const stream = new JsonStream();
    socket.on('data', (data) => {
      for (const request of stream.push(data)) onRequest(socket, request as never);
    });
  }).listen(socketPath);
  await once(server, 'listening');
  client = connect(10_000);
});
afterEach(() => {
  client.close();
  server.close();
  rmSync(directory, { recursive: true, force: true });
});

const polite = (socket: Socket, { id }: { id: number }): void => {
  socket.write(JSON.stringify({ id, result: [{}], error: null }));
};

describe('a server', () => {
  it.each<[string, string]>([
    ['answers with garbage', 'HTTP/1.1 400 Bad Request\r\n\r\n'],
    ['answers with broken JSON', '{"id":1,"result":[oops]}'],
    ['nests without end', '['.repeat(100_000)],
    ['sends a value without end', `{"id":1,"result":"${'x'.repeat(2 << 20)}`],
    ['sends an array', '[1,2,3]'],
    ['answers with a number', '{"id":1,"result":5,"error":null}'],
    ['answers too many operations', '{"id":1,"result":[{},{},{}],"error":null}'],
    ['answers too few operations', '{"id":1,"result":[],"error":null}'],
    ['answers with rows that are none', '{"id":1,"result":[{"rows":[1]}],"error":null}'],
    ['answers with null', '{"id":1,"result":[null],"error":null}'],
  ])('that %s fails the call, and the next call is served on a new connection', async (_title, text) => {
    onRequest = (socket) => socket.write(text);
    await expect(client.transact(operations, signal)).rejects.toMatchObject({
      code: 'OVS_UNAVAILABLE',
      details: { committed: 'unknown' },
    });
    onRequest = polite;
    expect(await client.transact(operations, signal)).toMatchObject({ kind: 'committed' });
    expect(connections).toBe(2);
  });

  it('that refuses the request as a whole is quoted', async () => {
    onRequest = (socket, { id }) => socket.write(JSON.stringify({ id, result: null, error: 'unknown database' }));
    const call = client.transact(operations, signal);
    await expect(call).rejects.toMatchObject({ code: 'OVS_REFUSED' });
    await expect(call).rejects.toThrow('unknown database');
  });

  it('that stalls after half an answer costs the deadline, all calls on it, and nothing more', async () => {
    // Long enough for the polite answer, too.
    const impatient = connect(2000);
    try {
      onRequest = (socket) => socket.write('{"id":1,"resu');
      const calls = [impatient.transact(operations, signal), impatient.transact(operations, signal)];
      const settled = await Promise.allSettled(calls);
      expect(settled.map((call) => call.status)).toEqual(['rejected', 'rejected']);
      onRequest = polite;
      expect(await impatient.transact(operations, signal)).toMatchObject({ kind: 'committed' });
    } finally {
      impatient.close();
    }
  });

  it('that hangs up in the middle fails the call', async () => {
    onRequest = (socket) => socket.end('{"id":1');
    await expect(client.transact(operations, signal)).rejects.toMatchObject({ code: 'OVS_UNAVAILABLE' });
  });

  it('that answers in another order, or what nobody asked, mixes nothing up', async () => {
    const waiting: number[] = [];
    onRequest = (socket, { id }) => {
      waiting.push(id);
      if (waiting.length < 2) return;
      socket.write('{"id":999,"result":[{"count":9}],"error":null}');
      for (const answered of waiting.reverse()) {
        socket.write(JSON.stringify({ id: answered, result: [{ count: answered }], error: null }));
      }
    };
    const calls = [client.transact(operations, signal), client.transact(operations, signal)];
    expect(await Promise.all(calls)).toMatchObject([{ results: [{ count: 1 }] }, { results: [{ count: 2 }] }]);
  });

  it('that asks for an echo gets it', async () => {
    const echoed = new Promise<unknown>((resolve) => {
      onRequest = (socket, message) => {
        if (message.method === 'transact') socket.write('{"id":"echo","method":"echo","params":[1,"two"]}');
        else resolve(message);
      };
    });
    client.transact(operations, signal).catch(() => undefined);
    expect(await echoed).toEqual({ id: 'echo', result: [1, 'two'], error: null });
  });
});
