/** TAPs, addresses and routes in network namespaces, as `ip` sees them. Needs root. */
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import type { NativeFd, OpenedTap, PodRoute, TapSpec } from '../../src/native/binding.ts';
import { loadNative } from '../../src/native/load.ts';
import { closeDependencies, featureMask } from '../../src/virtio/feature.ts';
import { planOffloads } from '../../src/virtio/offload.ts';
import { Cleanup } from '../support/cleanup.ts';
import { descriptorsBackTo, openDescriptors } from '../support/open-descriptors.ts';
import { faultOf } from '../support/native-sockets.ts';
import { Netns } from '../support/netns.ts';
import { run, until } from '../support/process.ts';

const native = loadNative();
const cleanup = new Cleanup();
let count = 0;
let pod: Netns;
let netns: NativeFd;

beforeEach(async () => {
  count += 1;
  pod = await Netns.create(`vu-link-${process.pid}-${count}`, cleanup);
  netns = native.openNetns(pod.path);
  cleanup.add('namespace descriptor', () => netns.close());
});

afterEach(async () => {
  expect(await cleanup.run()).toEqual([]);
});

afterAll(() => native.shutdown());

const spec: TapSpec = {
  name: 'eth0',
  queues: 1,
  headerBytes: 12,
  adoptIfindex: null,
  mac: '02:00:0a:4d:00:02',
  mtu: 1450,
  txQueueLength: 1000,
  gsoMaxBytes: 65_536,
};

async function openTap(changes: Partial<TapSpec> = {}): Promise<OpenedTap> {
  const tap = await native.openTap(netns, { ...spec, ...changes });
  cleanup.add('queues', () => closeQueues(tap));
  return tap;
}

function closeQueues(tap: OpenedTap): void {
  for (const queue of tap.queues) queue.close();
}

interface IpLink {
  readonly ifindex: number;
  readonly ifname: string;
  readonly flags: readonly string[];
  readonly address: string;
  readonly mtu: number;
  readonly txqlen: number;
  readonly gso_max_size: number;
  readonly inet6_addr_gen_mode?: string;
  readonly linkinfo?: { readonly info_kind: string; readonly info_data: Record<string, unknown> };
}

interface IpAddress {
  readonly local: string;
  readonly prefixlen: number;
  readonly scope: string;
  readonly broadcast?: string;
  readonly tentative?: boolean;
  readonly nodad?: boolean;
}

async function ipJson<T>(...args: string[]): Promise<T[]> {
  return JSON.parse((await pod.run('ip', '-j', ...args)) || '[]') as T[];
}

async function ipLinks(): Promise<readonly IpLink[]> {
  return ipJson<IpLink>('-d', 'link');
}

async function ipLink(name = 'eth0'): Promise<IpLink> {
  const link = (await ipLinks()).find(({ ifname }) => ifname === name);
  if (link === undefined) throw new Error(`no ${name} in ${pod.name}`);
  return link;
}

async function ipAddresses(family: '-4' | '-6'): Promise<readonly IpAddress[]> {
  const links = await ipJson<{ readonly addr_info: readonly IpAddress[] }>(family, 'addr', 'show', 'dev', 'eth0');
  return links.flatMap((link) => link.addr_info);
}

const route = (destination: string, prefixLength: number, changes: Partial<PodRoute> = {}): PodRoute => ({
  destination,
  prefixLength,
  gateway: null,
  mtu: null,
  advmss: null,
  priority: null,
  table: null,
  scope: null,
  ...changes,
});

const hostLinks = async (): Promise<readonly string[]> =>
  (JSON.parse(await run('ip', ['-j', 'link'])) as IpLink[])
    .map(({ ifindex, ifname, mtu }) => `${ifindex} ${ifname} ${mtu}`)
    .filter((line) => / (eth0|lo|tap|tun)/.test(line));

