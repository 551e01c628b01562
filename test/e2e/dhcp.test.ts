/** Debian's real `dhcp` plugin, whose lease comes over the pod's own interface from a server behind the switch. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Daemon, until } from '../support/process.ts';
import { newContainerId } from '../support/runtime.ts';
import { type Pod, World } from '../support/world.ts';

let world: World;
let server: Pod;
let leaseFile: string;
let socketPath: string;

beforeAll(async () => {
  world = await World.create({ tag: 'dhcp' });
  leaseFile = join(world.directory, 'leases');
  socketPath = join(world.directory, 'dhcp.sock');
  server = await world.addPod();
  await server.netns.waitForCarrier();
  const arguments_ = ['--keep-in-foreground', '--log-facility=-', '--port=0', '--conf-file=/dev/null', '--pid-file='];
  const range = ['--interface=eth0', '--dhcp-range=10.77.0.100,10.77.0.150,1h', `--dhcp-leasefile=${leaseFile}`];
  const log = (name: string): string => join(world.directory, `${name}.log`);
  const dnsmasq = server.netns.daemon('dnsmasq', log('dnsmasq'), 'dnsmasq', '--user=root', ...arguments_, ...range);
  world.cleanup.add('dnsmasq', () => dnsmasq.stop());
  const plugin = new Daemon('dhcp', '/usr/lib/cni/dhcp', ['daemon', '-socketpath', socketPath], log('dhcp'));
  world.cleanup.add('dhcp daemon', () => plugin.stop());
  await until('the DHCP server and the plugin’s daemon', () => existsSync(leaseFile) && existsSync(socketPath));
}, 60_000);
afterAll(() => world.close(), 60_000);

const leases = (): string[] =>
  readFileSync(leaseFile, 'utf8')
    .split('\n')
    .filter((line) => line !== '');

describe('a pod whose addresses come by DHCP', () => {
  it('gets one from a server behind the switch, is reached at it, and gives it back', async () => {
    const netconf = world.netconf({ ipam: { type: 'dhcp', daemonSocketPath: socketPath } });
    const netns = await world.netns();
    const call = { containerId: newContainerId(), netnsPath: netns.path, podName: netns.name };
    const result = await world.agent.runtime.add(netconf, call);
    const [address = ''] = (result.ips ?? []).map((ip) => ip.address);
    expect(address).toMatch(/^10\.77\.0\.1\d\d\/24$/);
    expect(leases()).toEqual([expect.stringContaining(`${result.interfaces[0]?.mac}`)]);
    const ping = await server.netns.run('ping', '-n', '-c', '3', '-i', '0.05', '-W', '5', address.split('/')[0] ?? '');
    expect(ping).toContain(' 0% packet loss');
    await world.agent.runtime.del(netconf, call);
    await until('the lease to be given back', () => leases().length === 0);
  });

  it('is refused in words that name the switch when none comes, and leaves nothing', async () => {
    const { ovs: _, ...others } = world.netconf({ ipam: { type: 'dhcp', daemonSocketPath: socketPath } });
    const netns = await world.netns();
    const call = { containerId: newContainerId(), netnsPath: netns.path, podName: netns.name };
    const netconf = { ...others, backend: { waitTimeoutMs: 200 } };
    await expect(world.agent.runtime.add(netconf, call)).rejects.toThrow(/did not come up within 200 ms/);
    expect(await world.links(netns)).toEqual([]);
    expect(world.records()).toHaveLength(1);
  });
});
