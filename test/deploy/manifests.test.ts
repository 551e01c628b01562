/** deploy/: what is applied, and that both ways of applying it say the same. */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { parse } from 'yaml';
import { describe, expect, it } from '@jest/globals';
import { resolveAgentOptions } from '../../src/agent/options.ts';
import { defaultDeviceInfoDir } from '../../src/attachment/device-info.ts';
import { parseRawNetconf } from '../../src/cni/netconf.ts';
import { netconfSchema } from '../../src/cni/netconf-schema.ts';
import { capabilities as known } from '../../src/cni/pod-requests.ts';
import { run } from '../support/process.ts';
import {
  byIdentity,
  configMapData,
  container,
  deploy,
  find,
  helmLint,
  helmRefusal,
  helmTemplate,
  kustomize,
  type Manifest,
  podSpec,
  type PodSpec,
  root,
} from './support/manifests.ts';

/** Only Helm can keep it true. */
function withoutChecksum(manifests: readonly Manifest[]): Manifest[] {
  const copy = structuredClone(manifests) as Manifest[];
  for (const one of copy.filter(({ kind }) => kind === 'DaemonSet')) {
    const { template } = one['spec'] as { template: { metadata: { annotations: Record<string, string> } } };
    expect(template.metadata.annotations['checksum/config']).toMatch(/^[0-9a-f]{64}$/);
    delete template.metadata.annotations['checksum/config'];
  }
  return copy;
}

/** Helm needs the namespace before the release, kustomize brings it. */
const withNamespace = { namespace: { create: true } };

/** Builds a kustomization that names directories below the root. */
async function build(file: { resources: string[]; components?: string[] }): Promise<Manifest[]> {
  const directory = mkdtempSync(join(root, 'build', 'kustomize-'));
  const below = (names: string[] = []): string[] => names.map((name) => relative(directory, join(root, name)));
  try {
    const located = { ...file, resources: below(file.resources), components: below(file.components) };
    writeFileSync(join(directory, 'kustomization.yaml'), JSON.stringify(located));
    return await kustomize(directory);
  } finally {
    rmSync(directory, { recursive: true });
  }
}

/** The primary overlay together with a component. */
function primaryWith(component: string): Promise<Manifest[]> {
  return build({ resources: ['deploy/overlays/primary'], components: [join('deploy', component)] });
}

describe('helm and kustomize', () => {
  it('give the same objects by default', async () => {
    const chart = byIdentity(withoutChecksum(await helmTemplate()));
    const overlay = byIdentity(await kustomize(join(deploy, 'overlays/primary')));
    const namespaces = [...overlay.keys()].filter((name) => !chart.has(name));
    expect(namespaces).toEqual(['Namespace /virtio-user-system']);
    const rest = new Map([...overlay].filter(([name]) => !namespaces.includes(name)));
    expect([...chart.keys()]).toEqual([...rest.keys()]);
    for (const [name, object] of chart) expect({ [name]: rest.get(name) }).toEqual({ [name]: object });
  });

  it.each([
    ['secondary', { network: { install: false } }],
    ['restricted', { securityProfile: 'restricted' }],
  ])('give the same objects for %s', async (overlay, values) => {
    const chart = byIdentity(withoutChecksum(await helmTemplate({ ...withNamespace, ...values })));
    const built = byIdentity(await kustomize(join(deploy, 'overlays', overlay)));
    expect([...built.keys()]).toEqual([...chart.keys()]);
    for (const [name, object] of built) expect({ [name]: object }).toEqual({ [name]: chart.get(name) });
  });

  it.each([
    ['observability', { observability: { serviceMonitor: true, prometheusRule: true, dashboard: true } }],
    [
      'whereabouts',
      { extraHostPaths: [{ name: 'whereabouts', path: '/etc/cni/net.d/whereabouts.d', readOnly: true }] },
    ],
  ])('give the same objects with %s', async (component, values) => {
    const chart = byIdentity(withoutChecksum(await helmTemplate({ ...withNamespace, ...values })));
    const built = byIdentity(await primaryWith(component));
    expect([...built.keys()]).toEqual([...chart.keys()]);
    for (const [name, object] of built) expect({ [name]: object }).toEqual({ [name]: chart.get(name) });
  });

  it('keep what is rendered up to date', async () => {
    await run(process.execPath, ['--no-warnings', join(root, 'scripts/render-deploy.ts'), '--check']);
  });

  it('apply the primary network from deploy/', async () => {
    expect(byIdentity(await kustomize(deploy))).toEqual(byIdentity(await kustomize(join(deploy, 'overlays/primary'))));
  });
});

