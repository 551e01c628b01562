/** containerd as a runtime calls the plugin, driven over CRI by crictl: no kubelet, no cluster. */
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Cleanup } from '../support/cleanup.ts';
import { root } from '../deploy/support/manifests.ts';
import { reserveHugepages } from '../support/hugepages.ts';
import { type Daemon, until } from '../support/process.ts';
import type { ContainerdVersion } from './support/binaries.ts';
import { pauseImage } from './support/image.ts';
import { Machine } from './support/machine.ts';
import { bridge, Switch, switchMemoryMiB } from './support/switch.ts';

const program = join(root, 'dist/main.js');
const runtimes: readonly (readonly [ContainerdVersion, string])[] = [
  ['1.6', '1.0.0'],
  ['2.1', '1.1.0'],
];

describe.each(runtimes)('containerd %s with a configuration of CNI %s', (containerd, cniVersion) => {
  const cleanup = new Cleanup();
  let directory: string;
  let machine: Machine;
  let vswitch: Switch;
  let agent: Daemon;

  async function startAgent(): Promise<void> {
    agent = machine.daemon('agent', process.execPath, program, 'agent', '--kubernetes=off', '--log-level=debug');
    await until(
      'the agent to be ready',
      async () => {
        if (!agent.alive) throw new Error(`the agent ended (${agent.exit}):\n${agent.logTail(30)}`);
        return (await machine.execAny(process.execPath, [program, 'attachments', 'list'])).code === 0;
      },
      20_000,
      100,
    );
  }

  beforeAll(async () => {
    directory = mkdtempSync('/var/tmp/vu-cri-');
    cleanup.add('directory', () => rmSync(directory, { recursive: true, force: true }));
    reserveHugepages(switchMemoryMiB, cleanup);
    machine = new Machine({ name: 'cri', directory: join(directory, 'machine'), containerd, uplink: null });
    await machine.start([await pauseImage(directory)], cleanup);
    vswitch = await Switch.start(machine, cleanup);
  }, 60_000);
  afterAll(async () => {
    expect(await cleanup.run()).toEqual([]);
  }, 60_000);

  const networkReady = (): Promise<boolean> => machine.networkReady();

  async function runSandbox(
    name: string,
  ): Promise<{ readonly id: string; readonly address: string; readonly pid: string }> {
    const config = {
      metadata: { name, namespace: 'default', uid: `uid-${name}`, attempt: 0 },
      log_directory: '/var/log/pods',
      linux: { cgroup_parent: `/${machine.name}` },
    };
    const path = join(directory, `${name}.json`);
    writeFileSync(path, JSON.stringify(config));
    const id = (await machine.crictl('runp', path)).trim();
    const { status, info } = JSON.parse(await machine.crictl('inspectp', id)) as {
      readonly status: { readonly network: { readonly ip: string } };
      readonly info: { readonly pid: number };
    };
    return { id, address: status.network.ip, pid: String(info.pid) };
  }

  it('has its network when executable and configuration are installed', async () => {
    expect(await networkReady()).toBe(false);
    await startAgent();
    const plugin = {
      type: 'virtio-user',
      backend: { type: 'vhost-user', server: true, wait: 'optional' },
      ovs: { bridge },
      ipam: { type: 'host-local', ranges: [[{ subnet: '10.78.0.0/24' }]], routes: [{ dst: '0.0.0.0/0' }] },
    };
    const conf = join(directory, '10-virtio-user.conflist');
    writeFileSync(conf, JSON.stringify({ cniVersion, name: 'cri-net', plugins: [plugin] }));
    await machine.exec(process.execPath, program, 'install', `--conf=${conf}`);
    await until('the network', networkReady, 10_000, 100);
  }, 60_000);

  it('gives sandboxes their interface, and takes it back without a rest', async () => {
    const [one, two] = [await runSandbox('one'), await runSandbox('two')];
    expect(one.address).toMatch(/^10\.78\.0\.\d+$/);
    expect(await vswitch.ports()).toHaveLength(2);
    await until(
      'a ping',
      async () =>
        (await machine.execAny('nsenter', ['-t', one.pid, '-n', '--', 'ping', '-c1', '-W1', two.address])).code === 0,
      20_000,
    );
    for (const { id } of [one, two]) {
      await machine.crictl('stopp', id);
      await machine.crictl('rmp', id);
    }
    expect(await vswitch.ports()).toEqual([]);
    expect(readdirSync(machine.hostPath('/var/lib/virtio-user/attachments'))).toEqual([]);
    expect((await machine.exec('ls', '/run/virtio-user/vhost')).trim()).toBe('');
    expect((await machine.exec('ls', '/run/netns')).trim()).toBe('');
    const leases = readdirSync(machine.hostPath('/var/lib/cni/networks/cri-net'));
    expect(leases.filter((name) => name.startsWith('10.'))).toEqual([]);
  }, 60_000);

  it('deletes a sandbox while the agent is away; the next agent does the rest', async () => {
    const { id } = await runSandbox('late');
    await agent.stop('SIGKILL');
    await machine.crictl('stopp', id);
    await machine.crictl('rmp', id);
    expect(await vswitch.ports()).toHaveLength(1);
    await startAgent();
    await until('the port to go', async () => (await vswitch.ports()).length === 0, 20_000, 100);
  }, 60_000);

  it(
    cniVersion === '1.1.0' ? 'sees by STATUS that the agent is away' : 'does not ask for STATUS',
    async () => {
      await agent.stop('SIGKILL');
      expect(await networkReady()).toBe(cniVersion !== '1.1.0');
      await startAgent();
      await until('the network', networkReady, 10_000, 100);
    },
    60_000,
  );
});
