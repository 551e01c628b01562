/** A real API server on what deploy/ holds: it takes every object, keeps all that an agent writes, and allows no more. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { Credentials } from '../../src/agent/cluster.ts';
import { readPodCidrs } from '../../src/agent/pod-cidrs.ts';
import { type EventRecord, KubernetesApi } from '../../src/kubernetes/api.ts';
import { apiFailure } from '../../src/kubernetes/failure.ts';
import { nodeStatus } from '../../src/kubernetes/node-object.ts';
import { PooledKubeConfig } from '../../src/kubernetes/pooled-config.ts';
import { Agent } from '../support/agent.ts';
import { Cleanup } from '../support/cleanup.ts';
import { RecordingLogger } from '../support/recording-logger.ts';
import { run, until } from '../support/process.ts';
import { ApiServer } from './support/api-server.ts';
import {
  chart,
  deploy,
  find,
  helm,
  helmTemplate,
  kubectl,
  kustomize,
  type Manifest,
  namespace,
} from './support/manifests.ts';

const account = `system:serviceaccount:${namespace}:virtio-user-agent`;

describe('a Kubernetes API server', () => {
  const cleanup = new Cleanup();
  const configs: PooledKubeConfig[] = [];
  let server: ApiServer;
  let token: string;

  const client = (nodeName: string, log?: RecordingLogger, as = token): KubernetesApi => {
    const config = new PooledKubeConfig();
    config.loadFromFile(server.kubeconfig(as));
    configs.push(config);
    return new KubernetesApi(config, nodeName, log);
  };
  /** As kubelet mounts it: it names the node. */
  const agentToken = async (): Promise<string> => {
    const node = ['--bound-object-kind=Node', '--bound-object-name=node1'];
    return (await server.kubectl('create', 'token', 'virtio-user-agent', '-n', namespace, ...node)).trim();
  };
  const owners = async (...what: string[]): Promise<unknown[]> => {
    const { metadata } = JSON.parse(await server.kubectl('get', ...what, '-o', 'json')) as {
      metadata: { ownerReferences?: unknown[] };
    };
    return metadata.ownerReferences ?? [];
  };
  const agentCredentials = (): Credentials => ({ kind: 'kubeconfig', path: server.kubeconfig(token) });
  const sample = nodeStatus(
    {
      agentVersion: '0.1.0',
      ready: true,
      readyReason: '',
      restored: true,
      corruptRecords: 1,
      attachments: [
        {
          id: 'vu0123456789ab',
          key: { networkName: 'net', containerId: 'c', ifName: 'eth0' },
          pod: { namespace: 'default', name: 'one' },
          state: 'parked',
          reason: 'lacks VERSION_1',
        },
      ] as unknown as Parameters<typeof nodeStatus>[0]['attachments'],
    },
    null,
    new Date(),
  );
  const canI = async (...what: string[]): Promise<boolean> =>
    (await server.tryKubectl('auth', 'can-i', ...what, '--as', account)).stdout.trim() === 'yes';

  beforeAll(async () => {
    const directory = mkdtempSync(join(tmpdir(), 'vu-api-'));
    cleanup.add('directory', () => rmSync(directory, { recursive: true, force: true }));
    server = await ApiServer.start(directory, cleanup);
  }, 120_000);

  afterAll(async () => {
    await Promise.all(configs.map((config) => config.closeConnections()));
    expect(await cleanup.run()).toEqual([]);
  }, 30_000);

  it('takes deploy/ in one go, with fields checked strictly and no warning', async () => {
    const manifests = await kustomize(deploy);
    const said = await server.apply(manifests);
    expect(said).not.toMatch(/[Ww]arning/);
    expect(said.trim().split('\n').length).toBe(manifests.length);
    await server.kubectl('wait', '--for=condition=Established', 'crd/virtiousernodes.virtio-user.dev', '--timeout=20s');
  }, 60_000);

  it('takes it again, and what Helm renders, without a change', async () => {
    const before = await server.kubectl(
      'get',
      'daemonset',
      '-n',
      namespace,
      '-o',
      'jsonpath={.items[*].metadata.generation}',
    );
    await server.apply(await kustomize(deploy));
    expect(
      await server.kubectl('get', 'daemonset', '-n', namespace, '-o', 'jsonpath={.items[*].metadata.generation}'),
    ).toBe(before);
    expect(await server.apply(await helmTemplate(), '--dry-run=server', '--force-conflicts')).not.toMatch(/[Ww]arning/);
  }, 60_000);

  it('takes the other overlays and the uninstaller', async () => {
    for (const overlay of ['overlays/secondary', 'overlays/restricted', 'uninstall']) {
      const said = await server.apply(await kustomize(join(deploy, overlay)), '--dry-run=server', '--force-conflicts');
      expect(said).not.toMatch(/[Ww]arning/);
    }
  }, 60_000);

  it("keeps every field of an agent's status, written with the agent's own rights", async () => {
    await server.apply([{ apiVersion: 'v1', kind: 'Node', metadata: { name: 'node1' } }]);
    token = await agentToken();
    const api = client('node1');
    await api.applyNode(sample);
    const { status } = JSON.parse(await server.kubectl('get', 'virtiousernode', 'node1', '-o', 'json')) as {
      status: unknown;
    };
    expect(status).toEqual(JSON.parse(JSON.stringify(sample)));
    await api.applyNode(
      nodeStatus(
        { agentVersion: '0.1.1', ready: false, readyReason: 'r', restored: true, corruptRecords: 0, attachments: [] },
        sample,
        new Date(),
      ),
    );
    const table = await server.kubectl('get', 'vun');
    expect(table.split('\n')[0]?.split(/\s+/).filter(Boolean)).toEqual([
      'NAME',
      'READY',
      'BACKEND',
      'ATTACHMENTS',
      'DISCONNECTED',
      'VERSION',
      'AGE',
    ]);
    expect(table.split('\n')[1]?.split(/\s+/).slice(0, 6)).toEqual(['node1', 'False', 'Idle', '0', '0', '0.1.1']);
  }, 30_000);

  it('lets the agent keep its lease and write events', async () => {
    const api = client('node1');
    await api.renewLease(namespace, 40);
    await api.renewLease(namespace, 40);
    const event = {
      namespace: 'default',
      name: 'node1.1',
      type: 'Warning' as const,
      reason: 'StateCorrupt',
      action: 'Attach',
      note: 'a record was set aside',
      regarding: { apiVersion: 'v1', kind: 'Node', name: 'node1' },
    };
    await api.createEvent(event);
    await api.repeatEvent('default', 'node1.1', 2);
    expect(
      await server.kubectl('get', 'events.events.k8s.io', 'node1.1', '-o', 'jsonpath={.reason} {.series.count}'),
    ).toBe('StateCorrupt 2');
  }, 30_000);

  it('makes its object and its lease the Node’s, also those of an agent that did not', async () => {
    const uid = await server.kubectl('get', 'node', 'node1', '-o', 'jsonpath={.metadata.uid}');
    const owner = { apiVersion: 'v1', kind: 'Node', name: 'node1', uid };
    expect(await owners('virtiousernode', 'node1')).toEqual([owner]);
    expect(await owners('lease', 'virtio-user-node1', '-n', namespace)).toEqual([owner]);
    const patch = '{"metadata":{"ownerReferences":null}}';
    await server.kubectl('patch', 'virtiousernode', 'node1', '--type=merge', '-p', patch);
    await client('node1').applyNode(sample);
    expect(await owners('virtiousernode', 'node1')).toEqual([owner]);
  }, 30_000);

  it('goes with the Node, and comes again with the next one of its name', async () => {
    server.startGarbageCollector();
    // That of a pod outlives the Node; one that is bound to the Node does not.
    const podToken = await server.kubectl('create', 'token', 'virtio-user-agent', '-n', namespace);
    const api = client('node1', undefined, podToken.trim());
    await api.applyNode(sample);
    await server.kubectl('delete', 'node', 'node1');
    const gone = async (...what: string[]): Promise<boolean> => (await server.tryKubectl('get', ...what)).code !== 0;
    await until('the object to go', () => gone('virtiousernode', 'node1'), 40_000, 200);
    await until('the lease to go', () => gone('lease', 'virtio-user-node1', '-n', namespace), 40_000, 200);
    await server.apply([{ apiVersion: 'v1', kind: 'Node', metadata: { name: 'node1' } }]);
    const uid = await server.kubectl('get', 'node', 'node1', '-o', 'jsonpath={.metadata.uid}');
    token = await agentToken();
    await api.applyNode(sample); // by the agent that never stopped
    await api.renewLease(namespace, 40);
    expect(await owners('virtiousernode', 'node1')).toMatchObject([{ uid }]);
    expect(await owners('lease', 'virtio-user-node1', '-n', namespace)).toMatchObject([{ uid }]);
  }, 90_000);

  it('is kept without a Node of this name, which is said once', async () => {
    const log = new RecordingLogger();
    const api = client('nodeless', log);
    await api.applyNode(sample);
    await api.applyNode(sample);
    expect(await owners('virtiousernode', 'nodeless')).toEqual([]);
    expect(log.messages).toEqual(['the node object will not go with its Node']);
    await server.kubectl('delete', 'virtiousernode', 'nodeless');
  }, 30_000);

  it('allows the agent what it does, and no more', async () => {
    for (const allowed of [
      ['list', 'pods', '--all-namespaces'],
      ['watch', 'pods', '--all-namespaces'],
      ['get', 'nodes'],
      ['create', 'virtiousernodes.virtio-user.dev'],
      ['patch', 'virtiousernodes.virtio-user.dev', '--subresource=status'],
      ['create', 'events.events.k8s.io', '--all-namespaces'],
      ['update', 'leases', '-n', namespace],
      ['get', 'nodes'],
    ]) {
      expect({ allowed, yes: await canI(...allowed) }).toEqual({ allowed, yes: true });
    }
    for (const refused of [
      ['get', 'secrets', '--all-namespaces'],
      ['patch', 'pods', '--all-namespaces'],
      ['delete', 'pods', '--all-namespaces'],
      ['create', 'pods', '-n', namespace],
      ['patch', 'nodes'],
      ['list', 'nodes'],
      ['list', 'virtiousernodes.virtio-user.dev'],
      ['update', 'virtiousernodes.virtio-user.dev'],
      ['delete', 'virtiousernodes.virtio-user.dev'],
      ['update', 'leases', '-n', 'kube-system'],
      ['get', 'configmaps', '-n', namespace],
    ]) {
      expect({ refused, yes: await canI(...refused) }).toEqual({ refused, yes: false });
    }
  }, 60_000);

  it('needs each verb of its rules', async () => {
    const manifests = await kustomize(deploy);
    let turn = 0;
    const asAgent = (...args: string[]): Promise<string> =>
      run(kubectl, [`--kubeconfig=${server.kubeconfig(token)}`, ...args]);
    const event = (): string => `node1.rule.${turn}`;
    const createEvent = (api: KubernetesApi): Promise<void> =>
      api.createEvent({
        namespace: 'default',
        name: event(),
        type: 'Normal',
        reason: 'AttachmentReady',
        action: 'Attach',
        note: 'x',
        regarding: { apiVersion: 'v1', kind: 'Node', name: 'node1' },
      });
    /** A new object each time: nothing that an earlier attempt left may help. */
    const uses: Readonly<Record<string, () => Promise<unknown>>> = {
      'list pods': () => asAgent('get', 'pods', '--all-namespaces'),
      'watch pods': () => asAgent('get', '--raw', '/api/v1/pods?watch=1&timeoutSeconds=1'),
      'get nodes': async () => {
        await readPodCidrs({ credentials: agentCredentials(), nodeName: 'node1', waitMs: 0 });
        await server.tryKubectl('delete', 'virtiousernode', 'node1');
        await client('node1').applyNode(sample);
        if ((await owners('virtiousernode', 'node1')).length === 0) throw new Error('it belongs to nobody');
      },
      'get virtiousernodes': () => client('node1').readConditions(),
      'create virtiousernodes': () => client(`fresh-${turn}`).applyNode(sample),
      'patch virtiousernodes': () => client(`fresh-${turn}`).applyNode(sample),
      'patch virtiousernodes/status': () => client('node1').applyNode(sample),
      'create events': () => createEvent(client('node1')),
      'patch events': async () => {
        await createEvent(client('node1'));
        await client('node1').repeatEvent('default', event(), 2);
      },
      'create leases': async () => {
        await server.tryKubectl('delete', 'lease', '-n', namespace, 'virtio-user-node1');
        await client('node1').renewLease(namespace, 40);
      },
      'get leases': () => client('node1').renewLease(namespace, 40),
      'update leases': () => client('node1').renewLease(namespace, 40),
    };
    const works = (use: () => Promise<unknown>): Promise<boolean> => {
      turn += 1;
      return use().then(
        () => true,
        () => false,
      );
    };
    const seen: string[] = [];
    for (const kind of ['ClusterRole', 'Role']) {
      const role = find(manifests, kind);
      const rules = role['rules'] as { resources: string[]; verbs: string[] }[];
      for (const rule of rules) {
        for (const verb of rule.verbs) {
          const name = `${verb} ${rule.resources.join()}`;
          const use = uses[name];
          if (use === undefined) throw new Error(`nothing needs to ${name}`);
          expect({ name, works: await works(use) }).toEqual({ name, works: true });
          const less = { ...rule, verbs: rule.verbs.filter((other) => other !== verb) };
          const rest = rules.map((other) => (other === rule ? less : other)).filter(({ verbs }) => verbs.length > 0);
          await server.apply([{ ...role, rules: rest }]);
          await until(`${name} to be refused`, async () => !(await works(use)), 10_000, 100);
          await server.apply([role]);
          await until(`${name} to be allowed again`, () => works(use), 10_000, 100);
          seen.push(name);
        }
      }
    }
    expect(seen.sort()).toEqual(Object.keys(uses).sort());
  }, 180_000);

  it('is told by an agent that stops in order, for as long as it listens', async () => {
    const directory = mkdtempSync('/run/vu-farewell-');
    cleanup.add('directory of the agent', () => rmSync(directory, { recursive: true, force: true }));
    process.env['KUBECONFIG'] = server.kubeconfig(token);
    cleanup.add('environment', () => delete process.env['KUBECONFIG']);
    const extraArgs = ['--kubernetes=on', '--node-name=node1'];
    const agent = await Agent.start(directory, { extraArgs }, cleanup);
    const condition = (type: string, field: string): Promise<string> =>
      server.kubectl('get', 'vun', 'node1', '-o', `jsonpath={.status.conditions[?(@.type=="${type}")].${field}}`);
    const seen = async (): Promise<boolean> => (await condition('Ready', 'reason')) === 'AgentReady';
    await until('the agent to be seen', seen, 20_000, 100);
    const since = await condition('StateRestored', 'lastTransitionTime');
    await agent.stop();
    expect(await condition('Ready', 'reason')).toBe('AgentStopped');
    await agent.start();
    await until('the next agent to be seen', seen, 20_000, 100);
    expect(await condition('StateRestored', 'lastTransitionTime')).toBe(since); // an upgrade is no news
    server.freeze();
    try {
      const startedMs = performance.now();
      await agent.stop();
      // Two seconds for the last word; nothing else waits for the API server.
      expect(performance.now() - startedMs).toBeLessThan(8_000);
      expect(agent.log).toContain('the cluster could not be told that the agent stops');
      expect(agent.log).toContain('"stopped"');
    } finally {
      server.thaw();
    }
  }, 90_000);

  it('admits the pod in its own namespace, and in no namespace below privileged', async () => {
    const { template } = find(await kustomize(deploy), 'DaemonSet')['spec'] as { template: object };
    const pod = (name: string): Manifest => ({
      apiVersion: 'v1',
      kind: 'Pod',
      ...template,
      metadata: { name: 'try', namespace: name },
    });
    await server.apply([pod(namespace)], '--dry-run=server');
    const labels = { 'pod-security.kubernetes.io/enforce': 'baseline' };
    await server.apply([{ apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'narrow', labels } }]);
    await server.kubectl('create', 'serviceaccount', 'virtio-user-agent', '-n', 'narrow');
    await expect(server.apply([pod('narrow')], '--dry-run=server')).rejects.toThrow(/violates PodSecurity "baseline/);
  }, 30_000);

  it("refuses an agent another node's object in the restricted profile, and not its own", async () => {
    await client('node2').applyNode(sample); // not yet
    const restricted = await kustomize(join(deploy, 'overlays/restricted'));
    await server.apply(restricted.filter(({ kind }) => kind.startsWith('ValidatingAdmissionPolicy')));
    // The server reads policies when it notices them.
    await until(
      'the policy to act',
      () =>
        client('node3')
          .applyNode(sample)
          .then(
            () => false,
            (error: unknown) => {
              expect(JSON.stringify(error) + String(error)).toContain(
                'an agent writes the object and the lease of its own node only',
              );
              return true;
            },
          ),
      30_000,
      500,
    );
    await client('node1').applyNode(sample);
    await client('node1').renewLease(namespace, 40);
    await expect(client('node3').renewLease(namespace, 40)).rejects.toThrow('the lease of its own node only');
    await server.kubectl(
      'patch',
      'virtiousernode',
      'node2',
      '--type=merge',
      '-p',
      '{"metadata":{"labels":{"by":"admin"}}}',
    );
  }, 60_000);

  it('tells what admission refuses for good, which is not tried again, from a right that is still to come', async () => {
    const write = (namespace: string) => {
      const event: EventRecord = {
        ...{ namespace, name: `one.${Date.now()}`, type: 'Normal', reason: 'AttachmentReady', action: 'Attach' },
        note: 'n',
        regarding: { apiVersion: 'v1', kind: 'Pod', name: 'one', namespace },
      };
      return client('node1')
        .createEvent(event)
        .then(() => null, apiFailure);
    };
    const named = (kind: string, spec: object): Manifest => ({
      ...{ apiVersion: 'admissionregistration.k8s.io/v1', kind, metadata: { name: 'no-events' }, spec },
    });
    const events = { apiGroups: ['events.k8s.io'], apiVersions: ['*'], operations: ['CREATE'], resources: ['events'] };
    await server.apply([
      { apiVersion: 'v1', kind: 'Namespace', metadata: { name: 'quiet', labels: { quiet: 'yes' } } },
      named('ValidatingAdmissionPolicy', {
        matchConstraints: { resourceRules: [events], namespaceSelector: { matchLabels: { quiet: 'yes' } } },
        validations: [{ expression: 'false', message: 'no events here', reason: 'Forbidden' }],
      }),
      named('ValidatingAdmissionPolicyBinding', { policyName: 'no-events', validationActions: ['Deny'] }),
    ]);
    // The server reads policies, and rights, when it notices them.
    const refused = await until('the policy to act', () => write('quiet'), 30_000, 500);
    expect(refused).toMatchObject({ status: 403, retryable: false, reason: expect.stringContaining('no events here') });
    expect(await write('default')).toBeNull();
    await server.kubectl('delete', 'clusterrolebinding', 'virtio-user-agent');
    const early = await until('the right to be gone', () => write('default'), 30_000, 500);
    expect(early).toMatchObject({ status: 403, retryable: true });
    await server.apply(await kustomize(deploy));
  }, 90_000);

  it('takes the chart as a release: installed, upgraded, uninstalled without a rest', async () => {
    const helmRun = (...args: string[]): Promise<string> =>
      run(helm, [...args, '--namespace', namespace, `--kubeconfig=${server.kubeconfig()}`]);
    const kinds = 'daemonset,configmap,serviceaccount,role,rolebinding,lease';
    const mine = (): Promise<string> =>
      server.kubectl(
        'get',
        `${kinds},clusterrole,clusterrolebinding`,
        '-A',
        '-l',
        'app.kubernetes.io/name=virtio-user-cni',
        '-o',
        'name',
      );
    const old = (await kustomize(deploy)).filter(
      ({ kind }) => kind !== 'Namespace' && kind !== 'CustomResourceDefinition',
    );
    for (const { kind, metadata } of old) {
      await server.kubectl(
        'delete',
        kind,
        metadata.name,
        ...(metadata.namespace === undefined ? [] : ['-n', metadata.namespace]),
      );
    }
    await helmRun('install', 'virtio-user-cni', chart);
    expect((await mine()).trim().split('\n').sort()).toEqual([
      'clusterrole.rbac.authorization.k8s.io/virtio-user-agent',
      'clusterrolebinding.rbac.authorization.k8s.io/virtio-user-agent',
      'configmap/virtio-user-agent',
      'daemonset.apps/virtio-user-agent',
      'role.rbac.authorization.k8s.io/virtio-user-agent',
      'rolebinding.rbac.authorization.k8s.io/virtio-user-agent',
      'serviceaccount/virtio-user-agent',
    ]);
    const checksum = (): Promise<string> =>
      server.kubectl(
        'get',
        'daemonset',
        '-n',
        namespace,
        '-o',
        'jsonpath={.items[0].spec.template.metadata.annotations.checksum/config}',
      );
    const before = await checksum();
    await helmRun('upgrade', 'virtio-user-cni', chart, '--set', 'agent.hold-ms=5000');
    expect(await checksum()).not.toBe(before);
    await helmRun('uninstall', 'virtio-user-cni');
    expect(await mine()).toBe('');
    expect(await server.kubectl('get', 'virtiousernodes', '-o', 'name')).toContain('node1');
  }, 90_000);
});
