/**
 * Multus itself, with a real API server: network-status on the pod's object, and its calls beside the replayed ones of the
 * e2e tier, variable by variable and key by key. The thin plugin, which has the delegating part in common with the daemon.
 */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { defaultDeviceInfoDir } from '../../src/attachment/device-info.ts';
import { MemoryCgroup } from '../support/memory-cgroup.ts';
import { Multus, type MultusPod, type Network, type NetworkStatus } from '../support/multus.ts';
import { runAny } from '../support/process.ts';
import { type CniOutcome, executablePath, hostLocal, newContainerId, outcomeOf } from '../support/runtime.ts';
import { bridge, World } from '../support/world.ts';
import { ApiServer } from './support/api-server.ts';
import { root } from './support/manifests.ts';

const realMultus = process.env['MULTUS'] ?? join(root, 'build/multus/bin/multus');
const capabilities = { mac: true, ips: true, deviceID: true, CNIDeviceInfoFile: true };

/** What the executable was called with. */
interface Call {
  readonly environment: ReadonlyMap<string, string>;
  readonly stdin: Readonly<Record<string, unknown>>;
}

describe('Multus', () => {
  let world: World;
  let server: ApiServer;
  let kubeconfig: string;
  let cgroup: MemoryCgroup;
  let network: Network;
  let recorder: string;
  let recorded: string;
  const path = (name: string): string => join(world.directory, name);

  beforeAll(async () => {
    if (!existsSync(realMultus)) throw new Error(`no ${realMultus}: scripts/build-multus.sh builds it`);
    world = await World.create({ tag: 'real-multus', agent: { deviceInfoDir: defaultDeviceInfoDir } });
    const made = ['/var/run/k8s.cni.cncf.io', '/var/run/k8s.cni.cncf.io/devinfo', defaultDeviceInfoDir].find(
      (directory) => !existsSync(directory),
    );
    if (made !== undefined) world.cleanup.add('devinfo', () => rmSync(made, { recursive: true, force: true }));
    cgroup = MemoryCgroup.create(`vu-real-multus-${process.pid}`, 50 << 20, world.cleanup);
    const directory = mkdtempSync('/run/vu-multus-api-');
    world.cleanup.add('API server’s directory', () => rmSync(directory, { recursive: true, force: true }));
    server = await ApiServer.start(directory, world.cleanup);
    kubeconfig = server.kubeconfig();
    await server.apply([definitionOfNetworks]);
    await server.kubectl('wait', '--for=condition=Established', `crd/${definitionOfNetworks.metadata.name}`);
    await server.apply([
      { apiVersion: 'v1', kind: 'Node', metadata: { name: 'node1' } },
      { apiVersion: 'v1', kind: 'ServiceAccount', metadata: { name: 'default', namespace: 'default' } },
    ]);
    recorded = path('recorded');
    recorder = path('bin/virtio-user');
    mkdirSync(recorded);
    mkdirSync(path('bin'));
    const script = [
      '#!/bin/sh',
      `to="${recorded}/$CNI_COMMAND-$CNI_IFNAME"`,
      'cat >"$to.stdin"; tr "\\\\0" "\\\\n" </proc/$$/environ >"$to.environment"',
      `exec ${executablePath} <"$to.stdin"`,
    ];
    writeFileSync(recorder, `${script.join('\n')}\n`, { mode: 0o755 });
    network = {
      name: 'dpdk-net',
      namespace: 'default',
      config: {
        cniVersion: '1.0.0',
        type: 'virtio-user',
        capabilities,
        ovs: { bridge },
        ipam: { ...hostLocal(world.directory, ['10.78.0.0/24']), routes: [{ dst: '0.0.0.0/0' }] },
      },
    };
    await server.apply([
      {
        apiVersion: 'k8s.cni.cncf.io/v1',
        kind: 'NetworkAttachmentDefinition',
        metadata: { name: network.name, namespace: network.namespace },
        ...{ spec: { config: JSON.stringify(network.config) } },
      },
    ]);
  }, 120_000);
  afterAll(() => world.close(), 60_000);

  async function createPod(name: string, selection: object): Promise<MultusPod> {
    const annotation = JSON.stringify([{ name: network.name, ...selection }]);
    await server.apply([
      {
        apiVersion: 'v1',
        kind: 'Pod',
        metadata: { name, namespace: 'default', annotations: { 'k8s.v1.cni.cncf.io/networks': annotation } },
        ...{ spec: { nodeName: 'node1', containers: [{ name: 'c', image: 'vu.test/none:1' }] } },
      },
    ]);
    const uid = await server.kubectl('get', 'pod', name, '-o', 'jsonpath={.metadata.uid}');
    const netns = await world.netns();
    return { containerId: newContainerId(), netns, name, uid, selections: [{ network, ...selection }] };
  }

  /** As the runtime calls it: the cluster's network is ours too. */
  async function call(
    verb: string,
    pod: MultusPod,
    more: object = {},
    netnsPath = pod.netns.path,
  ): Promise<CniOutcome> {
    const primary = { ...network.config, name: 'primary', ipam: hostLocal(world.directory, ['10.77.0.0/24']) };
    const configuration = {
      cniVersion: '1.0.0',
      name: 'multus-cni-network',
      type: 'multus',
      kubeconfig,
      binDir: path('bin'),
      cniDir: path('multus'),
      delegates: [primary],
      ...more,
    };
    const startedMs = performance.now();
    const finished = await runAny(realMultus, [], {
      env: {
        PATH: process.env['PATH'],
        ...world.agent.environment,
        CNI_COMMAND: verb,
        CNI_CONTAINERID: pod.containerId,
        CNI_NETNS: netnsPath,
        CNI_IFNAME: 'eth0',
        CNI_PATH: `${path('bin')}:/usr/lib/cni`,
        CNI_ARGS: `IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=${pod.name};K8S_POD_INFRA_CONTAINER_ID=${pod.containerId};K8S_POD_UID=${pod.uid}`,
      },
      stdin: JSON.stringify(configuration),
    });
    return outcomeOf(finished, performance.now() - startedMs);
  }

  function succeeded(outcome: CniOutcome): string {
    if (!outcome.ok) throw new Error(`code ${outcome.error.code}: ${outcome.error.msg}; ${outcome.error.details}`);
    return outcome.stdout;
  }

  async function networkStatus(pod: MultusPod): Promise<readonly (NetworkStatus & { readonly default?: boolean })[]> {
    const { metadata } = JSON.parse(await server.kubectl('get', 'pod', pod.name, '-o', 'json')) as {
      metadata: { annotations: Readonly<Record<string, string>> };
    };
    return JSON.parse(metadata.annotations['k8s.v1.cni.cncf.io/network-status'] ?? '') as NetworkStatus[];
  }

  function lastCall(verb: string, ifName: string): Call {
    const lines = readFileSync(join(recorded, `${verb}-${ifName}.environment`), 'utf8').split('\n');
    const pairs = lines.map((line): [string, string] => [line.split('=')[0] ?? '', line.slice(line.indexOf('=') + 1)]);
    return {
      environment: new Map(pairs.filter(([name]) => name.startsWith('CNI_'))),
      stdin: JSON.parse(readFileSync(join(recorded, `${verb}-${ifName}.stdin`), 'utf8')) as Call['stdin'],
    };
  }

  /** Without what no plugin may look at: the order of the arguments, and where plugins are searched. */
  function comparable({ environment, stdin }: Call): unknown {
    const { CNI_PATH: _path, CNI_ARGS: args = '', ...rest } = Object.fromEntries(environment);
    const pairs = args.split(';').map((pair) => pair.split('='));
    const { IgnoreUnknown: _ignore, ...named } = Object.fromEntries(pairs) as Record<string, string>;
    return { rest, named, stdin };
  }

  it('attaches eth0 and net1, and writes a network-status that is right', async () => {
    const pod = await createPod('whole', { mac: '02:00:00:00:00:27', ips: ['10.78.0.27/24'], deviceID: 'any-id' });
    const result = JSON.parse(succeeded(await call('ADD', pod))) as { interfaces: { name: string }[] };
    expect(result.interfaces[0]?.name).toBe('eth0'); // the primary network's result is the pod's
    expect((await world.links(pod.netns)).sort()).toEqual(['eth0', 'net1']);
    const [eth0, net1] = await networkStatus(pod);
    expect(eth0).toMatchObject({ name: 'primary', interface: 'eth0', default: true, mtu: 1500 });
    expect(net1).toEqual({
      name: 'default/dpdk-net',
      interface: 'net1',
      ips: ['10.78.0.27'],
      mac: '02:00:00:00:00:27',
      mtu: 1500,
      gateway: ['10.78.0.1'],
      dns: {},
      'device-info': {
        type: 'vhost-user',
        version: '1.1.0',
        'vhost-user': { mode: 'server', path: expect.stringMatching(/\/vhost\/vu[0-9a-f]{12}\.sock$/) },
      },
    });
    succeeded(await call('DEL', pod));
    expect(await world.links(pod.netns)).toEqual([]);
    expect([world.records(), world.leases(), readdirSync(defaultDeviceInfoDir)]).toEqual([[], [], []]);
  }, 60_000);

  it('calls as the replay of the e2e tier does', async () => {
    const pod = await createPod('compared', { mac: '02:00:00:00:00:28', ips: ['10.78.0.28/24'], deviceID: 'any-id' });
    succeeded(await call('ADD', pod));
    const status = (await networkStatus(pod))[1];
    succeeded(await call('DEL', pod));
    const real = ['ADD', 'DEL'].map((verb) => comparable(lastCall(verb, 'net1')));
    const replay = new Multus({
      environment: world.agent.environment,
      deviceInfoDir: defaultDeviceInfoDir,
      cgroup,
      executable: recorder,
    });
    expect(await replay.add(pod)).toEqual([status]);
    await replay.del(pod);
    expect(['ADD', 'DEL'].map((verb) => comparable(lastCall(verb, 'net1')))).toEqual(real);
  }, 60_000);

  it('gives the default route to net1, and CHECK of the cluster’s network does not miss it', async () => {
    const pod = await createPod('routed', { 'default-route': ['10.78.0.1'] });
    const routes = [{ dst: '0.0.0.0/0' }];
    const primary = {
      ...network.config,
      name: 'primary',
      ipam: { ...hostLocal(world.directory, ['10.77.0.0/24']), routes },
    };
    const more = { delegates: [primary] };
    succeeded(await call('ADD', pod, more));
    expect(await pod.netns.run('ip', 'route', 'show', 'default')).toMatch(/^default via 10\.78\.0\.1 dev net1/);
    succeeded(await call('CHECK', pod, { ...more, prevResult: { cniVersion: '1.0.0' } }));
    succeeded(await call('DEL', pod, more, ''));
    expect([world.records(), world.leases()]).toEqual([[], []]);
  }, 60_000);

  it('asks the cluster’s network for its status', async () => {
    const pod = await createPod('asked', {});
    succeeded(
      await call('STATUS', pod, {
        cniVersion: '1.1.0',
        delegates: [{ ...network.config, cniVersion: '1.1.0', name: 'primary' }],
      }),
    );
  }, 60_000);
});

/** As the Network Plumbing Working Group publishes it, without its descriptions. */
const definitionOfNetworks = {
  apiVersion: 'apiextensions.k8s.io/v1',
  kind: 'CustomResourceDefinition',
  metadata: { name: 'network-attachment-definitions.k8s.cni.cncf.io' },
  spec: {
    group: 'k8s.cni.cncf.io',
    scope: 'Namespaced',
    names: {
      plural: 'network-attachment-definitions',
      singular: 'network-attachment-definition',
      kind: 'NetworkAttachmentDefinition',
      shortNames: ['net-attach-def'],
    },
    versions: [
      {
        name: 'v1',
        served: true,
        storage: true,
        schema: {
          openAPIV3Schema: {
            type: 'object',
            properties: { spec: { type: 'object', properties: { config: { type: 'string' } } } },
          },
        },
      },
    ],
  },
};
