/** The small parts of the life cycle: locks, rollback, announcements, pod link. */
import { describe, expect, it } from '@jest/globals';
import { announcements } from '../../../src/attachment/announce.ts';
import { limited } from '../../../src/attachment/limited.ts';
import { KeyedLock } from '../../../src/attachment/lock.ts';
import { linkSetup, tapSpec } from '../../../src/attachment/pod-link.ts';
import { Rollback } from '../../../src/attachment/rollback.ts';
import type { IpamRoute } from '../../../src/ipam/result.ts';
import { settle } from '../../support/fake-clock.ts';

function gate(): { readonly passed: Promise<void>; readonly open: () => void } {
  let open = (): void => undefined;
  const passed = new Promise<void>((resolve) => (open = resolve));
  return { passed, open };
}

describe('a keyed lock', () => {
  it('runs exclusive work one by one in the order of asking, and other keys beside it', async () => {
    const lock = new KeyedLock();
    const order: string[] = [];
    const first = gate();
    const work = [
      lock.exclusive('a', null, async () => {
        order.push('a1 begins');
        await first.passed;
        order.push('a1 ends');
      }),
      lock.exclusive('a', null, async () => void order.push('a2')),
      lock.exclusive('b', null, async () => void order.push('b')),
      lock.exclusive('a', null, async () => void order.push('a3')),
    ];
    await settle();
    expect(order).toEqual(['a1 begins', 'b']);
    first.open();
    await Promise.all(work);
    expect(order).toEqual(['a1 begins', 'b', 'a1 ends', 'a2', 'a3']);
  });

  it('lets shared work run together, and an exclusive one neither beside it nor starve', async () => {
    const lock = new KeyedLock();
    const order: string[] = [];
    const first = gate();
    const work = [
      lock.shared('a', null, () => first.passed.then(() => void order.push('shared 1'))),
      lock.shared('a', null, async () => void order.push('shared 2')),
      lock.exclusive('a', null, async () => void order.push('exclusive')),
      lock.shared('a', null, async () => void order.push('shared 3')),
    ];
    await settle();
    expect(order).toEqual(['shared 2']);
    first.open();
    await Promise.all(work);
    expect(order).toEqual(['shared 2', 'shared 1', 'exclusive', 'shared 3']);
  });

  it('hands on after a failure, and drops who gave up waiting', async () => {
    const lock = new KeyedLock();
    const first = gate();
    const controller = new AbortController();
    const failing = lock.exclusive('a', null, () => first.passed.then(() => Promise.reject(new Error('broken'))));
    const leaving = lock.exclusive('a', controller.signal, () => Promise.resolve('ran'));
    const staying = lock.shared('a', null, () => Promise.resolve('ran'));
    controller.abort();
    await expect(leaving).rejects.toMatchObject({ code: 'CANCELLED' });
    first.open();
    await expect(failing).rejects.toThrow('broken');
    expect(await staying).toBe('ran');
  });
});

describe('a rollback', () => {
  it('runs every undo in reverse though some fail, and says which', async () => {
    const order: string[] = [];
    const rollback = new Rollback();
    rollback.push('one', () => order.push('one'));
    rollback.push('two', () => Promise.reject(new Error('stuck')));
    rollback.push('three', () => {
      order.push('three');
      throw new Error('torn');
    });
    expect(await rollback.unwind()).toEqual([
      { step: 'three', reason: 'torn' },
      { step: 'two', reason: 'stuck' },
    ]);
    expect(order).toEqual(['three', 'one']);
    expect(await rollback.unwind()).toEqual([]);
  });
});

describe('bounded work', () => {
  it('is never more than the bound at a time, is all done, and reports the first failure', async () => {
    let running = 0;
    let most = 0;
    const done: number[] = [];
    const work = async (item: number): Promise<void> => {
      running += 1;
      most = Math.max(most, running);
      await settle();
      running -= 1;
      done.push(item);
      if (item === 3) throw new Error('three');
    };
    await expect(limited([1, 2, 3, 4, 5, 6, 7], 3, work)).rejects.toThrow('three');
    expect([most, done.length]).toEqual([3, 7]);
  });
});

