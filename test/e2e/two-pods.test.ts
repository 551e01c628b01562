import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { until } from '../support/process.ts';
import { newContainerId, type CniResult } from '../support/runtime.ts';
import { TcpTransfer } from '../support/tcp-transfer.ts';
import { bridge, type Pod, World } from '../support/world.ts';

let world: World;
let one: Pod;
let two: Pod;

beforeAll(async () => {
  world = await World.create({ tag: 'pods' });
  one = await world.addPod();
  two = await world.addPod();
  await Promise.all([one, two].map((pod) => pod.netns.waitForCarrier()));
}, 60_000);
afterAll(() => world.close(), 60_000);

describe('two pods added through the executable', () => {
  it('get the address, MAC and MTU that the result names', async () => {
    const [link] = JSON.parse(await one.netns.run('ip', '-j', '-d', 'addr', 'show', 'eth0')) as {
      address: string;
      mtu: number;
      linkinfo: { info_kind: string };
      addr_info: { local: string; prefixlen: number; tentative?: boolean }[];
    }[];
    expect(link?.address).toBe(one.result.interfaces[0]?.mac);
    expect(link?.mtu).toBe(1500);
    expect(link?.linkinfo.info_kind).toBe('tun');
    expect(link?.addr_info.map((info) => `${info.local}/${info.prefixlen}`)).toEqual(
      expect.arrayContaining(one.result.ips?.map((ip) => ip.address) ?? ['missing']),
    );
    expect(link?.addr_info.some((info) => info.tentative)).toBe(false);
  });

  it('reach each other over IPv4 and IPv6', async () => {
    for (const address of [two.ipv4, two.ipv6]) {
      const text = await one.netns.run('ping', '-n', '-c', '5', '-i', '0.05', '-W', '5', address);
      expect(text).toContain(' 0% packet loss');
    }
  });

  it('carry full-size frames and refuse larger ones', async () => {
    const fits = await one.netns.runAny('ping', ['-n', '-c', '1', '-W', '3', '-M', 'do', '-s', '1472', two.ipv4]);
    expect(fits.stdout).toContain(' 0% packet loss');
    const tooLarge = await one.netns.runAny('ping', ['-n', '-c', '1', '-W', '1', '-M', 'do', '-s', '1473', two.ipv4]);
    expect(tooLarge.code).not.toBe(0);
  });

  it.each(['ipv4', 'ipv6'] as const)('move a TCP stream over %s without a flipped bit', async (family) => {
    const load = { port: family === 'ipv4' ? 7101 : 7102, mebibytes: 64, mebibytesPerSecond: 1000 };
    const transfer = await TcpTransfer.start(one.netns, two.netns, two[family], load, world.directory, world.cleanup);
    const { sent, received } = await transfer.finish(30_000);
    expect(received.bytes).toBe(64 << 20);
    expect(received.sha256).toBe(sent.sha256);
  });

  it('own ports that name pod, network interface and node in external_ids', async () => {
    const port = one.result.interfaces[1]?.name ?? '';
    expect(port).toMatch(/^vu[0-9a-f]{12}$/);
    const text = await world.ovs.vsctl('get', 'Interface', port, 'external_ids', 'type', 'mtu_request', 'options');
    expect(text).toContain(`virtio-user-id=${port}`);
    expect(text).toContain('virtio-user-node=test-node');
    expect(text).toContain(`iface-id="default/${one.netns.name}/eth0"`);
    expect(text).toContain(`attached-mac="${one.result.interfaces[0]?.mac}"`);
    expect(text).toContain('dpdkvhostuserclient');
    expect(text).toContain('1500');
  });

  it('pass CHECK, and fail it when an address was taken away', async () => {
    expect((await world.agent.runtime.check(one.netconf, one.call, one.result)).ok).toBe(true);
    const address = one.result.ips?.[0]?.address ?? '';
    await one.netns.run('ip', 'addr', 'del', address, 'dev', 'eth0');
    const outcome = await world.agent.runtime.check(one.netconf, one.call, one.result);
    expect(outcome.ok).toBe(false);
    if (!outcome.ok) expect(outcome.error.msg).toContain(address);
    await one.netns.run('ip', 'addr', 'add', address, 'dev', 'eth0');
    expect((await world.agent.runtime.check(one.netconf, one.call, one.result)).ok).toBe(true);
  });

  it('are shown by the command line with state and features by name', async () => {
    const table = await world.agent.cli('attachments', 'list');
    expect(table).toContain(one.result.interfaces[1]?.name);
    expect(table).toContain('running');
    const shown = await world.agent.cli('attachments', 'show', one.result.interfaces[1]?.name ?? '', '-o', 'json');
    expect(shown).toContain('VERSION_1');
  });

  it('count their frames in /metrics', async () => {
    const metrics = await world.agent.get('/metrics');
    expect(metrics?.body).toMatch(/virtio_user_[a-z_]*frames[a-z_]*\{[^}]*\} [1-9]/);
  });
});

