/** The control queue of a session, and what a port takes from JavaScript for it. Needs root. */
import { afterAll, afterEach, describe, expect, it } from '@jest/globals';
import type { ControlQueue, RxFilterRules, SessionOptions } from '../../src/native/binding.ts';
import { loadNative } from '../../src/native/load.ts';
import { featureBit, featureMask } from '../../src/virtio/feature.ts';
import { Cleanup } from '../support/cleanup.ts';
import { faultOf } from '../support/native-sockets.ts';
import { Netns } from '../support/netns.ts';

const native = loadNative();
const cleanup = new Cleanup();
afterEach(async () => {
  expect(await cleanup.run()).toEqual([]);
});
afterAll(() => native.shutdown());

const options: SessionOptions = {
  pairs: 1,
  queueSize: 256,
  rxBufferBytes: 4096,
  features: featureMask(featureBit.VERSION_1, featureBit.CTRL_VQ),
  memory: 'memfd',
};

function openQueue(features = 0n): ControlQueue {
  const session = native.createSession({ ...options, features: options.features | features });
  cleanup.add('session', () => session.close());
  if (session.control === null) throw new Error('no control queue');
  return session.control;
}

describe('the control queue of a session', () => {
  it.each([
    ['split', 0n],
    ['packed', featureMask(featureBit.RING_PACKED)],
    ['packed in order', featureMask(featureBit.RING_PACKED, featureBit.IN_ORDER)],
  ])('carries commands and answers over a %s ring', (_kind, features) => {
    const queue = openQueue(features);
    for (let round = 0; round < 200; round += 1) {
      const data = Buffer.alloc(round % 7, round);
      const token = queue.submit({ commandClass: 4, command: round % 3, data });
      expect(queue.takeAnswer()).toBeNull();
      expect(queue.next()).toEqual({ commandClass: 4, command: round % 3, data });
      expect(queue.next()).toBeNull();
      queue.complete(round % 2);
      expect(queue.takeAnswer()).toEqual({ token, ack: round % 2 });
    }
  });

  it('is not there without the feature', () => {
    const session = native.createSession({ ...options, features: featureMask(featureBit.VERSION_1) });
    expect(session.control).toBeNull();
    session.close();
  });

  it('refuses commands that are too long, a ring that is full, and a session that is closed', () => {
    const queue = openQueue();
    expect(faultOf(() => queue.submit({ commandClass: 0, command: 0, data: Buffer.alloc(4097) })).code).toBe(
      'EMSGSIZE',
    );
    const fill = (): void => {
      for (;;) queue.submit({ commandClass: 0, command: 0, data: Buffer.alloc(1) });
    };
    expect(faultOf(fill).code).toBe('ENOSPC');
    const session = native.createSession(options);
    session.close();
    expect(() => session.control?.next()).toThrow('closed session');
  });

  it.each([
    ['a class that is no byte', { commandClass: 256, command: 0, data: Buffer.alloc(0) }],
    ['data that are no bytes', { commandClass: 0, command: 0, data: 'x' }],
    ['nothing', undefined],
  ])('refuses %s with a TypeError', (_what, command) => {
    expect(() => void Reflect.apply(openQueue().submit, openQueue(), [command])).toThrow(/expected/);
  });
});

describe('a port', () => {
  const rules: RxFilterRules = {
    promiscuous: false,
    allMulticast: false,
    allUnicast: false,
    noMulticast: false,
    noUnicast: false,
    noBroadcast: false,
    mac: '02:00:00:00:00:01',
    unicast: ['02:00:00:00:00:02'],
    multicast: ['33:33:00:00:00:01'],
    vlans: [0, 4095],
  };

  async function openPort(queues = 2) {
    const pod = await Netns.create(`vu-port-${process.pid}`, cleanup);
    const netns = native.openNetns(pod.path);
    const tap = await native.openTap(netns, {
      name: 'eth0',
      queues,
      headerBytes: 12,
      adoptIfindex: null,
      mac: '02:00:00:00:00:01',
      mtu: 1500,
      txQueueLength: 1000,
      gsoMaxBytes: 65_536,
    });
    netns.close();
    const pump = native.createPump({ name: 'vu-test', spinUs: 0 });
    cleanup.add('pump', () => pump.close());
    const port = native.createPort({ taps: tap.queues, pumps: [pump], onEvent: () => undefined });
    cleanup.add('port', () => port.close());
    return port;
  }

  it('takes a receive filter, and refuses one that makes no sense', async () => {
    const port = await openPort();
    await port.setRxFilter(rules);
    await port.setRxFilter({ ...rules, vlans: null });
    for (const wrong of [{ mac: 'x' }, { unicast: ['02'] }, { vlans: [4096] }, { promiscuous: 1 }]) {
      expect(() => void Reflect.apply(port.setRxFilter, port, [{ ...rules, ...wrong }])).toThrow(/expected/);
    }
  });

  it('switches between one pair and the most that can be asked for', async () => {
    const most = 128;
    const port = await openPort(most);
    const session = native.createSession({ ...options, pairs: most, queueSize: 64 });
    expect([session.rings.length, session.kicks.length]).toEqual([2 * most, 2 * most]);
    await port.start(session, { softwareGso: false, softwareChecksum: false, softwareGro: false, activePairs: most });
    await port.finishTransmit(1);
    port.detachQueues(1);
    await port.retire(1);
    await port.enlist(most);
    await port.quiesce();
    session.close();
  });

  it('switches pairs only while it runs, and only as many as there are', async () => {
    const port = await openPort();
    await expect(port.enlist(1)).rejects.toMatchObject({ code: 'ESHUTDOWN' });
    const session = native.createSession({ ...options, pairs: 2 });
    await port.start(session, { softwareGso: false, softwareChecksum: false, softwareGro: false, activePairs: 1 });
    for (const pairs of [0, 3]) await expect(port.enlist(pairs)).rejects.toMatchObject({ code: 'EINVAL' });
    await port.enlist(2);
    await port.finishTransmit(1);
    port.detachQueues(1);
    await port.retire(1);
    await port.quiesce();
    session.close();
  });
});
