/** The control queue on a real switch: queue pairs switched under load, and a pod whose interface tells the device. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { AttachmentReport } from '../../src/agent/introspect.ts';
import { run, until } from '../support/process.ts';
import { TcpTransfer } from '../support/tcp-transfer.ts';
import { bridge, type Pod, World } from '../support/world.ts';

let world: World;
let one: Pod;
let two: Pod;

beforeAll(async () => {
  world = await World.create({ tag: 'cq' });
  const netconf = world.netconf({ device: { queues: 4 } });
  one = await world.addPod(netconf);
  two = await world.addPod(netconf);
  await Promise.all([one, two].map((pod) => pod.netns.waitForCarrier()));
}, 60_000);
afterAll(() => world.close(), 60_000);

const idOf = (pod: Pod): string => pod.result.interfaces[1]?.name ?? '';

async function report(pod: Pod): Promise<AttachmentReport> {
  return JSON.parse(await world.agent.cli('attachments', 'show', idOf(pod), '-o', 'json')) as AttachmentReport;
}

/** Receive queues of a pod's port that OVS polls, of the four. */
async function polledQueues(pod: Pod): Promise<number> {
  const shown = await world.ovs.appctl('dpif-netdev/pmd-rxq-show');
  return shown.split('\n').filter((line) => line.includes(`port: ${idOf(pod)} `) && line.includes('(enabled)')).length;
}

async function ping(from: Pod, to: string): Promise<void> {
  expect(await from.netns.run('ping', '-n', '-c', '5', '-i', '0.02', '-W', '5', to)).toContain(' 0% packet loss');
}

describe('attachments set-queues', () => {
  it('switches pairs up and down under a TCP stream that does not lose a byte', async () => {
    expect(await report(one)).toMatchObject({ queuePairs: 4, activePairs: 4 });
    await until('four queues polled', async () => (await polledQueues(one)) === 4);
    const load = { port: 7201, mebibytes: 256, mebibytesPerSecond: 100 };
    const transfer = await TcpTransfer.start(one.netns, two.netns, two.ipv4, load, world.directory, world.cleanup);
    for (const pairs of [1, 3, 1, 4, 2]) {
      expect(await world.agent.cli('attachments', 'set-queues', idOf(one), String(pairs))).toContain(idOf(one));
      await until(`${pairs} queues polled`, async () => (await polledQueues(one)) === pairs);
    }
    const { sent, received } = await transfer.finish(60_000);
    expect([received.bytes, received.sha256]).toEqual([256 << 20, sent.sha256]);
    await ping(one, two.ipv4);
    expect(await report(one)).toMatchObject({ queuePairs: 4, activePairs: 2, state: 'running', connections: 1 });
  }, 120_000);

  it.each(['0', '5'])('[49] [F62] of %s is refused, says why, and changes nothing', async (pairs) => {
    const before = (await report(one)).activePairs;
    await expect(world.agent.cli('attachments', 'set-queues', idOf(one), pairs)).rejects.toThrow(/refused/);
    expect((await report(one)).activePairs).toBe(before);
    await ping(one, two.ipv4);
  });

  it('switches between one pair and the 128 that can be asked for', async () => {
    const many = await world.addPod(world.netconf({ device: { queues: 128, queueSize: 64 } }));
    await many.netns.waitForCarrier();
    expect(await report(many)).toMatchObject({ queuePairs: 128, activePairs: 128, configuredPairs: 128, reason: null });
    await ping(many, two.ipv4);
    for (const pairs of ['1', '128']) {
      await world.agent.cli('attachments', 'set-queues', idOf(many), pairs);
      await ping(many, two.ipv4);
    }
    await world.agent.runtime.del(many.netconf, many.call);
  }, 60_000);

  /** `disaster` ends all connections; resolves when both pods have some to the switch of now. */
  async function reconnectedAfter(disaster: () => Promise<void>): Promise<void> {
    await disaster();
    await until('new connections', async () => {
      const reports = await Promise.all([one, two].map(report));
      return reports.every(({ state, backendPid }) => state === 'running' && backendPid === world.ovs.switchPid);
    });
    // OVS drops what is for a port whose queues it is about to poll: its datapath knows the port anew afterwards.
    await until('the queues of the other pod', async () => (await polledQueues(two)) === 4);
  }

  async function newSwitch(): Promise<void> {
    await world.ovs.killSwitch();
    await world.ovs.startSwitch();
  }

  it('is remembered when the switch comes back', async () => {
    await world.agent.cli('attachments', 'set-queues', idOf(one), '3');
    await reconnectedAfter(newSwitch);
    expect((await report(one)).activePairs).toBe(3);
    await until('three queues polled', async () => (await polledQueues(one)) === 3);
    await ping(one, two.ipv4);
  }, 60_000);

  it('is remembered by the next agent, and by the switch that comes back to it', async () => {
    await world.agent.cli('attachments', 'set-queues', idOf(one), '2');
    await reconnectedAfter(async () => {
      await world.agent.kill();
      await world.agent.start();
    });
    expect(await report(one)).toMatchObject({ queuePairs: 4, activePairs: 2, wantedPairs: 2 });
    expect(await report(two)).toMatchObject({ queuePairs: 4, activePairs: 4, wantedPairs: null });
    await until('two queues polled', async () => (await polledQueues(one)) === 2);
    await ping(one, two.ipv4);

    await reconnectedAfter(newSwitch);
    await until('two queues polled again', async () => (await polledQueues(one)) === 2);
    await world.agent.cli('attachments', 'set-queues', idOf(one), '4');
    await until('four queues polled', async () => (await polledQueues(one)) === 4);
    await ping(one, two.ipv4);
  }, 60_000);
});