describe('a TAP', () => {
  it.each([1, 4])('[65] with %i queues has what was asked for, in the pod and not on the host', async (queues) => {
    const before = await hostLinks();
    const tap = await openTap({ queues });
    expect(tap.queues).toHaveLength(queues);
    expect(await ipLink()).toMatchObject({
      ifindex: tap.ifindex,
      address: spec.mac,
      mtu: 1450,
      txqlen: 1000,
      gso_max_size: 65_536,
      linkinfo: {
        info_kind: 'tun',
        info_data: {
          ...{ type: 'tap', pi: false, vnet_hdr: true, persist: true },
          // `ip` tells their number only of a multi-queue device.
          ...(queues === 1 ? { multi_queue: false } : { multi_queue: true, numqueues: queues }),
        },
      },
    });
    expect(await native.inspectPodLink(netns, 'eth0')).toMatchObject({
      ifindex: tap.ifindex,
      kind: 'tun',
      mac: spec.mac,
      mtu: 1450,
      up: false,
      carrier: false,
    });
    expect(await hostLinks()).toEqual(before);
  });

  it('starts without carrier, also when it is up', async () => {
    const tap = await openTap();
    await native.setupPodLink(netns, { ifindex: tap.ifindex, addresses: [], routes: [] });
    expect((await ipLink()).flags).toContain('UP');
    expect((await ipLink()).flags).not.toContain('LOWER_UP');
    expect(await native.inspectPodLink(netns, 'eth0')).toMatchObject({ up: true, carrier: false });
  });

  it('[66] outlives its queues and is taken up again with its index, its MAC and another number of queues', async () => {
    const tap = await openTap({ queues: 2 });
    closeQueues(tap);
    const again = await openTap({
      queues: 4,
      headerBytes: 10,
      adoptIfindex: tap.ifindex,
      mac: '02:00:00:00:00:99',
      mtu: 900,
    });
    expect(again.ifindex).toBe(tap.ifindex);
    expect(await ipLink()).toMatchObject({ address: spec.mac, mtu: 1450, linkinfo: { info_data: { numqueues: 4 } } });
  });

  it('with one queue has one qdisc, and not the 256 of a multi-queue device', async () => {
    const tap = await openTap();
    await native.setupPodLink(netns, { ifindex: tap.ifindex, addresses: [], routes: [] });
    expect((await pod.run('tc', 'qdisc', 'show', 'dev', 'eth0')).trim().split('\n')).toEqual([
      expect.stringContaining('qdisc pfifo_fast 0: root'),
    ]);
  });

  it('[66] with one queue outlives it, and so does one that an older version made multi-queue', async () => {
    const tap = await openTap();
    closeQueues(tap);
    expect(await openTap({ adoptIfindex: tap.ifindex })).toMatchObject({ ifindex: tap.ifindex });
    await pod.run('ip', 'tuntap', 'add', 'dev', 'old0', 'mode', 'tap', 'multi_queue', 'vnet_hdr');
    const { ifindex } = await ipLink('old0');
    const old = await openTap({ name: 'old0', adoptIfindex: ifindex });
    expect(old.ifindex).toBe(ifindex);
    expect(old.queues).toHaveLength(1);
  });

  it('that should be there is not made when it is missing, another, or of another kind', async () => {
    await expect(openTap({ adoptIfindex: 77 })).rejects.toMatchObject({ code: 'ENODEV', path: 'eth0' });
    expect((await ipLinks()).map(({ ifname }) => ifname)).toEqual(['lo']);
    const tap = await openTap();
    closeQueues(tap);
    await expect(openTap({ adoptIfindex: tap.ifindex + 1 })).rejects.toMatchObject({ code: 'ENODEV' });
    expect(await ipLink()).toMatchObject({ ifindex: tap.ifindex });
    await pod.run('ip', 'link', 'add', 'veth0', 'type', 'veth', 'peer', 'name', 'veth1');
    const veth = await ipLink('veth0');
    await expect(openTap({ name: 'veth0', adoptIfindex: veth.ifindex })).rejects.toMatchObject({ code: 'EEXIST' });
  });

  it('[66] that the pod has renamed is taken up again and removed, and what took its name is spared', async () => {
    const tap = await openTap({ queues: 2 });
    closeQueues(tap);
    // As KubeVirt does it: the interface becomes the port of a bridge, with another address.
    await pod.run('ip', 'link', 'set', 'eth0', 'name', 'eth0-nic');
    await pod.run('ip', 'link', 'set', 'eth0-nic', 'address', '02:00:00:00:00:99');
    await pod.run('ip', 'tuntap', 'add', 'dev', 'eth0', 'mode', 'tap', 'multi_queue', 'vnet_hdr');
    const foreign = await ipLink();
    const again = await openTap({ queues: 2, adoptIfindex: tap.ifindex });
    expect(again.ifindex).toBe(tap.ifindex);
    expect(await ipLink('eth0-nic')).toMatchObject({ linkinfo: { info_data: { numqueues: 2 } } });
    // CHECK asks for what has the name.
    expect(await native.inspectPodLink(netns, 'eth0')).toMatchObject({ ifindex: foreign.ifindex });
    closeQueues(again);
    expect(await native.deletePodLink(netns, 'eth0', tap.ifindex)).toBe(true);
    const left = (await ipLinks()).map(({ ifname, ifindex }) => ({ ifname, ifindex }));
    expect(left).toEqual([expect.objectContaining({ ifname: 'lo' }), { ifname: 'eth0', ifindex: foreign.ifindex }]);
  });

  it('that is renamed again and again meanwhile is taken up or not, and nothing is made', async () => {
    const tap = await openTap();
    closeQueues(tap);
    const script = 'while :; do ip link set eth0 name eth1; ip link set eth1 name eth0; done 2>/dev/null';
    const log = join(tmpdir(), `vu-link-${process.pid}.log`);
    cleanup.add('log', () => rmSync(log, { force: true }));
    const renaming = pod.daemon('renaming', log, '/bin/sh', '-c', script);
    cleanup.add('renaming', () => renaming.stop());
    let taken = 0;
    for (let round = 0; round < 300; round += 1) {
      try {
        const again = await native.openTap(netns, { ...spec, adoptIfindex: tap.ifindex });
        closeQueues(again);
        expect(again.ifindex).toBe(tap.ifindex);
        taken += 1;
      } catch (error) {
        expect(error).toMatchObject({ code: 'ESTALE' });
      }
    }
    expect(taken).toBeGreaterThan(0);
    await renaming.stop();
    expect((await ipLinks()).map(({ ifindex }) => ifindex)).toEqual([1, tap.ifindex]);
  });

  it('is refused with EEXIST when the name is taken, and the owner of the name is unharmed', async () => {
    await pod.run('ip', 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'veth1');
    const before = await ipLink();
    await expect(openTap()).rejects.toMatchObject({ code: 'EEXIST', path: 'eth0' });
    expect(await ipLink()).toEqual(before);
    await pod.run('ip', 'link', 'del', 'eth0');
    const tap = await openTap();
    await expect(openTap()).rejects.toMatchObject({ code: 'EEXIST' });
    closeQueues(tap);
    await expect(openTap()).rejects.toMatchObject({ code: 'EEXIST' });
    expect(await ipLink()).toMatchObject({ ifindex: tap.ifindex });
  });

  it.each([
    ['an MTU', { mtu: 70_000 }, 'EINVAL'],
    ['a MAC', { mac: '01:00:5e:00:00:01' }, 'EADDRNOTAVAIL'],
    ['a GSO size', { gsoMaxBytes: 4_000_000_000 }, 'EINVAL'],
  ])('is gone again when the kernel refuses %s; the error says why', async (_what, changes, code) => {
    const before = openDescriptors();
    const refusal = openTap(changes);
    await expect(refusal).rejects.toMatchObject({ code, path: 'eth0' });
    await expect(refusal).rejects.toThrow(/RTM_NEWLINK/);
    expect((await ipLinks()).map(({ ifname }) => ifname)).toEqual(['lo']);
    await descriptorsBackTo(before);
  });

  it('carries the explanation of the kernel in its error', async () => {
    await expect(openTap({ mtu: 70_000 })).rejects.toThrow(/mtu greater than device maximum/);
  });

  it('that disappears under its owner leaves no descriptor behind, 200 times over', async () => {
    await native.inspectPodLink(netns, 'eth0');
    const before = openDescriptors();
    for (let round = 0; round < 200; round += 1) {
      const tap = await native.openTap(netns, { ...spec, queues: 1 + (round % 3) });
      await native.setupPodLink(netns, {
        ifindex: tap.ifindex,
        addresses: [{ address: '10.77.0.2', prefixLength: 24 }],
        routes: [route('0.0.0.0', 0, { gateway: '10.77.0.1' })],
      });
      expect(await native.deletePodLink(netns, 'eth0', tap.ifindex)).toBe(true);
      closeQueues(tap);
    }
    // The sender of a removal is let go by the kernel some time after the link is gone.
    await descriptorsBackTo(before);
    expect((await ipLinks()).map(({ ifname }) => ifname)).toEqual(['lo']);
  });

  it('[60] takes every mask of offloads that is computed from what can be negotiated, and no other', async () => {
    const bits = [0, 1, 7, 8, 11, 12];
    const masks = new Set<number>();
    for (let choice = 0; choice < 1 << bits.length; choice += 1) {
      const set = closeDependencies(featureMask(...bits.filter((_bit, index) => ((choice >> index) & 1) === 1)));
      for (const software of [true, false]) masks.add(planOffloads(set, software).tapMask);
    }
    expect([...masks].toSorted()).toEqual([0, 1, 3, 5, 7]);
    const pump = native.createPump({ name: 'offloads', spinUs: 0 });
    cleanup.add('pump', () => pump.close());
    const { queues } = await openTap();
    const port = native.createPort({ taps: queues, pumps: [pump], onEvent: () => undefined });
    cleanup.add('port', () => port.close());
    for (const mask of masks) port.setOffload(mask);
    for (const segmentationAlone of [2, 4, 6]) {
      expect(faultOf(() => port.setOffload(segmentationAlone))).toMatchObject({ code: 'EINVAL' });
    }
  });

  it('is gone from the namespace when its removal is reported', async () => {
    for (let round = 0; round < 20; round += 1) {
      const tap = await native.openTap(netns, spec);
      closeQueues(tap);
      expect(await native.deletePodLink(netns, 'eth0', tap.ifindex)).toBe(true);
      expect(await native.inspectPodLink(netns, 'eth0')).toBeNull();
    }
  });

  it('in eight namespaces at once does not mix them up', async () => {
    const pods = await Promise.all(
      Array.from({ length: 8 }, (_, index) => Netns.create(`vu-link-${process.pid}-p${index}`, cleanup)),
    );
    const own = native.ownNetns();
    const taps = await Promise.all(
      pods.map(async ({ path }, index) => {
        const inside = native.openNetns(path);
        try {
          const mac = `02:00:00:00:00:0${index}`;
          const tap = await native.openTap(inside, { ...spec, mac });
          closeQueues(tap);
          return [(await native.inspectPodLink(inside, 'eth0'))?.mac, mac];
        } finally {
          inside.close();
        }
      }),
    );
    for (const [seen, wanted] of taps) expect(seen).toBe(wanted);
    // No thread of this process stayed in a pod.
    const after = native.ownNetns();
    expect(after.identity()).toEqual(own.identity());
    for (const fd of [own, after]) fd.close();
  });
});

