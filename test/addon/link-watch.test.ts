/** What the kernel tells of a pod's interface. Needs root. */
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import type { PodLinkFilter, PodLinkWatch } from '../../src/native/binding.ts';
import { loadNative } from '../../src/native/load.ts';
import { macTableEntries } from '../../src/virtio/control.ts';
import { Cleanup } from '../support/cleanup.ts';
import { openDescriptors } from '../support/open-descriptors.ts';
import { Netns } from '../support/netns.ts';
import { until } from '../support/process.ts';

const native = loadNative();
const cleanup = new Cleanup();
let count = 0;
let pod: Netns;
let watch: PodLinkWatch;
let changes = 0;

beforeEach(async () => {
  count += 1;
  changes = 0;
  pod = await Netns.create(`vu-watch-${process.pid}-${count}`, cleanup);
  const netns = native.openNetns(pod.path);
  const tap = await native.openTap(netns, {
    name: 'eth0',
    queues: 1,
    headerBytes: 12,
    adoptIfindex: null,
    mac: '02:00:0a:4d:00:02',
    mtu: 1500,
    txQueueLength: 1000,
    gsoMaxBytes: 65_536,
  });
  cleanup.add('queue', () => tap.queues[0]?.close());
  await pod.run('ip', 'link', 'set', 'eth0', 'up');
  watch = await native.watchPodLink(netns, tap.ifindex, () => {
    changes += 1;
  });
  netns.close();
  cleanup.add('watch', () => watch.close());
  await watch.read();
});
afterEach(async () => {
  expect(await cleanup.run()).toEqual([]);
});
afterAll(() => native.shutdown());

async function read(): Promise<PodLinkFilter> {
  const filter = await watch.read();
  if (filter === null) throw new Error('the link is gone');
  return filter;
}

/** The pod does something; the kernel tells of it. */
async function told(...command: readonly string[]): Promise<PodLinkFilter> {
  changes = 0;
  await pod.run(command[0] ?? '', ...command.slice(1));
  await until('a link event', () => changes > 0);
  return read();
}