describe('the chart', () => {
  it('is without faults for helm lint', async () => {
    expect(await helmLint()).toContain('0 chart(s) failed');
  });

  it.each<[string, Record<string, unknown>, RegExp]>([
    ['an unknown key', { replicas: 3 }, /replicas/],
    ['an unknown option of the agent', { agent: { 'log-levle': 'info' } }, /log-levle/],
    ['a value outside of its range', { agent: { 'pump-threads': 0 } }, /pump-threads/],
    ['a mask for a list of cores', { agent: { 'polling-cores': '0x6' } }, /polling-cores/],
    ['a relative path', { hostPaths: { ipamDir: 'leases' } }, /ipamDir/],
    // The executable has them built in.
    ['another run directory', { hostPaths: { runDir: '/run/other' } }, /runDir/],
    ['another state directory', { hostPaths: { stateDir: '/var/lib/other' } }, /stateDir/],
    ['a group by name, which the container does not know', { agent: { 'vhost-group': 'hugetlbfs' } }, /vhost-group/],
    ['a group that is none', { agent: { 'vhost-group': -1 } }, /vhost-group/],
    ...['10.0.0.1:9473', 'localhost:9473', '[::1]:9473', ':9473', '127.0.0.1:0', '127.0.0.1'].flatMap(
      (address): [string, Record<string, unknown>, RegExp][] => [
        [`metrics at ${address}, where no probe goes`, { agent: { 'metrics-address': address } }, /metrics-address/],
        [`metrics for Prometheus at ${address}`, { observability: { metricsAddress: address } }, /metricsAddress/],
      ],
    ),
    ['a mount without a name', { extraHostPaths: [{ path: '/etc/x' }] }, /extraHostPaths/],
    ['a capability that opens the node', { extraCapabilities: ['SYS_MODULE'] }, /extraCapabilities/],
    ['a file that no runtime reads as a list', { network: { fileName: 'a.conf.new' } }, /fileName/],
    [
      'metrics that listen on another port than the probes ask',
      { agent: { 'metrics-address': '127.0.0.1:9999' }, observability: { serviceMonitor: true } },
      /observability\.metricsAddress 0\.0\.0\.0:9473 .* agent\.metrics-address 127\.0\.0\.1:9999/,
    ],
    ['a CNI version that is none', { network: { config: { cniVersions: ['2'] } } }, /cniVersions/],
    ['a digest that is none', { image: { digest: 'latest' } }, /digest/],
  ])('refuses %s', async (_name, values, naming) => {
    expect(await helmRefusal(values)).toMatch(naming);
  });

  it('names the image by digest when it has one', async () => {
    const digest = `sha256:${'0'.repeat(64)}`;
    const spec = podSpec(find(await helmTemplate({ image: { digest } }), 'DaemonSet'));
    for (const { image } of [...spec.initContainers, ...spec.containers])
      expect(image).toBe(`virtio-user-cni@${digest}`);
  });

  it('points the agent at the API server without kube-proxy', async () => {
    const apiServer = { host: '10.0.0.1', port: '6443' };
    const { env } = container(podSpec(find(await helmTemplate({ apiServer }), 'DaemonSet')), 'agent');
    expect(env).toContainEqual({ name: 'KUBERNETES_SERVICE_HOST', value: '10.0.0.1' });
    expect(env).toContainEqual({ name: 'KUBERNETES_SERVICE_PORT', value: '6443' });
  });

  it.each(['127.0.0.1:9999', '0.0.0.0:9999', '[::]:9999'])(
    'takes %s for metrics, as probes reach it',
    async (address) => {
      const values = { agent: { 'metrics-address': address }, observability: { metricsAddress: address } };
      expect(await helmRefusal(values)).toBeNull();
    },
  );

  it.each(['default', 'restricted'])('lets the %s agent give its sockets to a group', async (securityProfile) => {
    const manifests = await helmTemplate({ securityProfile, agent: { 'vhost-group': 123_456_789 } });
    const { capabilities } = container(podSpec(find(manifests, 'DaemonSet')), 'agent').securityContext;
    expect(capabilities.add).toEqual(['NET_ADMIN', 'SYS_ADMIN', 'CHOWN']);
    expect(parse(configMapData(manifests)['agent.yaml'] ?? '')).toMatchObject({ 'vhost-group': 123_456_789 });
  });

  it('lets the probes follow the port of the metrics', async () => {
    const agent = { 'metrics-address': '127.0.0.1:9999' };
    const { ports, livenessProbe } = container(podSpec(find(await helmTemplate({ agent }), 'DaemonSet')), 'agent');
    expect(ports?.[0]?.hostPort).toBe(9999);
    expect(livenessProbe?.httpGet.port).toBe(9999);
  });
});