describe('setupPodLink', () => {
  it('gives addresses that work at once, IPv6 ones without waiting for carrier', async () => {
    const tap = await openTap();
    await native.setupPodLink(netns, {
      ifindex: tap.ifindex,
      addresses: [
        { address: '10.77.0.2', prefixLength: 24 },
        { address: '10.78.0.2', prefixLength: 32 },
        { address: 'fd00:77::2', prefixLength: 64 },
      ],
      routes: [],
    });
    const v4 = await ipAddresses('-4');
    expect(v4.map(({ local, prefixlen, broadcast }) => [local, prefixlen, broadcast])).toEqual([
      ['10.77.0.2', 24, '10.77.0.255'],
      ['10.78.0.2', 32, undefined],
    ]);
    const v6 = await ipAddresses('-6');
    expect(v6.map(({ local, scope }) => [local, scope]).sort()).toEqual([
      ['fd00:77::2', 'global'],
      ['fe80::aff:fe4d:2', 'link'],
    ]);
    expect(v6.filter(({ tentative }) => tentative === true)).toEqual([]);
    // A tentative address cannot be bound.
    const bind = `const s = require('dgram').createSocket('udp6'); s.bind(0, 'fd00:77::2', () => s.close())`;
    await pod.run(process.execPath, '-e', bind);
    expect((await native.inspectPodLink(netns, 'eth0'))?.addresses).toEqual(
      expect.arrayContaining([
        { address: '10.77.0.2', prefixLength: 24 },
        { address: '10.78.0.2', prefixLength: 32 },
        { address: 'fd00:77::2', prefixLength: 64 },
      ]),
    );
  });

  it('sets lo up when it is down', async () => {
    await pod.run('ip', 'link', 'set', 'lo', 'down');
    const tap = await openTap();
    await native.setupPodLink(netns, { ifindex: tap.ifindex, addresses: [], routes: [] });
    expect((await ipLink('lo')).flags).toContain('UP');
  });

  it('adds routes with gateways, metrics, priorities, tables and scopes, and inspectPodLink reads them back', async () => {
    const tap = await openTap();
    const routes = [
      route('0.0.0.0', 0, { gateway: '10.77.0.1', mtu: 1400, advmss: 1360 }),
      route('::', 0, { gateway: 'fd00:77::1', mtu: 1400 }),
      route('10.96.0.0', 12, { gateway: '10.77.0.1', priority: 50 }),
      route('192.168.7.0', 24, { scope: 253 }),
      route('10.99.0.0', 16, { gateway: '10.77.0.1', table: 1000 }),
      route('fd00:99::', 48, { gateway: 'fd00:77::1', priority: 77 }),
    ];
    await native.setupPodLink(netns, {
      ifindex: tap.ifindex,
      addresses: [
        { address: '10.77.0.2', prefixLength: 24 },
        { address: 'fd00:77::2', prefixLength: 64 },
      ],
      routes,
    });
    expect(await ipJson('-4', 'route', 'show', 'default')).toMatchObject([
      { dst: 'default', gateway: '10.77.0.1', dev: 'eth0', metrics: [{ mtu: 1400, advmss: 1360 }] },
    ]);
    expect(await ipJson('-6', 'route', 'show', 'default')).toMatchObject([{ gateway: 'fd00:77::1', dev: 'eth0' }]);
    expect(await ipJson('-4', 'route', 'show', '10.96.0.0/12')).toMatchObject([{ gateway: '10.77.0.1', metric: 50 }]);
    expect(await ipJson('-4', 'route', 'show', '192.168.7.0/24')).toMatchObject([{ scope: 'link', dev: 'eth0' }]);
    expect(await ipJson('-4', 'route', 'show', 'table', '1000')).toMatchObject([{ dst: '10.99.0.0/16' }]);
    const seen = (await native.inspectPodLink(netns, 'eth0'))?.routes;
    for (const wanted of routes) {
      const known = Object.entries(wanted).filter(([, value]) => value !== null);
      expect(seen).toContainEqual(expect.objectContaining(Object.fromEntries(known)));
    }
  });

  it('takes a gateway outside the connected networks as on the link', async () => {
    const tap = await openTap();
    await native.setupPodLink(netns, {
      ifindex: tap.ifindex,
      addresses: [
        { address: '10.77.0.2', prefixLength: 32 },
        { address: 'fd00:77::2', prefixLength: 128 },
      ],
      routes: [route('0.0.0.0', 0, { gateway: '169.254.1.1' }), route('::', 0, { gateway: 'fd00:1::1' })],
    });
    expect(await ipJson('-4', 'route', 'show', 'default')).toMatchObject([
      { gateway: '169.254.1.1', flags: expect.arrayContaining(['onlink']) },
    ]);
    expect(await ipJson('-6', 'route', 'show', 'default')).toMatchObject([
      { gateway: 'fd00:1::1', flags: expect.arrayContaining(['onlink']) },
    ]);
  });

  it('adds its default route beside that of another interface, and both are seen', async () => {
    await pod.run('ip', 'link', 'add', 'veth0', 'type', 'veth', 'peer', 'name', 'veth1');
    await pod.run('ip', 'addr', 'add', '10.1.0.2/24', 'dev', 'veth0');
    await pod.run('ip', '-6', 'addr', 'add', 'fd00:1::2/64', 'dev', 'veth0', 'nodad');
    await pod.run('ip', 'link', 'set', 'veth1', 'up');
    await pod.run('ip', 'link', 'set', 'veth0', 'up');
    await pod.run('ip', 'route', 'add', 'default', 'via', '10.1.0.1');
    await pod.run('ip', '-6', 'route', 'add', 'default', 'via', 'fd00:1::1');
    const tap = await openTap();
    await native.setupPodLink(netns, {
      ifindex: tap.ifindex,
      addresses: [
        { address: '10.77.0.2', prefixLength: 24 },
        { address: 'fd00:77::2', prefixLength: 64 },
      ],
      routes: [route('0.0.0.0', 0, { gateway: '10.77.0.1' }), route('::', 0, { gateway: 'fd00:77::1' })],
    });
    const gateways = async (name: string) =>
      (await native.inspectPodLink(netns, name))?.routes
        .filter(({ prefixLength }) => prefixLength === 0)
        .map(({ gateway }) => gateway);
    expect(await gateways('eth0')).toEqual(['10.77.0.1', 'fd00:77::1']);
    expect(await gateways('veth0')).toEqual(['10.1.0.1', 'fd00:1::1']);
  });

  it('twice changes nothing', async () => {
    const tap = await openTap();
    const setup = {
      ifindex: tap.ifindex,
      addresses: [
        { address: '10.77.0.2', prefixLength: 24 },
        { address: 'fd00:77::2', prefixLength: 64 },
      ],
      routes: [route('0.0.0.0', 0, { gateway: '10.77.0.1' }), route('10.77.0.0', 24)],
    };
    await native.setupPodLink(netns, setup);
    const once = await native.inspectPodLink(netns, 'eth0');
    await native.setupPodLink(netns, setup);
    expect(await native.inspectPodLink(netns, 'eth0')).toEqual(once);
  });

  it('names the step that failed', async () => {
    await expect(native.setupPodLink(netns, { ifindex: 4711, addresses: [], routes: [] })).rejects.toMatchObject({
      code: 'ENODEV',
      syscall: 'RTM_NEWLINK up',
      path: 'link 4711',
    });
    const tap = await openTap();
    const impossible = [route('10.5.0.1', 24, { gateway: '10.77.0.1' })];
    await expect(
      native.setupPodLink(netns, { ifindex: tap.ifindex, addresses: [], routes: impossible }),
    ).rejects.toMatchObject({ code: 'EINVAL', syscall: 'RTM_NEWROUTE', path: '10.5.0.1/24 via 10.77.0.1' });
    const multicast = [{ address: 'ff02::1', prefixLength: 64 }];
    await expect(
      native.setupPodLink(netns, { ifindex: tap.ifindex, addresses: multicast, routes: [] }),
    ).rejects.toMatchObject({ syscall: 'RTM_NEWADDR', path: 'ff02::1/64' });
  });
});

