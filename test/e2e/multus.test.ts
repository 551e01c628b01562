/** Multus calls: net1 beside the cluster's eth0, in the daemon's environment and its memory cgroup of 50 MiB. */
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it } from '@jest/globals';
import { MemoryCgroup } from '../support/memory-cgroup.ts';
import { Multus, type MultusPod, type Network, type NetworkStatus, type Selection } from '../support/multus.ts';
import { until } from '../support/process.ts';
import { hostLocal, newContainerId } from '../support/runtime.ts';
import { bridge, World } from '../support/world.ts';

const mebibyte = 1 << 20;

let world: World;
let cgroup: MemoryCgroup;
let multus: Multus;
let dpdkNet: Network;
const pods: MultusPod[] = [];

beforeAll(async () => {
  world = await World.create({ tag: 'multus' });
  cgroup = MemoryCgroup.create(`vu-multus-${process.pid}`, 50 * mebibyte, world.cleanup);
  const { environment, deviceInfoDir } = world.agent;
  multus = new Multus({ environment, deviceInfoDir, cgroup });
  dpdkNet = network('dpdk-net', {
    ovs: { bridge },
    ipam: { ...hostLocal(world.directory, ['10.78.0.0/24']), routes: [{ dst: '0.0.0.0/0' }] },
  });
}, 60_000);
afterEach(async () => {
  for (const pod of pods.splice(0)) await multus.del(pod, '');
  expect([world.records(), world.leases(), world.vhostSockets(), deviceInfoFiles()]).toEqual([[], [], [], []]);
  expect(await world.ovs.ports(bridge)).toEqual([]);
});
afterAll(() => world.close(), 60_000);

function network(name: string, config: Readonly<Record<string, unknown>>): Network {
  const capabilities = { mac: true, ips: true, deviceID: true, CNIDeviceInfoFile: true };
  return { name, namespace: 'default', config: { cniVersion: '1.0.0', type: 'virtio-user', capabilities, ...config } };
}

/** A pod that has the cluster's network already. */
async function podWith(...selections: readonly Selection[]): Promise<MultusPod> {
  const netns = await world.netns();
  await netns.run('ip', 'tuntap', 'add', 'dev', 'eth0', 'mode', 'tap');
  await netns.run('ip', 'addr', 'add', '10.244.0.7/24', 'dev', 'eth0');
  await netns.run('ip', 'link', 'set', 'eth0', 'up');
  const pod = { containerId: newContainerId(), netns, name: netns.name, selections };
  pods.push(pod);
  return pod;
}

function deviceInfoFiles(): string[] {
  return existsSync(world.agent.deviceInfoDir) ? readdirSync(world.agent.deviceInfoDir) : [];
}

const eth0 = (pod: MultusPod): Promise<string> => pod.netns.run('ip', 'addr', 'show', 'eth0');

describe('a network that Multus adds', () => {
  it('is net1 beside eth0, with what the pod asked for, and reads right in network-status', async () => {
    const pod = await podWith({
      network: dpdkNet,
      mac: '02:00:00:00:00:17',
      ips: ['10.78.0.23/24'],
      deviceID: 'any-id',
    });
    const before = await eth0(pod);
    const statuses = await multus.add(pod);
    expect(statuses).toEqual([
      {
        name: 'default/dpdk-net',
        interface: 'net1',
        ips: ['10.78.0.23'],
        mac: '02:00:00:00:00:17',
        mtu: 1500,
        gateway: ['10.78.0.1'],
        dns: {},
        'device-info': {
          type: 'vhost-user',
          version: '1.1.0',
          'vhost-user': { mode: 'server', path: join(world.agent.runDir, 'vhost', String(world.vhostSockets()[0])) },
        },
      },
    ]);
    const net1 = await pod.netns.run('ip', 'addr', 'show', 'net1');
    expect(net1).toContain('link/ether 02:00:00:00:00:17');
    expect(net1).toContain('inet 10.78.0.23/24');
    expect(await eth0(pod)).toBe(before);
    expect(await multus.check(pod)).toMatchObject([{ ok: true, stdout: '' }]);
    await multus.del(pod);
    expect(await world.links(pod.netns)).toEqual(['eth0']);
    expect(await eth0(pod)).toBe(before);
  }, 20_000);

  it('takes its MAC from the arguments that the annotation carries, where the network declares nothing', async () => {
    const bare = network('bare', { capabilities: {}, ovs: { bridge } });
    const cniArgs = { mac: '02:00:00:00:00:18', ips: ['10.79.0.6/24'] };
    const [argued, legacy] = [
      await podWith({ network: bare, cniArgs }),
      await podWith({ network: bare, mac: '02:00:00:00:00:19', ips: ['10.79.0.7/24'] }),
    ];
    expect(await multus.add(argued)).toMatchObject([{ mac: '02:00:00:00:00:18', ips: ['10.79.0.6'] }]);
    const [status] = await multus.add(legacy);
    expect(status).toMatchObject({ mac: '02:00:00:00:00:19', ips: ['10.79.0.7'] });
    expect(status).not.toHaveProperty('device-info');
  }, 20_000);

  it('carries frames between pods', async () => {
    const [one, two] = [await podWith({ network: dpdkNet }), await podWith({ network: dpdkNet })];
    await multus.add(one);
    const [status] = await multus.add(two);
    await until(
      'a ping',
      async () => (await one.netns.runAny('ping', ['-c1', '-W1', '-I', 'net1', String(status?.ips[0])])).code === 0,
    );
  }, 20_000);

  it('stands beside another one, each under the name that the pod gave it', async () => {
    const plain = network('plain', {});
    const pod = await podWith(
      { network: dpdkNet, interface: 'fast0' },
      { network: plain, ips: ['10.79.0.5/24', 'fd79::5/64'] },
    );
    expect(await multus.add(pod)).toMatchObject([
      { name: 'default/dpdk-net', interface: 'fast0' },
      { name: 'default/plain', interface: 'net2', ips: ['10.79.0.5', 'fd79::5'] },
    ]);
    expect((await world.links(pod.netns)).sort()).toEqual(['eth0', 'fast0', 'net2']);
    expect(await pod.netns.run('ip', 'addr', 'show', 'net2')).toContain('inet6 fd79::5/64');
    expect(await multus.check(pod)).toMatchObject([{ ok: true }, { ok: true }]);
  }, 20_000);

  it('that fails takes those before it away again', async () => {
    const wrong = network('wrong', { device: { queues: 999 } });
    const pod = await podWith({ network: dpdkNet, deviceID: 'x' }, { network: wrong });
    await expect(multus.add(pod)).rejects.toThrow('code 2: device.queues: 999');
    expect(await world.links(pod.netns)).toEqual(['eth0']);
    expect(world.leases()).toEqual([]);
  }, 20_000);

  it('goes without its namespace, and twice, as kubelet’s collector of sandboxes has it', async () => {
    const pod = await podWith({ network: dpdkNet, deviceID: 'x' });
    await multus.add(pod);
    await pod.netns.delete();
    await multus.del(pod, '');
    expect(world.records()).toEqual([]);
    await multus.del(pod, '');
  }, 20_000);

  it('leaves no device-info behind when the agent died in between', async () => {
    const pod = await podWith({ network: dpdkNet, deviceID: 'x' });
    await multus.add(pod);
    expect(deviceInfoFiles()).toHaveLength(1);
    await world.agent.kill();
    await world.agent.start();
    expect(deviceInfoFiles()).toHaveLength(1);
    // Not through Multus, which would remove the file itself.
    const { containerId, netns } = pod;
    await world.agent.runtime.del(
      { ...dpdkNet.config, cniVersion: '1.0.0', name: 'dpdk-net' },
      { containerId, netnsPath: netns.path, ifName: 'net1' },
    );
    expect(deviceInfoFiles()).toEqual([]);
  }, 20_000);
});