describe('announcements', () => {
  const mac = '02:11:22:33:44:55';
  const hex = (address: string): string => Buffer.from(announcements(mac, [address])[0] ?? []).toString('hex');

  it('of an IPv4 address are a gratuitous ARP request (RFC 5227)', () => {
    expect(hex('10.77.0.2/24')).toBe(
      'ffffffffffff' +
        '021122334455' +
        '0806' + // Ethernet
        '0001' +
        '0800' +
        '06' +
        '04' +
        '0001' + // request for IPv4 over Ethernet
        '021122334455' +
        '0a4d0002' +
        '000000000000' +
        '0a4d0002',
    );
  });

  it('of an IPv6 address are an unsolicited advertisement (RFC 4861) with a checksum that holds', () => {
    const frame = Buffer.from(hex('fd77::2/64'), 'hex');
    expect(frame.subarray(0, 14).toString('hex')).toBe('333300000001' + '021122334455' + '86dd');
    expect(frame.readUInt8(14 + 7)).toBe(255); // hop limit: else it is dropped
    const icmp = frame.subarray(54);
    expect([icmp.readUInt8(0), icmp.readUInt8(1), icmp.readUInt32BE(4) >>> 28]).toEqual([136, 0, 2]);
    expect(icmp.subarray(8, 24).toString('hex')).toBe('fd77' + '00'.repeat(13) + '02');
    expect(icmp.subarray(24).toString('hex')).toBe('0201' + '021122334455');
    const pseudo = Buffer.concat([frame.subarray(22, 54), Buffer.from([0, 0, 0, icmp.length, 0, 0, 0, 58])]);
    let sum = 0;
    for (const part of [pseudo, icmp]) for (let at = 0; at < part.length; at += 2) sum += part.readUInt16BE(at);
    while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
    expect(sum).toBe(0xffff);
  });
});

describe('the pod link', () => {
  const route = (dst: string, change: Partial<IpamRoute> = {}): IpamRoute => ({
    ...{ dst, gw: null, mtu: null, advmss: null, priority: null, table: null, scope: null },
    ...change,
  });
  const setup = (...routes: IpamRoute[]) =>
    linkSetup(7, {
      ips: [
        { address: '10.0.0.2/24', gateway: null },
        { address: '10.0.1.2/24', gateway: '10.0.1.1' },
        { address: 'fd00::2/64', gateway: 'fd00::1' },
      ],
      routes,
      dns: null,
    }).routes.map(({ destination, prefixLength, gateway }) => [destination, prefixLength, gateway]);

  it('gives a route without a gateway the first one of its family', () => {
    expect(setup(route('0.0.0.0/0'), route('::/0'), route('192.0.2.0/24', { gw: '10.0.0.9' }))).toEqual([
      ['0.0.0.0', 0, '10.0.1.1'],
      ['::', 0, 'fd00::1'],
      ['192.0.2.0', 24, '10.0.0.9'],
    ]);
  });

  it('leaves a route of link scope without one', () => {
    expect(setup(route('169.254.1.1/32', { scope: 253 }))).toEqual([['169.254.1.1', 32, null]]);
  });

  it('keeps TSO frames small enough for the linear buffers of a DPDK backend', () => {
    const device = {
      queues: 2,
      queueSize: 256,
      cq: true,
      mac: '02:00:00:00:00:01',
      mrgRxbuf: true,
      inOrder: true,
      packedVq: false,
      mtu: 9000,
      memory: 'memfd',
    } as const;
    expect(tapSpec('eth0', device, null)).toMatchObject({ queues: 2, headerBytes: 12, gsoMaxBytes: 65_000, mtu: 9000 });
  });
});