describe('a second pod life', () => {
  it('an ADD of an interface name in use is refused and changes nothing', async () => {
    const before = await world.ovs.ports(bridge);
    const outcome = await world.agent.runtime.call('ADD', one.netconf, { ...one.call, containerId: newContainerId() });
    expect(outcome.ok).toBe(false);
    if (!outcome.ok) expect(outcome.error.msg).toContain('eth0');
    expect(await world.ovs.ports(bridge)).toEqual(before);
    expect(world.leases()).toHaveLength(4);
    expect(await one.netns.run('ping', '-n', '-c', '1', '-W', '3', two.ipv4)).toContain(' 0% packet loss');
  });

  it('VLAN tags separate pods', async () => {
    const tagged = world.netconf({ ovs: { bridge, vlan: 100 } });
    const apart = await world.addPod(tagged);
    await apart.netns.waitForCarrier();
    const across = await apart.netns.runAny('ping', ['-n', '-c', '2', '-i', '0.2', '-W', '1', two.ipv4]);
    expect(across.stdout).toContain('100% packet loss');
    const along = await world.addPod(tagged);
    await along.netns.waitForCarrier();
    expect(await apart.netns.run('ping', '-n', '-c', '2', '-i', '0.2', '-W', '3', along.ipv4)).toContain(
      ' 0% packet loss',
    );
    for (const pod of [apart, along]) await world.agent.runtime.del(tagged, pod.call);
  });

  it.each(['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'])('[%s] add, check, del, del again', async (cniVersion) => {
    const netconf = world.netconf({}, cniVersion);
    const pod = await world.addPod(netconf);
    expect(pod.result.cniVersion).toBe(cniVersion);
    const checked = await world.agent.runtime.check(netconf, pod.call, pod.result);
    if (cniVersion.startsWith('0.3'))
      expect(checked).toMatchObject({ ok: false, error: { code: 1 } }); // CHECK came with 0.4.0
    else expect(checked.ok).toBe(true);
    await world.agent.runtime.del(netconf, pod.call, pod.result);
    expect(await world.links(pod.netns)).toEqual([]);
    await world.agent.runtime.del(netconf, { ...pod.call, netnsPath: '' });
  });

  it('GC removes exactly what the runtime does not name, in that network only', async () => {
    const other = await world.addPod({ ...world.netconf({ ovs: { bridge } }), name: 'other-net' });
    const stale = await world.addPod();
    const netconf = world.netconf({}, '1.1.0');
    const valid = [one, two].map((pod) => ({ containerID: pod.call.containerId, ifname: 'eth0' }));
    const young = await world.agent.runtime.call('GC', netconf, null, { 'cni.dev/valid-attachments': valid });
    expect(young.ok).toBe(true);
    expect(await world.links(stale.netns)).toEqual(['eth0']); // younger than the grace period
    const missing = await world.agent.runtime.call('GC', netconf, null);
    expect(missing).toMatchObject({ ok: false, error: { code: 7 } });
    expect(await world.links(other.netns)).toEqual(['eth0']);
    for (const pod of [other, stale]) await world.agent.runtime.del(pod.netconf, pod.call);
  });

  it('STATUS is silent success while agent and IPAM are well', async () => {
    expect(await world.agent.runtime.call('STATUS', world.netconf({}, '1.1.0'), null)).toMatchObject({
      ok: true,
      stdout: '',
    });
  });
});

describe('DEL', () => {
  it('leaves nothing, with the namespace gone before it too', async () => {
    const pod = await world.addPod();
    await pod.netns.delete();
    const before = { ports: (await world.ovs.ports(bridge)).length, leases: world.leases().length };
    await world.agent.runtime.del(pod.netconf, { ...pod.call, netnsPath: '' });
    expect((await world.ovs.ports(bridge)).length).toBe(before.ports - 1);
    expect(world.leases().length).toBe(before.leases - 2);
    expect(world.records()).toHaveLength(2);
    expect(world.vhostSockets()).toHaveLength(2);
  });

  it('that came while the agent was away is done when it is back', async () => {
    const pod = await world.addPod();
    await world.agent.kill();
    await world.agent.runtime.del(pod.netconf, pod.call, pod.result satisfies CniResult);
    expect(world.leases()).toHaveLength(6);
    await world.agent.start();
    await until('the queued DEL', () => world.leases().length === 4);
    expect(await world.links(pod.netns)).toEqual([]);
    // At once, or where the switch was slow to let go when the removal is tried again.
    await until('the end of the port', async () => (await world.ovs.ports(bridge)).length === 2, 40_000);
  }, 90_000);
});