describe('the DaemonSet', () => {
  const overlay = (name: string): Promise<Manifest[]> => kustomize(join(deploy, 'overlays', name));

  it.each(['primary', 'secondary', 'restricted'])(
    'of %s is not privileged and drops every capability first',
    async (name) => {
      const spec = podSpec(find(await overlay(name), 'DaemonSet'));
      expect(spec.securityContext.seccompProfile.type).toBe('RuntimeDefault');
      expect(spec.hostPID).toBeUndefined();
      for (const { securityContext } of [...spec.initContainers, ...spec.containers]) {
        expect(securityContext.privileged ?? false).toBe(false);
        expect(securityContext.allowPrivilegeEscalation).toBe(false);
        expect(securityContext.readOnlyRootFilesystem).toBe(true);
        expect(securityContext.capabilities.drop).toEqual(['ALL']);
      }
    },
  );

  it('asks for three capabilities, and for two in the restricted profile', async () => {
    const added = async (name: string): Promise<readonly string[] | undefined> =>
      container(podSpec(find(await overlay(name), 'DaemonSet')), 'agent').securityContext.capabilities.add;
    expect(await added('primary')).toEqual(['NET_ADMIN', 'SYS_ADMIN', 'CHOWN']);
    expect(await added('restricted')).toEqual(['NET_ADMIN', 'SYS_ADMIN']);
  });

  it('writes to directories of another user than root with the one capability that takes, and nothing more', async () => {
    const added = (spec: PodSpec): [string, readonly string[] | undefined][] =>
      spec.initContainers.map(({ name, securityContext }) => [name, securityContext.capabilities.add]);
    const restricted = podSpec(find(await overlay('restricted'), 'DaemonSet'));
    expect(new Map(added(restricted))).toEqual(
      new Map([
        ['install', ['DAC_OVERRIDE']],
        ['seccomp-profile', undefined],
      ]),
    );
    const uninstall = podSpec(find(await kustomize(join(deploy, 'uninstall')), 'DaemonSet'));
    expect(added(uninstall)).toEqual([['uninstall', ['DAC_OVERRIDE']]]);
  });

  it('runs where the node still waits for its network, and is the last to be evicted', async () => {
    const spec = podSpec(find(await overlay('primary'), 'DaemonSet'));
    expect(spec.tolerations).toEqual([{ operator: 'Exists' }]);
    expect(spec.priorityClassName).toBe('system-node-critical');
    expect(spec.hostNetwork).toBe(true);
    expect(container(spec, 'agent').resources.limits).toBeUndefined();
  });

  it('never runs two agents on one node', async () => {
    const { updateStrategy } = find(await overlay('primary'), 'DaemonSet')['spec'] as { updateStrategy: unknown };
    expect(updateStrategy).toEqual({ type: 'RollingUpdate', rollingUpdate: { maxUnavailable: 1, maxSurge: 0 } });
  });

  it('is probed on the loopback only', async () => {
    const { startupProbe, livenessProbe, readinessProbe } = container(
      podSpec(find(await overlay('primary'), 'DaemonSet')),
      'agent',
    );
    for (const probe of [startupProbe, livenessProbe, readinessProbe]) expect(probe?.httpGet.host).toBe('127.0.0.1');
    expect(livenessProbe?.httpGet.path).toBe('/livez');
    expect(readinessProbe?.httpGet.path).toBe('/readyz');
  });

  it.each(['primary', 'secondary', 'restricted'])(
    'of %s mounts each host path where the node has it, and every mount has its volume',
    async (name) => {
      const spec = podSpec(find(await overlay(name), 'DaemonSet'));
      const used = new Set<string>();
      for (const { volumeMounts } of [...spec.initContainers, ...spec.containers]) {
        for (const mount of volumeMounts) {
          const volume = spec.volumes.find((one) => one.name === mount.name);
          if (volume === undefined) throw new Error(`no volume ${mount.name}`);
          if (volume.hostPath !== undefined) expect(mount.mountPath).toBe(volume.hostPath.path);
          used.add(mount.name);
        }
      }
      expect([...used].sort()).toEqual(spec.volumes.map((volume) => volume.name).sort());
    },
  );

  it('lets IPAM plugins find what they keep on the node, where the values or a component say so', async () => {
    const kept = { name: 'leases', path: '/var/lib/leases' };
    const chart = podSpec(find(await helmTemplate({ extraHostPaths: [kept] }), 'DaemonSet'));
    expect(container(chart, 'agent').volumeMounts).toContainEqual({
      name: 'leases',
      mountPath: '/var/lib/leases',
      readOnly: false,
    });
    const component = podSpec(find(await primaryWith('whereabouts'), 'DaemonSet'));
    expect(component.volumes).toContainEqual({
      name: 'whereabouts',
      hostPath: { path: '/etc/cni/net.d/whereabouts.d', type: 'DirectoryOrCreate' },
    });
    expect(container(component, 'install').volumeMounts.map(({ name }) => name)).not.toContain('whereabouts');
  });

  it('sees namespaces made after it started', async () => {
    const { volumeMounts } = container(podSpec(find(await overlay('primary'), 'DaemonSet')), 'agent');
    expect(volumeMounts).toContainEqual({
      name: 'netns',
      mountPath: '/run/netns',
      readOnly: true,
      mountPropagation: 'HostToContainer',
    });
  });

  it('shows the agent where the daemon of the dhcp plugin listens', async () => {
    for (const name of ['primary', 'secondary', 'restricted']) {
      const { volumeMounts } = container(podSpec(find(await overlay(name), 'DaemonSet')), 'agent');
      expect(volumeMounts).toContainEqual({ name: 'dhcp', mountPath: '/run/cni' });
    }
  });

  it('lets the agent describe devices where Multus reads, and not where device plugins do', async () => {
    for (const name of ['primary', 'secondary', 'restricted']) {
      const manifests = await overlay(name);
      const spec = podSpec(find(manifests, 'DaemonSet'));
      const mount = container(spec, 'agent').volumeMounts.find((one) => one.name === 'devinfo');
      expect(mount).toEqual({ name: 'devinfo', mountPath: defaultDeviceInfoDir });
      expect(configMapData(manifests)['agent.yaml']).toContain(`device-info-dir: ${defaultDeviceInfoDir}\n`);
      expect(JSON.stringify(spec)).not.toContain('devinfo/dp');
    }
  });

  it('gives the agent options that it takes, by its environment, so that commands in its container have them too', async () => {
    for (const name of ['primary', 'secondary', 'restricted']) {
      const manifests = await overlay(name);
      const { args, env = [] } = container(podSpec(find(manifests, 'DaemonSet')), 'agent');
      for (const flag of ['--config', '--cni-conf-dir']) expect(args?.join()).not.toContain(flag);
      const environment = Object.fromEntries(env.map((one) => [one.name, one.value ?? 'node1']));
      const options = resolveAgentOptions({
        flags: {},
        environment,
        readFile: (path) => configMapData(manifests)[path.replace(/^\/etc\/virtio-user-cni\//, '')] ?? '',
      });
      expect(environment['VIRTIO_USER_CONFIG']).toBe('/etc/virtio-user-cni/agent.yaml');
      expect(options.nodeName).toBe('node1');
      expect(options.runDir).toBe('/run/virtio-user');
      expect(options.metricsAddress).toEqual({ host: '127.0.0.1', port: 9473 });
      expect(options.backendDirs).toEqual(['/run/virtio-user/vhost', '/run/openvswitch']);
    }
  });

  it('installs a configuration that the plugin takes, in the version that every runtime takes, and newer ones beside it', async () => {
    const data = configMapData(await overlay('primary'));
    const { args, env } = container(podSpec(find(await overlay('primary'), 'DaemonSet')), 'agent');
    expect(args).toContain('--conf=/etc/virtio-user-cni/10-virtio-user.conflist');
    const list = JSON.parse(data['10-virtio-user.conflist'] ?? '') as {
      cniVersion: string;
      cniVersions: string[];
      plugins: object[];
    };
    expect(list.cniVersion).toBe('1.0.0');
    // One file for all nodes: each has its own subnet, and its agent knows which node it is.
    expect(list.plugins).toMatchObject([{ ipam: { ranges: [[{ subnet: '{podCIDR}' }]] } }]);
    expect(env).toContainEqual({
      name: 'VIRTIO_USER_NODE_NAME',
      valueFrom: { fieldRef: { fieldPath: 'spec.nodeName' } },
    });
    expect(list.cniVersions).toEqual(['1.0.0', '1.1.0']);
    for (const plugin of list.plugins) {
      expect(netconfSchema.safeParse(plugin).error).toBeUndefined();
      for (const cniVersion of list.cniVersions)
        expect(parseRawNetconf(JSON.stringify({ ...plugin, name: 'n', cniVersion }), 'ADD')).toMatchObject({
          cniVersion,
        });
    }
  });

  it.each(['primary', 'restricted'])(
    'of %s leaves the configuration to the agent: a node whose agent cannot start gets none',
    async (name) => {
      const { initContainers, containers } = podSpec(find(await overlay(name), 'DaemonSet'));
      const writers = [...initContainers, ...containers]
        .filter(({ volumeMounts }) =>
          volumeMounts.some((mount) => mount.name === 'cni-conf' && mount.readOnly !== true),
        )
        .map((one) => one.name);
      expect(writers).toEqual(['agent']);
      for (const { args } of initContainers) expect(args?.join() ?? '').not.toContain('--conf');
    },
  );

  it('installs no configuration where Multus calls the plugin', async () => {
    const manifests = await overlay('secondary');
    const spec = podSpec(find(manifests, 'DaemonSet'));
    expect(Object.keys(configMapData(manifests))).toEqual(['agent.yaml']);
    expect(JSON.stringify(spec)).not.toContain('/etc/cni/net.d');
  });

  it('has the seccomp profile on the node before the agent asks for it', async () => {
    const manifests = await overlay('restricted');
    const spec = podSpec(find(manifests, 'DaemonSet'));
    expect(spec.initContainers.map(({ name }) => name).sort()).toEqual(['install', 'seccomp-profile']);
    const { securityContext } = container(spec, 'agent');
    expect(securityContext.seccompProfile).toEqual({ type: 'Localhost', localhostProfile: 'virtio-user.json' });
    const profile = JSON.parse(configMapData(manifests)['virtio-user.json'] ?? '') as { defaultAction: string };
    expect(profile.defaultAction).toBe('SCMP_ACT_ERRNO');
  });
});

describe('uninstalling', () => {
  it('removes what the primary overlay installs, from the same places', async () => {
    const primary = podSpec(find(await kustomize(join(deploy, 'overlays/primary')), 'DaemonSet'));
    const { args: agentArgs = [], env = [] } = container(primary, 'agent');
    const confDir = env.find(({ name }) => name === 'VIRTIO_USER_CNI_CONF_DIR')?.value;
    const installed = [...(container(primary, 'install').args ?? []), ...agentArgs, `--cni-conf-dir=${confDir}`];
    const remover = container(podSpec(find(await kustomize(join(deploy, 'uninstall')), 'DaemonSet')), 'uninstall');
    const value = (args: readonly string[] | undefined, flag: string): string | undefined =>
      args?.find((one) => one.startsWith(`--${flag}=`))?.slice(flag.length + 3);
    for (const flag of ['cni-bin-dir', 'cni-conf-dir']) expect(value(remover.args, flag)).toBe(value(installed, flag));
    expect(value(installed, 'conf')?.split('/').at(-1)).toBe(value(remover.args, 'conf-name'));
    expect(remover.args).not.toContain('--force');
  });

  it('removes what the agents leave, from the directories that hold theirs', async () => {
    const remover = podSpec(find(await kustomize(join(deploy, 'uninstall')), 'DaemonSet'));
    const { args = [], volumeMounts } = container(remover, 'uninstall');
    const options = parse(configMapData(await kustomize(deploy))['agent.yaml'] ?? '') as Record<string, string>;
    const restricted = podSpec(find(await kustomize(join(deploy, 'overlays/restricted')), 'DaemonSet'));
    const seccompDir = restricted.volumes.find(({ name }) => name === 'seccomp')?.hostPath?.path ?? '';
    const removed = {
      'state-dir': options['state-dir'] ?? '',
      'run-dir': options['run-dir'] ?? '',
      'seccomp-dir': seccompDir,
    };
    for (const [flag, path] of Object.entries(removed)) {
      expect(args).toContain(`--${flag}=${path}`);
      const mount = volumeMounts.find(({ mountPath }) => path.startsWith(`${mountPath}/`));
      expect(mount?.readOnly ?? false).toBe(false);
      expect(remover.volumes).toContainEqual({
        name: mount?.name,
        hostPath: { path: mount?.mountPath, type: 'Directory' },
      });
    }
  });
});

describe('the example of another uninstaller in docs/install.md', () => {
  it('removes from other directories, with another image, a file of another name', async () => {
    const manual = readFileSync(join(root, 'docs/install.md'), 'utf8');
    const block = /^ {4}# kustomization\.yaml.*\n((?: {4}.*\n)+)/m.exec(manual)?.[1] ?? '';
    const spec = podSpec(
      find(await build(parse(block.replace(/^ {4}/gm, '')) as { resources: string[] }), 'DaemonSet'),
    );
    for (const { image } of [...spec.initContainers, ...spec.containers])
      expect(image).toBe('registry.example/net/virtio-user-cni:0.1.0');
    const paths = new Map(spec.volumes.map(({ name, hostPath }) => [name, hostPath?.path]));
    const { args = [], volumeMounts } = container(spec, 'uninstall');
    expect(paths.get('cni-bin')).toBe('/usr/libexec/cni');
    expect(paths.get('cni-conf')).toBe('/etc/kubernetes/cni/net.d');
    for (const { name, mountPath } of volumeMounts.filter((one) => one.name.startsWith('cni-')))
      expect(args).toContain(`--${name}-dir=${mountPath}`);
    expect(args.at(-1)).toBe('--conf-name=05-net.conflist');
  });
});

describe('the examples for Multus', () => {
  it('hold configurations that the plugin takes, and pods that ask for what they declare', async () => {
    const manifests = await kustomize(join(deploy, 'examples/secondary'));
    const networks = manifests.filter(({ kind }) => kind === 'NetworkAttachmentDefinition');
    expect(networks.map(({ metadata }) => metadata.name).sort()).toEqual(['dpdk-manual', 'dpdk-net', 'dpdk-vlan100']);
    const capabilities = new Map<string, readonly string[]>();
    for (const network of networks) {
      const { config } = network['spec'] as { config: string };
      const netconf = JSON.parse(config) as { cniVersion: string; name: string; capabilities?: object };
      expect(netconfSchema.safeParse(netconf).error).toBeUndefined();
      expect(netconf.cniVersion).toBe('1.0.0');
      expect(netconf.name).toBe(network.metadata.name);
      capabilities.set(netconf.name, Object.keys(netconf.capabilities ?? {}));
    }
    expect([...new Set([...capabilities.values()].flat())].sort()).toEqual([...known].sort());
    for (const pod of manifests.filter(({ kind }) => kind === 'Pod')) {
      const wanted = pod.metadata.annotations?.['k8s.v1.cni.cncf.io/networks'] ?? '';
      const selections = (
        wanted.trim().startsWith('[') ? parse(wanted) : wanted.split(',').map((name) => ({ name: name.trim() }))
      ) as Record<string, unknown>[];
      for (const { name, interface: _interface, ...asked } of selections) {
        expect(capabilities.get(String(name))).toEqual(expect.arrayContaining(Object.keys(asked)));
      }
    }
  });
});
