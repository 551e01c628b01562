/** The rows that are compared: our pods, OVS internal ports, a kernel bridge with veth. */
import { join } from 'node:path';
import type { Agent } from '../support/agent.ts';
import type { Cleanup } from '../support/cleanup.ts';
import { Netns } from '../support/netns.ts';
import type { Ovs } from '../support/ovs.ts';
import { run, until } from '../support/process.ts';
import { hostLocal, newContainerId } from '../support/runtime.ts';
import type { Path } from './traffic.ts';

async function pair(tag: string, cleanup: Cleanup): Promise<readonly [Netns, Netns]> {
  return [await Netns.create(`vu-bench-${tag}-a`, cleanup), await Netns.create(`vu-bench-${tag}-b`, cleanup)];
}

export async function ourPath(
  row: string,
  tag: string,
  subnet: string,
  agent: Agent,
  ovs: Ovs,
  bridge: string,
  directory: string,
  cleanup: Cleanup,
  device: Readonly<Record<string, unknown>> = {},
): Promise<Path> {
  const [client, server] = await pair(tag, cleanup);
  const netconf = {
    device,
    cniVersion: '1.0.0',
    name: `bench-${tag}`,
    type: 'virtio-user',
    ovs: { bridge },
    ipam: hostLocal(join(directory, tag), [subnet]),
  };
  const ports: string[] = [];
  let address = '';
  for (const netns of [client, server]) {
    const call = { containerId: newContainerId(), netnsPath: netns.path, podName: netns.name };
    const result = await agent.runtime.add(netconf, call);
    cleanup.add(`pod ${netns.name}`, () => agent.runtime.del(netconf, call));
    ports.push(result.interfaces[1]?.name ?? '');
    address = (result.ips?.[0]?.address ?? '').split('/')[0] ?? '';
    await netns.waitForCarrier();
  }
  const switchDrops = async (): Promise<number> => {
    let drops = 0;
    for (const port of ports) {
      const text = await ovs.vsctl('get', 'Interface', port, 'statistics');
      drops += Number(/tx_dropped=(\d+)/.exec(text)?.[1] ?? 0);
    }
    return drops;
  };
  return { row, client, server, address, switchDrops };
}

export async function internalPath(ovs: Ovs, bridge: string, cleanup: Cleanup): Promise<Path> {
  const [client, server] = await pair('int', cleanup);
  for (const [index, netns] of [client, server].entries()) {
    const port = `vubint${index}`;
    await ovs.vsctl('add-port', bridge, port, '--', 'set', 'Interface', port, 'type=internal');
    await until(`internal port ${port}`, async () => (await run('ip', ['link'])).includes(port));
    await run('ip', ['link', 'set', port, 'netns', netns.name]);
    await netns.run('ip', 'addr', 'add', `10.79.0.${index + 1}/24`, 'dev', port);
    await netns.run('ip', 'link', 'set', port, 'up');
  }
  return { row: 'OVS internal ports', client, server, address: '10.79.0.2', switchDrops: null };
}

export async function kernelBridgePath(cleanup: Cleanup): Promise<Path> {
  const [client, server] = await pair('br', cleanup);
  await run('ip', ['link', 'add', 'vu-bench-br', 'type', 'bridge']);
  cleanup.add('kernel bridge', () => run('ip', ['link', 'del', 'vu-bench-br']));
  await run('ip', ['link', 'set', 'vu-bench-br', 'up']);
  for (const [index, netns] of [client, server].entries()) {
    await run('ip', ['link', 'add', `vubveth${index}`, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', netns.name]);
    await run('ip', ['link', 'set', `vubveth${index}`, 'master', 'vu-bench-br', 'up']);
    await netns.run('ip', 'addr', 'add', `10.80.0.${index + 1}/24`, 'dev', 'eth0');
    await netns.run('ip', 'link', 'set', 'eth0', 'up');
  }
  return { row: 'kernel bridge', client, server, address: '10.80.0.2', switchDrops: null };
}