describe('inspect and delete', () => {
  it('say that a link is not there', async () => {
    expect(await native.inspectPodLink(netns, 'eth0')).toBeNull();
    expect(await native.deletePodLink(netns, 'eth0', 2)).toBe(false);
  });

  it('spare a link of the same name with another index, and of the same index that is no TAP', async () => {
    const tap = await openTap();
    expect(await native.deletePodLink(netns, 'eth0', tap.ifindex + 1)).toBe(false);
    await pod.run('ip', 'link', 'add', 'veth0', 'type', 'veth', 'peer', 'name', 'veth1');
    expect(await native.deletePodLink(netns, 'veth0', (await ipLink('veth0')).ifindex)).toBe(false);
    expect((await ipLinks()).map(({ ifname }) => ifname).toSorted()).toEqual(['eth0', 'lo', 'veth0', 'veth1']);
    expect(await ipLink()).toMatchObject({ ifindex: tap.ifindex });
    expect(await native.deletePodLink(netns, 'eth0', tap.ifindex)).toBe(true);
    expect(await native.deletePodLink(netns, 'eth0', tap.ifindex)).toBe(false);
  });
});

describe('a namespace', () => {
  it('is known by device and inode, however it was opened', async () => {
    const again = native.openNetns(`/run/netns/${pod.name}`);
    const own = native.ownNetns();
    expect(again.identity()).toEqual(netns.identity());
    expect(own.identity()).not.toEqual(netns.identity());
    expect(typeof own.identity().inode).toBe('bigint');
    for (const fd of [again, own]) fd.close();
  });

  it('ends with its last user: no operation of ours keeps it alive', async () => {
    // A veth whose other end goes when the namespace does.
    const witness = await Netns.create(`vu-link-${process.pid}-witness`, cleanup);
    await witness.run('ip', 'link', 'add', 'there', 'type', 'veth', 'peer', 'name', 'here', 'netns', pod.name);
    const tap = await native.openTap(netns, spec);
    await native.setupPodLink(netns, { ifindex: tap.ifindex, addresses: [], routes: [] });
    await native.inspectPodLink(netns, 'eth0');
    closeQueues(tap);
    await pod.delete();
    expect(await witness.run('ip', '-br', 'link')).toContain('there');
    netns.close();
    await until('the namespace ends', async () => !(await witness.run('ip', '-br', 'link')).includes('there'));
  });

  it('is not a file, a link to nothing, a namespace of another kind, or a process', async () => {
    const directory = mkdtempSync(join(tmpdir(), 'vu-netns-'));
    cleanup.add('directory', () => rmSync(directory, { recursive: true }));
    writeFileSync(join(directory, 'file'), '');
    expect(faultOf(() => native.openNetns(join(directory, 'file')))).toMatchObject({ code: 'EINVAL' });
    expect(faultOf(() => native.openNetns('/proc/self/ns/mnt'))).toMatchObject({ code: 'EINVAL' });
    expect(faultOf(() => native.openNetns('/run/netns/vu-link-none'))).toMatchObject({
      code: 'ENOENT',
      syscall: 'open',
      path: '/run/netns/vu-link-none',
    });
    const lock = native.tryLockFile(join(directory, 'lock'), false);
    if (lock === null) throw new Error('locked');
    expect(faultOf(() => native.checkNetns(lock)).code).toBe('EINVAL');
    await expect(native.openTap(lock, spec)).rejects.toMatchObject({ code: 'EINVAL' });
    await expect(native.inspectPodLink(lock, 'eth0')).rejects.toMatchObject({ code: 'EINVAL' });
    lock.close();
    expect(faultOf(() => native.checkNetns(lock)).name).toBe('TypeError');
    native.checkNetns(netns);
  });
});