describe('a watch of a pod link', () => {
  it('reads the address and the groups that every interface is in', async () => {
    const filter = await read();
    expect(filter).toMatchObject({ mac: '02:00:0a:4d:00:02', promiscuous: false, unicast: [] });
    // A kernel that does not tell of joins has them all let in.
    if (!filter.allMulticast) expect(filter.multicast).toContain('01:00:5e:00:00:01');
  });

  it('tells of promiscuous mode, all-multicast and another address', async () => {
    expect((await told('ip', 'link', 'set', 'eth0', 'promisc', 'on')).promiscuous).toBe(true);
    expect((await told('ip', 'link', 'set', 'eth0', 'promisc', 'off')).promiscuous).toBe(false);
    expect((await told('ip', 'link', 'set', 'eth0', 'allmulticast', 'on')).allMulticast).toBe(true);
    expect((await told('ip', 'link', 'set', 'eth0', 'address', '02:00:0a:4d:00:99')).mac).toBe('02:00:0a:4d:00:99');
  });

  it('tells of another MTU', async () => {
    expect((await read()).mtu).toBe(1500);
    expect((await told('ip', 'link', 'set', 'eth0', 'mtu', '1400')).mtu).toBe(1400);
  });

  it('tells of the address of a macvlan on top, and that it is gone', async () => {
    const mac = '02:00:00:00:77:01';
    await pod.run('ip', 'link', 'add', 'mv0', 'link', 'eth0', 'address', mac, 'type', 'macvlan', 'mode', 'bridge');
    await until('the event of its making', () => changes > 0);
    await read();
    expect((await told('ip', 'link', 'set', 'mv0', 'up')).unicast).toEqual([mac]);
    expect((await told('ip', 'link', 'del', 'mv0')).unicast).toEqual([]);
  });

  it('tells that a program has joined a group, or lets them all in where the kernel does not', async () => {
    await pod.run('ip', 'addr', 'add', '10.0.0.2/24', 'dev', 'eth0');
    await read();
    const script = `const s = require('dgram').createSocket('udp4');
      s.bind(9, () => s.addMembership('239.1.2.3', '10.0.0.2'));`;
    changes = 0;
    const program = pod.daemon(
      'program',
      join(tmpdir(), `vu-watch-${process.pid}.log`),
      process.execPath,
      '-e',
      script,
    );
    cleanup.add('program', () => program.stop());
    const { allMulticast } = await read();
    if (!allMulticast) {
      await until('the join', () => changes > 0);
      expect((await read()).multicast).toContain('01:00:5e:01:02:03');
    }
  });

  it('lets all groups in instead of a list of 20000, which any program of the pod can make', async () => {
    await pod.run('ip', 'addr', 'add', '10.0.0.2/24', 'dev', 'eth0');
    const { allMulticast: always } = await read();
    // 20 of a socket, which is what `net.ipv4.igmp_max_memberships` lets anybody have.
    const script = `for (let socket = 0; socket < 1000; socket += 1) {
        const s = require('dgram').createSocket('udp4');
        for (let group = 0; group < 20; group += 1)
          s.addMembership(['239', socket >> 8, socket & 255, group].join('.'), '10.0.0.2');
      }
      console.log('joined');`;
    const log = join(tmpdir(), `vu-watch-${process.pid}-many.log`);
    cleanup.add('log', () => rmSync(log, { force: true }));
    const program = pod.daemon('program', log, process.execPath, '-e', script);
    cleanup.add('program', () => program.stop());
    await until('the joins', () => readFileSync(log, 'utf8').includes('joined'), 30_000);
    const { allMulticast, multicast } = await read();
    expect(allMulticast).toBe(true);
    expect(multicast.length).toBeLessThanOrEqual(macTableEntries);
    await program.stop();
    await until('the list is short again', async () => !(await pod.run('ip', 'maddr')).includes('239.'));
    expect(await read()).toMatchObject({ allMulticast: always, unicast: [] });
  });

  it('lets everything in instead of a list of 700 addresses', async () => {
    const lines = Array.from({ length: 700 }, (_, index) => {
      const mac = `02:00:00:01:${(index >> 8).toString(16)}:${(index & 255).toString(16)}`;
      return `link add mv${index} link eth0 address ${mac} up type macvlan mode bridge`;
    });
    const batch = join(tmpdir(), `vu-watch-${process.pid}.batch`);
    cleanup.add('batch', () => rmSync(batch, { force: true }));
    writeFileSync(batch, lines.join('\n'));
    await pod.run('ip', '-batch', batch);
    expect(await read()).toMatchObject({ promiscuous: true, allMulticast: true, unicast: [], multicast: [] });
  });

  it('names no groups where all of them are let in', async () => {
    const { multicast } = await told('ip', 'link', 'set', 'eth0', 'allmulticast', 'on');
    expect(multicast).toEqual([]);
  });

  it('tells once until it is read again', async () => {
    await told('ip', 'link', 'set', 'eth0', 'promisc', 'on');
    changes = 0;
    await pod.run('ip', 'link', 'set', 'eth0', 'promisc', 'off');
    await until('the first', () => changes === 1);
    for (const state of ['on', 'off', 'on']) await pod.run('ip', 'link', 'set', 'eth0', 'promisc', state);
    expect(changes).toBe(1);
    expect((await read()).promiscuous).toBe(true);
    await told('ip', 'link', 'set', 'eth0', 'promisc', 'off');
  });

  it('says null when the link is gone', async () => {
    await pod.run('ip', 'link', 'del', 'eth0');
    expect(await watch.read()).toBeNull();
  });

  it('lets its descriptors go with close, and refuses to read after it', async () => {
    const before = openDescriptors();
    watch.close();
    watch.close();
    expect(openDescriptors()).toBeLessThan(before);
    expect(() => watch.read()).toThrow('closed');
    changes = 0;
    await pod.run('ip', 'link', 'set', 'eth0', 'promisc', 'on');
    expect(changes).toBe(0);
  });
});
