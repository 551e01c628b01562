import { describe, expect, it } from '@jest/globals';
import { probeBackend } from '../../src/frontends/probe.ts';
import { encodeMessage } from '../../src/vhost-user/header.ts';
import { requests } from '../../src/vhost-user/request.ts';
import { failureOf, settle } from '../support/connection.ts';
import { ManualTimers } from '../support/manual-timers.ts';
import { MemoryBinding } from '../support/memory-socket.ts';
import { dpdkOffer, ScriptedBackend, type ScriptedOptions } from '../support/scripted-backend.ts';

const path = '/run/openvswitch/vhost0';

function listening(options: ScriptedOptions) {
  const binding = new MemoryBinding();
  const backend = new ScriptedBackend({ ...options, probed: true });
  binding.listenUnix(
    { path: { baseDirectory: '/run/openvswitch', relativePath: 'vhost0' }, mode: 0o660, groupId: null, backlog: 1 },
    {
      onConnection: (incoming) => void backend.serve((handlers) => incoming.accept(handlers)),
      onFault: () => {},
    },
  );
  return { binding, backend };
}

describe('probe', () => {
  it('reads features, protocol features and queue pairs, and leaves', async () => {
    const { binding, backend } = listening({ ...dpdkOffer, queuePairs: 16 });
    const report = await probeBackend(path, binding);
    expect(report).toMatchObject({ path, features: dpdkOffer.features, protocolFeatures: 0x10cbfn, queuePairs: 16 });
    expect(report.featureNames).toContain('VERSION_1');
    expect(report.protocolFeatureNames).toContain('REPLY_ACK');
    await backend.ended;
    // MQ alone is acked: without it rust-vmm does not answer GET_QUEUE_NUM.
    expect(backend.trace).toEqual([
      'GET_FEATURES',
      'GET_PROTOCOL_FEATURES',
      'SET_PROTOCOL_FEATURES 0x1',
      'GET_QUEUE_NUM',
    ]);
    expect([backend.violations, binding.ledger.open]).toEqual([[], 0]);
  });

  it('sets nothing on a backend without multi-queue or without protocol features', async () => {
    const single = listening({ ...dpdkOffer, protocolFeatures: 0x8n });
    expect(await probeBackend(path, single.binding)).toMatchObject({ protocolFeatures: 8n, queuePairs: null });
    expect(single.backend.trace).toEqual(['GET_FEATURES', 'GET_PROTOCOL_FEATURES']);
    const plain = listening({ features: 1n << 32n });
    expect(await probeBackend(path, plain.binding)).toMatchObject({
      featureNames: ['VERSION_1'],
      protocolFeatures: null,
      protocolFeatureNames: [],
      queuePairs: null,
    });
    expect(plain.backend.trace).toEqual(['GET_FEATURES']);
  });

  it.each([
    ['ENOENT', 'BACKEND_ABSENT'],
    ['ECONNREFUSED', 'BACKEND_ABSENT'],
    ['EACCES', 'SOCKET_PATH'],
    ['ENOTSOCK', 'SOCKET_PATH'],
    ['ELOOP', 'SOCKET_PATH'],
  ])('says %s as %s, with the path', async (errno, code) => {
    const binding = new MemoryBinding();
    binding.failures.set(path, errno);
    const error = await failureOf(probeBackend(path, binding));
    expect(error).toMatchObject({ code, details: { errno, path } });
    expect(error.message).toContain(path);
    expect(error.remedy).not.toBeNull();
  });

  it('ends at the deadline on a backend that does not answer, and closes', async () => {
    const { binding, backend } = listening({ ...dpdkOffer, misbehave: () => ({ kind: 'silent' }) });
    const timers = new ManualTimers();
    const outcome = failureOf(probeBackend(path, binding, { timers, deadlineMs: 3000 }));
    await backend.stalled;
    timers.advance(3000);
    expect((await outcome).code).toBe('TIMEOUT');
    await backend.ended;
    expect(timers.pending).toEqual([]);
  });

  it('says of a peer that sends requests that it is a frontend, whoever speaks first', async () => {
    for (const answers of [false, true]) {
      const binding = new MemoryBinding();
      binding.listenUnix(
        { path: { baseDirectory: '/run/openvswitch', relativePath: 'vhost0' }, mode: 0o660, groupId: null, backlog: 1 },
        {
          onConnection: (incoming) => {
            const speak = (): void =>
              socket.send(encodeMessage(requests.GET_FEATURES.number, 0x1, Buffer.alloc(0)), []);
            const socket = incoming.accept({ onData: () => (answers ? speak() : undefined), onClose: () => {} });
            if (!answers) speak();
          },
          onFault: () => {},
        },
      );
      expect(await failureOf(probeBackend(path, binding))).toMatchObject({
        code: 'PROTOCOL_VIOLATION',
        message: `${path}: the peer sends requests: it is a frontend, not a backend`,
        remedy: expect.stringContaining('attachments show ID'),
      });
      await settle();
      expect(binding.ledger.open).toBe(0);
    }
  });

  it('says of a backend whose reply is malformed what is wrong with it', async () => {
    const bytes = encodeMessage(requests.GET_FEATURES.number, 0x1, Buffer.alloc(8));
    const { binding } = listening({ ...dpdkOffer, misbehave: () => ({ kind: 'bytes', bytes }) });
    expect((await failureOf(probeBackend(path, binding))).message).toContain('flags 0x1 in the reply to GET_FEATURES');
  });

  it('refuses a deadline so short that it would cut living backends', async () => {
    const { binding } = listening(dpdkOffer);
    expect((await failureOf(probeBackend(path, binding, { deadlineMs: 2999 }))).code).toBe('CONFIG_INVALID');
    await settle();
  });
});