describe('misuse is a TypeError', () => {
  it.each<readonly [string, Partial<Record<keyof TapSpec, unknown>>]>([
    ['a name that is too long', { name: 'interface-of-16b' }],
    ['a name with a slash', { name: 'a/b' }],
    ['a name that is a pattern', { name: 'tap%d' }],
    ['no name', { name: '' }],
    ['no queue', { queues: 0 }],
    ['too many queues', { queues: 257 }],
    ['half a queue', { queues: 1.5 }],
    ['another header', { headerBytes: 11 }],
    ['a MAC that is none', { mac: '02:00:00:00:00' }],
    ['a negative MTU', { mtu: -1 }],
    ['a name with NUL', { name: 'eth0\0x' }],
  ])('of openTap: %s', async (_what, changes) => {
    expect(faultOf(() => native.openTap(netns, { ...spec, ...changes } as TapSpec)).name).toBe('TypeError');
    expect((await ipLinks()).map(({ ifname }) => ifname)).toEqual(['lo']);
  });

  it('of setupPodLink: addresses and routes that are none', () => {
    const address = { address: '10.0.0.1', prefixLength: 24 };
    for (const wrong of [
      { addresses: [{ ...address, prefixLength: 33 }] },
      { addresses: [{ ...address, address: '10.0.0' }] },
      { addresses: [{ ...address, address: 'fe80::1%eth0' }] },
      { addresses: 'all' },
      { routes: [route('10.0.0.0', 33)] },
      { routes: [route('10.0.0.0', 8, { gateway: 'fd00::1' })] },
      { routes: [route('10.0.0.0', 8, { mtu: -1 })] },
    ]) {
      const setup = { ifindex: 1, addresses: [], routes: [], ...wrong } as never;
      expect(faultOf(() => native.setupPodLink(netns, setup)).name).toBe('TypeError');
    }
  });
});