describe("the pod's interface", () => {
  const stranger = '02:00:00:00:99:99';

  /** Frames for a MAC address that no port has: the switch floods them. */
  async function flood(): Promise<void> {
    await one.netns.run('ip', 'neigh', 'replace', '10.77.0.200', 'lladdr', stranger, 'dev', 'eth0');
    await one.netns.runAny('ping', ['-n', '-c', '20', '-i', '0.01', '-W', '1', '10.77.0.200']);
  }
  const filtered = async (): Promise<number> => Number((await report(two)).counters?.events['rx_filtered']);
  const modes = async (): Promise<readonly string[]> => (await report(two)).control?.rxModes ?? [];

  it('gets no frames that are for others, until it is promiscuous', async () => {
    await until('the driver', async () => (await modes()).length === 0);
    const before = await filtered();
    await flood();
    await until('filtered frames', async () => (await filtered()) >= before + 20);

    await two.netns.run('ip', 'link', 'set', 'eth0', 'promisc', 'on');
    await until('promiscuous', async () => (await modes()).includes('promiscuous'));
    const during = await filtered();
    await flood();
    expect(await filtered()).toBe(during);
    await two.netns.run('ip', 'link', 'set', 'eth0', 'promisc', 'off');
    await until('not promiscuous', async () => !(await modes()).includes('promiscuous'));
  }, 30_000);

  /** Frames of a group reach every port; what `two` was not told to take ends in the agent. */
  async function floodGroup(address: string): Promise<void> {
    await one.netns.runAny('ping', ['-n', '-c', '20', '-i', '0.01', '-W', '1', '-I', 'eth0', address]);
  }
  async function receivedByPod(): Promise<number> {
    const shown = await two.netns.run('cat', '/sys/class/net/eth0/statistics/rx_packets');
    return Number(shown);
  }

  it('gets the frames of a group from the moment that a program joins it', async () => {
    const [address, mac] = ['239.7.7.7', '01:00:5e:07:07:07'];
    const before = await filtered();
    await floodGroup(address);
    await until('filtered frames', async () => (await filtered()) >= before + 20);

    const script = `const socket = require('node:dgram').createSocket('udp4');
      socket.on('message', (message) => console.log(message.toString()));
      socket.bind(7207, () => socket.addMembership('${address}', '${two.ipv4}'));`;
    const log = join(world.directory, 'member.log');
    const member = two.netns.daemon('member', log, process.execPath, '-e', script);
    world.cleanup.add('member', () => member.stop('SIGKILL'));
    await until('the group', async () => (await report(two)).control?.multicast.includes(mac) === true);
    const during = await filtered();
    const send = `const socket = require('node:dgram').createSocket('udp4');
      socket.bind(0, () => {
        socket.setMulticastInterface('${one.ipv4}');
        socket.send('for the group', 7207, '${address}', () => socket.close());
      });`;
    await one.netns.run(process.execPath, '-e', send);
    await until('the message', () => readFileSync(log, 'utf8').includes('for the group'));
    const received = await receivedByPod();
    await floodGroup(address);
    await until('received frames', async () => (await receivedByPod()) >= received + 20);
    // Frames of other groups may come in between, such as a solicitation of routers.
    expect((await filtered()) - during).toBeLessThan(20);

    await member.stop('SIGKILL');
    await until('without the group', async () => (await report(two)).control?.multicast.includes(mac) === false);
    await floodGroup(address);
    await until('filtered frames', async () => (await filtered()) >= during + 20);
  }, 30_000);

  it('gets the frames of every group while it is all-multicast', async () => {
    const address = '239.7.7.8';
    await two.netns.run('ip', 'link', 'set', 'eth0', 'allmulticast', 'on');
    await until('all-multicast', async () => (await modes()).includes('allMulticast'));
    const during = { filtered: await filtered(), received: await receivedByPod() };
    await floodGroup(address);
    await until('received frames', async () => (await receivedByPod()) >= during.received + 20);
    expect(await filtered()).toBe(during.filtered);

    await two.netns.run('ip', 'link', 'set', 'eth0', 'allmulticast', 'off');
    await until('not all-multicast', async () => !(await modes()).includes('allMulticast'));
    await floodGroup(address);
    await until('filtered frames', async () => (await filtered()) >= during.filtered + 20);
  }, 30_000);

  it('with another MAC address is reached there at once', async () => {
    const mac = '02:00:00:00:77:02';
    await two.netns.run('ip', 'link', 'set', 'eth0', 'address', mac);
    await until('the device has the address', async () => (await report(two)).control?.mac === mac);
    await one.netns.run('ip', 'neigh', 'flush', 'dev', 'eth0');
    await ping(one, two.ipv4);
    expect(await run('ip', ['-n', one.netns.name, 'neigh', 'show', two.ipv4])).toContain(mac);
  }, 30_000);

  it('with another MTU has the switch told of it', async () => {
    await two.netns.run('ip', 'link', 'set', 'eth0', 'mtu', '1400');
    await until('the device has the MTU', async () => (await report(two)).mtu === 1400);
    await ping(one, two.ipv4);
  }, 30_000);

  it('with a macvlan on top receives for both', async () => {
    const mac = '02:00:00:00:77:03';
    await two.netns.run(
      'ip',
      'link',
      'add',
      'mv0',
      'link',
      'eth0',
      'address',
      mac,
      'type',
      'macvlan',
      'mode',
      'bridge',
    );
    await two.netns.run('ip', 'addr', 'add', '10.77.0.210/24', 'dev', 'mv0');
    await two.netns.run('ip', 'link', 'set', 'mv0', 'up');
    await until('the address', async () => (await report(two)).control?.unicast.includes(mac) === true);
    await ping(one, '10.77.0.210');
    await two.netns.run('ip', 'link', 'del', 'mv0');
    await until('without it', async () => (await report(two)).control?.unicast.length === 0);
  }, 30_000);

  it('announced itself, and the device knows', async () => {
    await until('the acknowledgement', async () => (await report(one)).control?.announce === false);
    expect(await world.ovs.vsctl('list-ports', bridge)).toContain(idOf(one));
  });
});
