/** A real API server on what deploy/ holds: it takes every object, keeps all that an agent writes, and allows no more. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { KubernetesApi } from '../../src/kubernetes/api.ts';
import { nodeStatus } from '../../src/kubernetes/node-object.ts';
import { PooledKubeConfig } from '../../src/kubernetes/pooled-config.ts';
import { Cleanup } from '../support/cleanup.ts';
import { until } from '../support/process.ts';
import { ApiServer } from './support/api-server.ts';
import { deploy, helmTemplate, kustomize, namespace } from './support/manifests.ts';

const account = `system:serviceaccount:${namespace}:virtio-user-agent`;

describe('a Kubernetes API server', () => {
  const cleanup = new Cleanup();
  const configs: PooledKubeConfig[] = [];
  let server: ApiServer;
  let token: string;

  const client = (nodeName: string): KubernetesApi => {
    const config = new PooledKubeConfig();
    config.loadFromFile(server.kubeconfig(token));
    configs.push(config);
    return new KubernetesApi(config, nodeName);
  };
  const sample = nodeStatus(
    {
      agentVersion: '0.1.0',
      ready: true,
      readyReason: '',
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
    token = (
      await server.kubectl(
        'create',
        'token',
        'virtio-user-agent',
        '-n',
        namespace,
        '--bound-object-kind=Node',
        '--bound-object-name=node1',
      )
    ).trim();
    const api = client('node1');
    await api.applyNode(sample, null);
    const { status } = JSON.parse(await server.kubectl('get', 'virtiousernode', 'node1', '-o', 'json')) as {
      status: unknown;
    };
    expect(status).toEqual(JSON.parse(JSON.stringify(sample)));
    await api.applyNode(
      nodeStatus(
        { agentVersion: '0.1.1', ready: false, readyReason: 'r', corruptRecords: 0, attachments: [] },
        sample,
        new Date(),
      ),
      null,
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

  it('allows the agent what it does, and no more', async () => {
    for (const allowed of [
      ['list', 'pods', '--all-namespaces'],
      ['watch', 'pods', '--all-namespaces'],
      ['create', 'virtiousernodes.virtio-user.dev'],
      ['patch', 'virtiousernodes.virtio-user.dev', '--subresource=status'],
      ['create', 'events.events.k8s.io', '--all-namespaces'],
      ['update', 'leases', '-n', namespace],
    ]) {
      expect({ allowed, yes: await canI(...allowed) }).toEqual({ allowed, yes: true });
    }
    for (const refused of [
      ['get', 'secrets', '--all-namespaces'],
      ['patch', 'pods', '--all-namespaces'],
      ['delete', 'pods', '--all-namespaces'],
      ['create', 'pods', '-n', namespace],
      ['patch', 'nodes'],
      ['delete', 'virtiousernodes.virtio-user.dev'],
      ['update', 'leases', '-n', 'kube-system'],
      ['get', 'configmaps', '-n', namespace],
    ]) {
      expect({ refused, yes: await canI(...refused) }).toEqual({ refused, yes: false });
    }
  }, 60_000);

  it("refuses an agent another node's object in the restricted profile, and not its own", async () => {
    await client('node2').applyNode(sample, null); // not yet
    const restricted = await kustomize(join(deploy, 'overlays/restricted'));
    await server.apply(restricted.filter(({ kind }) => kind.startsWith('ValidatingAdmissionPolicy')));
    // The server reads policies when it notices them.
    await until(
      'the policy to act',
      () =>
        client('node3')
          .applyNode(sample, null)
          .then(
            () => false,
            (error: unknown) => {
              expect(JSON.stringify(error) + String(error)).toContain(
                'an agent writes the object of its own node only',
              );
              return true;
            },
          ),
      30_000,
      500,
    );
    await client('node1').applyNode(sample, null);
    await server.kubectl(
      'patch',
      'virtiousernode',
      'node2',
      '--type=merge',
      '-p',
      '{"metadata":{"labels":{"by":"admin"}}}',
    );
  }, 60_000);
});