describe('a device plugin', () => {
  const allocated = { resourceName: 'virtio-user.dev/port', deviceID: 'port-7' };

  function describes(text: string): void {
    const directory = join(world.agent.deviceInfoDir, '../dp');
    mkdirSync(directory, { recursive: true });
    writeFileSync(join(directory, 'virtio-user.dev-port-port-7-device.json'), text);
  }

  it('names the socket, and what it said of the device is what the pod reads', async () => {
    describes('{"type":"vhost-user","version":"1.1.0","vhost-user":{"mode":"server","path":"/var/run/port/sock"}}');
    const backend = { path: join(world.agent.runDir, 'vhost/{deviceID}.sock') };
    const pod = await podWith({ network: network('allocated', { backend }), allocated });
    expect(await multus.add(pod)).toMatchObject([
      { 'device-info': { 'vhost-user': { mode: 'server', path: '/var/run/port/sock' } } },
    ]);
    expect(world.vhostSockets()).toEqual(['port-7.sock']);
  }, 20_000);

  it('that has allocated something else is contradicted, and nothing is left', async () => {
    describes('{"type":"pci","version":"1.1.0","pci":{"pci-address":"0000:03:00.1"}}');
    const pod = await podWith({ network: dpdkNet, allocated });
    await expect(multus.add(pod)).rejects.toThrow('code 7');
    expect(await world.links(pod.netns)).toEqual(['eth0']);
  }, 20_000);
});

describe('the author of a NetworkAttachmentDefinition', () => {
  it('cannot have the device-info of another pod written or removed', async () => {
    const victim = await podWith({ network: dpdkNet, deviceID: 'x' });
    const [status] = await multus.add(victim);
    const path = join(world.agent.deviceInfoDir, String(deviceInfoFiles()[0]));
    const rogue = network('rogue', { capabilities: {}, runtimeConfig: { CNIDeviceInfoFile: path } });
    const pod = await podWith({ network: rogue });
    await expect(multus.add(pod)).rejects.toThrow('code 2: runtimeConfig.CNIDeviceInfoFile');
    expect(JSON.parse(readFileSync(path, 'utf8'))).toEqual(status?.['device-info']);
  }, 20_000);
});

describe('many pods at once', () => {
  it('fit into what the daemon leaves of its memory', async () => {
    const crowd: MultusPod[] = [];
    const cniArgs = { large: 'x'.repeat(256 * 1024) };
    for (let index = 0; index < 12; index += 1)
      crowd.push(await podWith({ network: dpdkNet, deviceID: `x${index}`, cniArgs }));
    const statuses = (await Promise.all(crowd.map((pod) => multus.add(pod)))).flat();
    const distinct = (read: (status: NetworkStatus) => string): number => new Set(statuses.map(read)).size;
    expect([distinct(({ ips }) => String(ips[0])), distinct(({ mac }) => mac)]).toEqual([12, 12]);
    expect(cgroup.limitHits).toBe(0);
    expect(cgroup.peakBytes).toBeLessThan(16 * mebibyte);
    await Promise.all(crowd.map((pod) => multus.del(pod)));
  }, 30_000);
});
