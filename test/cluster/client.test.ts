/** The Kubernetes client against a real API server, as the agent's service account, through a proxy that misbehaves. */
import { mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { KubernetesSession } from '../../src/agent/kubernetes.ts';
import { readPodCidrs } from '../../src/agent/pod-cidrs.ts';
import { KubernetesApi } from '../../src/kubernetes/api.ts';
import { apiFailure } from '../../src/kubernetes/failure.ts';
import { type NodeStatus, nodeStatus, type NodeView } from '../../src/kubernetes/node-object.ts';
import { NodePods, whyKeepPod } from '../../src/kubernetes/node-pods.ts';
import { PooledKubeConfig } from '../../src/kubernetes/pooled-config.ts';
import { Agent } from '../support/agent.ts';
import { attachmentView } from '../support/attachment-view.ts';
import { Cleanup } from '../support/cleanup.ts';
import { run, until } from '../support/process.ts';
import { RecordingLogger } from '../support/recording-logger.ts';
import { ControlPlane } from './support/control-plane.ts';
import { RudeProxy } from './support/rude-proxy.ts';

jest.setTimeout(120_000);

const deploy = fileURLToPath(new URL('../../deploy/base', import.meta.url));
const namespace = 'virtio-user-system';
const nodeName = 'node1';

const whole = new Cleanup();
let directory: string;
let plane: ControlPlane;
let proxy: RudeProxy;
let tokenPath: string;
let cleanup: Cleanup;
let log: RecordingLogger;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'vu-client-'));
  whole.add('directory', () => rmSync(directory, { recursive: true, force: true }));
  plane = await ControlPlane.start(directory, [nodeName], whole);
  await plane.kubectl('create', 'namespace', namespace);
  for (const file of ['virtiousernodes.yaml', 'rbac.yaml']) await plane.kubectl('apply', '-f', join(deploy, file));
  await plane.kubectl('wait', '--for=condition=Established', 'crd/virtiousernodes.virtio-user.dev', '--timeout=30s');
  await plane.apply({ apiVersion: 'v1', kind: 'Node', metadata: { name: nodeName } });
  tokenPath = join(directory, 'token');
  const token = await plane.kubectl('create', 'token', 'virtio-user-agent', '-n', namespace, '--duration=1h');
  writeFileSync(tokenPath, token.trim());
  proxy = await RudeProxy.start(plane, whole);
});
afterAll(async () => {
  expect(await whole.run()).toEqual([]);
});

beforeEach(() => {
  proxy.reset(); // also what an earlier test has frozen
  cleanup = new Cleanup();
  log = new RecordingLogger();
});
afterEach(async () => {
  expect(await cleanup.run()).toEqual([]);
});

/** Of the agent's service account, through the proxy. */
function kubeconfig(server = proxy.url): string {
  const path = join(directory, 'agent.kubeconfig');
  const config = {
    apiVersion: 'v1',
    kind: 'Config',
    'current-context': 'agent',
    contexts: [{ name: 'agent', context: { cluster: 'test', user: 'agent', namespace } }],
    clusters: [{ name: 'test', cluster: { server, 'insecure-skip-tls-verify': true } }],
    users: [{ name: 'agent', user: { 'auth-provider': { name: 'tokenFile', config: { tokenFile: tokenPath } } } }],
  };
  writeFileSync(path, JSON.stringify(config));
  return path;
}

function newConfig(): PooledKubeConfig {
  const config = new PooledKubeConfig();
  config.loadFromFile(kubeconfig());
  cleanup.add('connections', () => config.closeConnections());
  return config;
}

const newApi = (name = nodeName): KubernetesApi => new KubernetesApi(newConfig(), name);

interface Stored {
  readonly metadata: { readonly resourceVersion: string; readonly uid: string };
  readonly spec: { readonly nodeName: string };
  readonly status: NodeStatus;
}

async function get<T>(...args: string[]): Promise<T> {
  return JSON.parse(await plane.kubectl('get', '-o', 'json', ...args)) as T;
}
const nodeObject = (): Promise<Stored> => get<Stored>('virtiousernode', nodeName);

const view = (state: string, change: Partial<NodeView> = {}): NodeView => ({
  agentVersion: '0.1.0',
  ready: true,
  readyReason: '',
  restored: true,
  attachments: [attachmentView(1, { state })],
  corruptRecords: 0,
  ...change,
});

let pods = 0;
/** A pod that is bound to the node and never runs: there is no kubelet. */
async function createPod(name = `pod-${(pods += 1)}`): Promise<{ readonly name: string; readonly uid: string }> {
  await plane.apply({
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace: 'default' },
    spec: { nodeName, containers: [{ name: 'c', image: 'vu.test/none:1' }] },
  });
  const { metadata } = await get<Stored>('pod', name);
  return { name, uid: metadata.uid };
}
const deletePod = (name: string): Promise<string> =>
  plane.kubectl('delete', 'pod', name, '--force', '--grace-period=0', '--wait=true');

function watchPods(): NodePods {
  const watched = new NodePods({ config: newConfig(), nodeName, log, idleMs: 3_000, backoffMs: [100, 500] });
  cleanup.add('pod watch', () => watched.stop());
  watched.start();
  return watched;
}
const sees = (watched: NodePods, name: string): boolean => watched.list()?.some((pod) => pod.name === name) ?? false;
const current = (watched: NodePods): Promise<true> =>
  until('the pods to be known', () => watched.trouble === null && watched.list() !== null, 40_000);
/** Not only listed: what comes now comes through the watch. */
const watching = async (watched: NodePods): Promise<void> => {
  const { name } = await createPod();
  await until('the watch to work', () => sees(watched, name));
};

describe('the object of the node', () => {
  it('is made by the first apply, and shown by kubectl with its columns', async () => {
    await newApi().applyNode(nodeStatus(view('held'), null, new Date()));
    const stored = await nodeObject();
    expect(stored.spec).toEqual({ nodeName });
    expect(stored.status.unhealthy).toMatchObject([{ pod: 'ns/pod-1', state: 'held' }]);
    const table = (await plane.kubectl('get', 'virtiousernodes')).trim().split('\n');
    expect(table[0]?.split(/\s+/)).toEqual([
      'NAME',
      'READY',
      'BACKEND',
      'ATTACHMENTS',
      'DISCONNECTED',
      'VERSION',
      'AGE',
    ]);
    expect(table[1]?.split(/\s+/).slice(0, 6)).toEqual([nodeName, 'True', 'Disconnected', '1', '1', '0.1.0']);
  });

  it('says in its wide columns what is wrong, and since when', async () => {
    const healthy = nodeStatus(view('running'), null, new Date(Date.now() - 3 * 3_600_000));
    await newApi().applyNode(nodeStatus(view('held'), healthy, new Date(Date.now() - 5 * 60_000)));
    const wide = (await plane.kubectl('get', 'virtiousernodes', '-o', 'wide')).trim().split('\n');
    const [headings, values] = wide.map((line) => line.split(/ {2,}/).slice(-4));
    expect(headings).toEqual(['READY-MESSAGE', 'READY-SINCE', 'BACKEND-MESSAGE', 'BACKEND-SINCE']);
    expect(values).toEqual([
      'pods can be attached',
      expect.stringMatching(/^(3h|180m)/),
      '1 of 1 attachments have no backend',
      expect.stringMatching(/^5m/),
    ]);
  });

  it('the same status again changes nothing; a flipped condition moves its time alone', async () => {
    const api = newApi();
    const first = nodeStatus(view('running'), null, new Date(1_000_000_000_000));
    await api.applyNode(first);
    const before = await nodeObject();
    await api.applyNode(nodeStatus(view('running'), first, new Date()));
    expect((await nodeObject()).metadata.resourceVersion).toBe(before.metadata.resourceVersion);
    await api.applyNode(nodeStatus(view('held'), first, new Date()));
    const flipped = await nodeObject();
    const moved = flipped.status.conditions.filter(
      ({ type, lastTransitionTime }) =>
        lastTransitionTime !==
        before.status.conditions.find((condition) => condition.type === type)?.lastTransitionTime,
    );
    expect(moved.map(({ type, status }) => `${type}=${status}`)).toEqual(['BackendConnected=False']);
  });

  it('comes back after somebody deleted it', async () => {
    const api = newApi();
    const status = nodeStatus(view('running'), null, new Date());
    await api.applyNode(status);
    await plane.kubectl('delete', 'virtiousernode', nodeName);
    await api.applyNode(status);
    expect((await nodeObject()).status.backend).toBe('Connected');
  });

  it('conditions of others survive', async () => {
    const api = newApi();
    await api.applyNode(nodeStatus(view('running'), null, new Date()));
    const other = {
      type: 'Audited',
      status: 'True',
      reason: 'Looked',
      message: '',
      lastTransitionTime: new Date().toISOString(),
    };
    const patch = [{ op: 'add', path: '/status/conditions/-', value: other }];
    await plane.kubectl(
      ...['patch', 'virtiousernode', nodeName, '--subresource=status', '--type=json', '-p', JSON.stringify(patch)],
    );
    await api.applyNode(nodeStatus(view('held'), null, new Date()));
    expect((await nodeObject()).status.conditions.map(({ type }) => type)).toContain('Audited');
  });

  it('an agent that is newer than the CustomResourceDefinition is refused for good', async () => {
    const newer = { ...nodeStatus(view('running'), null, new Date()), invented: 1 };
    const error: unknown = await newApi()
      .applyNode(newer)
      .catch((thrown: unknown) => thrown);
    expect(apiFailure(error)).toMatchObject({ status: 500, retryable: false });
  });
});

describe('events and lease', () => {
  it('an event is seen on its pod; repetitions count in its series', async () => {
    const { name: pod, uid } = await createPod();
    const api = newApi();
    const regarding = { apiVersion: 'v1', kind: 'Pod', namespace: 'default', name: pod, uid };
    await api.createEvent({
      namespace: 'default',
      name: `${pod}.1`,
      type: 'Warning',
      reason: 'BackendDisconnected',
      action: 'Attach',
      note: 'the backend is gone',
      regarding,
    });
    expect(await plane.kubectl('describe', 'pod', pod)).toMatch(/Warning +BackendDisconnected .* the backend is gone/);
    await api.repeatEvent('default', `${pod}.1`, 5);
    expect(await plane.kubectl('events', '--for', `pod/${pod}`)).toContain('(x5 over');
    const error: unknown = await api.repeatEvent('default', 'expired.1', 2).catch((thrown: unknown) => thrown);
    expect(apiFailure(error).status).toBe(404);
  });

  it('the lease is made, then renewed', async () => {
    const lease = (): Promise<{ readonly spec: { readonly renewTime: string; readonly acquireTime: string } }> =>
      get('lease', `virtio-user-${nodeName}`, '-n', namespace);
    const api = newApi();
    await api.renewLease(namespace, 40);
    const first = await lease();
    await api.renewLease(namespace, 40);
    const second = await lease();
    expect(second.spec.acquireTime).toBe(first.spec.acquireTime);
    expect(Date.parse(second.spec.renewTime)).toBeGreaterThan(Date.parse(first.spec.renewTime));
  });
});

describe('the pods of this node', () => {
  it('nothing is concluded before the first list', async () => {
    await proxy.refuse();
    const watched = watchPods();
    const pod = { namespace: 'default', name: 'never', uid: '' };
    expect(watched.list()).toBeNull();
    expect(whyKeepPod(watched, pod)).toContain('not known: no list yet');
    await until('the failure', () => watched.trouble?.includes('ECONNREFUSED') === true);
    expect(watched.list()).toBeNull();
    await createPod(); // nothing is concluded from an empty node either
    await proxy.accept();
    await current(watched);
    expect(whyKeepPod(watched, pod)).toBeNull();
  });

  it('come and go with the watch; those of other nodes are not asked for', async () => {
    const watched = watchPods();
    await current(watched);
    const { name, uid } = await createPod();
    await until('the pod to be seen', () => sees(watched, name));
    expect(whyKeepPod(watched, { namespace: 'default', name, uid })).toBe(`pod default/${name} is there`);
    expect(whyKeepPod(watched, { namespace: 'default', name, uid: 'an earlier pod of this name' })).toBeNull();
    await plane.apply({
      apiVersion: 'v1',
      kind: 'Pod',
      metadata: { name: 'elsewhere', namespace: 'default' },
      spec: { nodeName: 'node2', containers: [{ name: 'c', image: 'vu.test/none:1' }] },
    });
    await deletePod(name);
    await until('the pod to be gone', () => !sees(watched, name));
    expect(sees(watched, 'elsewhere')).toBe(false);
    const asked = proxy.requests.filter((request) => request.includes('/api/v1/pods'));
    expect(asked.filter((request) => !request.includes('fieldSelector=spec.nodeName%3Dnode1'))).toEqual([]);
  });

  const faults: readonly (readonly [string, () => unknown])[] = [
    ['is reset', () => proxy.reset()],
    ['is ended', () => proxy.end()],
    ['goes silent', () => proxy.freeze({ all: false })],
    [
      'is refused for a second',
      async () => {
        await proxy.refuse();
        await new Promise((resolve) => setTimeout(resolve, 1_000));
        await proxy.accept();
      },
    ],
    ...[401, 403, 410, 429, 500, 503].map((code) => {
      const fault = async (): Promise<void> => {
        proxy.answer(code, 2, '/api/v1/pods', code === 429 ? { 'retry-after': '1' } : {});
        proxy.reset();
        await until('the answers to be given', () => proxy.answersLeft === 0, 30_000);
      };
      return [`is answered with ${code}, twice`, fault] as const;
    }),
    [
      'finds no token file for a while',
      async () => {
        const before = log.lines.length;
        renameSync(tokenPath, `${tokenPath}.away`);
        proxy.reset();
        await until('a failure', () => log.lines.length > before);
        renameSync(`${tokenPath}.away`, tokenPath);
      },
    ],
    [
      'loses the API server itself',
      async () => {
        await plane.stopApiServer();
        await plane.startApiServer();
      },
    ],
  ];
  it.each(faults)('a watch that %s goes on', async (_name, fault) => {
    const watched = watchPods();
    await current(watched);
    await watching(watched);
    await fault();
    const { name } = await createPod();
    await until('the new pod to be seen', () => sees(watched, name), 60_000);
    expect(watched.trouble).toBeNull();
    await deletePod(name);
    await until('the pod to be gone', () => !sees(watched, name), 60_000);
  });

  it('when everything goes silent, calls end by their deadline and all works again after', async () => {
    const watched = watchPods();
    const api = newApi();
    await current(watched);
    await watching(watched);
    proxy.freeze({ all: true });
    const error: unknown = await api.renewLease(namespace, 40).catch((thrown: unknown) => thrown);
    expect(apiFailure(error)).toMatchObject({ status: null, retryable: true });
    proxy.thaw();
    await api.renewLease(namespace, 40);
    const { name } = await createPod();
    await until('the new pod to be seen', () => sees(watched, name), 60_000);
  });

  it('a stopped watch leaves no connection and asks no more', async () => {
    const config = newConfig();
    const watched = new NodePods({ config, nodeName, log, backoffMs: [10, 20] });
    watched.start();
    await current(watched);
    await watched.stop();
    await config.closeConnections();
    await until('the connections to be gone', () => proxy.connections === 0);
    const asked = proxy.requests.length;
    await new Promise((resolve) => setTimeout(resolve, 300));
    expect(proxy.requests).toHaveLength(asked);
  });

  it('connections are kept, not made for every call', async () => {
    const api = newApi();
    const before = proxy.accepted;
    for (let call = 0; call < 20; call += 1) await api.renewLease(namespace, 40);
    expect(proxy.accepted - before).toBeLessThanOrEqual(2);
  });
});

describe('the session of an agent', () => {
  it('publishes, records, renews and knows the pods; after its end nothing is connected', async () => {
    const { name, uid } = await createPod();
    let state = 'running';
    const backend = async (): Promise<string> =>
      (await plane.tryKubectl('get', 'virtiousernode', nodeName, '-o', 'jsonpath={.status.backend}')).stdout;
    const credentials = { kind: 'kubeconfig', path: kubeconfig() } as const;
    const session = new KubernetesSession({ credentials, nodeName, view: () => view(state), log });
    const subject = { kind: 'Pod', namespace: 'default', name, uid } as const;
    session.record({ subject, reason: 'AttachmentReady', note: 'attached', type: 'Normal' });
    await until('the status', async () => (await backend()) === 'Connected', 20_000, 100);
    await until('the pods', () => session.whyKeepPod(subject)?.endsWith('is there') === true);
    state = 'held';
    session.touch();
    await until('the news', async () => (await backend()) === 'Disconnected', 20_000, 100);
    await until('the event', async () =>
      (await plane.kubectl('events', '--for', `pod/${name}`)).includes('AttachmentReady'),
    );
    await session.close();
    await until('the connections to be gone', () => proxy.connections === 0);
    expect(log.lines.filter(({ level }) => level !== 'info')).toEqual([]);
  });
});

describe('the agent as a process', () => {
  it('is ready without the API server, and seen in the cluster when that comes', async () => {
    process.env['KUBECONFIG'] = kubeconfig();
    cleanup.add('environment', () => delete process.env['KUBECONFIG']);
    await plane.kubectl('delete', 'virtiousernode', nodeName, '--ignore-not-found');
    await proxy.refuse();
    const extraArgs = ['--kubernetes=on', `--node-name=${nodeName}`];
    const agent = await Agent.start(join(directory, 'agent'), { extraArgs }, cleanup);
    await until('the failure', () => agent.log.includes('the node object is not written yet'));
    expect((await agent.get('/readyz'))?.ok).toBe(true);
    await proxy.accept();
    await until(
      'the object',
      async () => (await plane.tryKubectl('get', 'virtiousernode', nodeName)).code === 0,
      60_000,
    );
    const { status } = await nodeObject();
    expect(status.conditions.map((condition) => `${condition.type}=${condition.status}`)).toEqual([
      'Ready=True',
      'BackendConnected=True',
      'StateRestored=True',
      'Degraded=False',
    ]);
    const startedMs = performance.now();
    await agent.stop();
    expect(performance.now() - startedMs).toBeLessThan(8_000);
    expect(agent.log).toContain('"stopped"');
  });
});

describe('an agent that hangs while it takes up its records', () => {
  it('is told of as not ready, and as ready when it is', async () => {
    process.env['KUBECONFIG'] = kubeconfig();
    cleanup.add('environment', () => delete process.env['KUBECONFIG']);
    await newApi().applyNode(nodeStatus(view('running'), null, new Date())); // what a killed one leaves behind
    const records = join(directory, 'slow', 'attachments');
    mkdirSync(records, { recursive: true });
    const record = join(records, 'vu000000000001.json');
    await run('mkfifo', [record]); // a disk that does not answer
    const options = { stateDir: join(directory, 'slow'), extraArgs: ['--kubernetes=on', `--node-name=${nodeName}`] };
    const starting = Agent.start(join(directory, 'agent'), options, cleanup);
    const ready = async (): Promise<string> =>
      (await nodeObject()).status.conditions
        .filter(({ type }) => type === 'Ready')
        .map(({ status, reason, message }) => `${status} ${reason}: ${message}`)
        .join();
    await until('the news', async () => (await ready()).startsWith('False'), 15_000, 100);
    expect(await ready()).toMatch(/^False AgentNotReady: the agent waits for records-restored, /);
    writeFileSync(record, 'no record');
    const agent = await starting;
    await until('the start', async () => (await ready()) === 'True AgentReady: pods can be attached', 20_000, 100);
    const stateRestored = (await nodeObject()).status.conditions.find(({ type }) => type === 'StateRestored');
    expect(stateRestored).toMatchObject({ status: 'False', reason: 'StateCorrupt' });
    await agent.stop();
    expect(await ready()).toMatch(/^False AgentStopped: /);
  });
});

describe('what the service account may do', () => {
  const whole = readFileSync(join(deploy, 'rbac.yaml'), 'utf8');
  const restore = (): Promise<string> => {
    mkdirSync(directory, { recursive: true });
    writeFileSync(join(directory, 'rbac.yaml'), whole);
    return plane.kubectl('apply', '-f', join(directory, 'rbac.yaml'));
  };
  const uses: Readonly<Record<string, () => Promise<unknown>>> = {
    pods: async () => {
      const watched = new NodePods({ config: newConfig(), nodeName, log, backoffMs: [50, 100] });
      watched.start();
      try {
        await until('an answer', () => (watched.trouble === null ? true : watched.trouble !== 'no list yet'));
        if (watched.trouble !== null) throw new Error(watched.trouble);
      } finally {
        await watched.stop();
      }
    },
    nodes: () => readPodCidrs({ credentials: { kind: 'kubeconfig', path: kubeconfig() }, nodeName, waitMs: 0 }),
    'virtiousernodes/status': () => newApi().applyNode(nodeStatus(view('running'), null, new Date())),
    virtiousernodes: () => newApi('fresh').applyNode(nodeStatus(view('running'), null, new Date())),
    events: () =>
      newApi().createEvent({
        namespace: 'default',
        name: `node1.${Date.now()}`,
        type: 'Normal',
        reason: 'OrphanRemoved',
        action: 'Attach',
        note: '',
        regarding: { apiVersion: 'v1', kind: 'Node', name: nodeName, uid: nodeName },
      }),
    leases: () => newApi().renewLease(namespace, 40),
  };

  it.each(Object.keys(uses))('%s is used, and refused when its rule is taken away', async (resource) => {
    const use = uses[resource];
    if (use === undefined) throw new Error(resource);
    const role =
      resource === 'leases' ? ['role', 'virtio-user-agent', '-n', namespace] : ['clusterrole', 'virtio-user-agent'];
    const { rules } = await get<{ readonly rules: readonly { readonly resources: readonly string[] }[] }>(...role);
    const index = rules.findIndex(({ resources }) => resources.includes(resource));
    expect(index).toBeGreaterThanOrEqual(0);
    cleanup.add('roles', restore);
    await plane.kubectl(
      'patch',
      ...role,
      '--type=json',
      '-p',
      JSON.stringify([{ op: 'remove', path: `/rules/${index}` }]),
    );
    await until('the refusal', async () => {
      const failure: unknown = await use().then(
        () => null,
        (error: unknown) => error,
      );
      return failure !== null && /forbidden/i.test(apiFailure(failure).reason);
    });
    await restore();
    await until('the permission', () =>
      use().then(
        () => true,
        () => false,
      ),
    );
    await plane.kubectl('delete', 'virtiousernode', 'fresh', '--ignore-not-found');
  });
});

describe('after etcd was restored from a backup', () => {
  it('the pods are those of the API server, and a live one is not taken for gone', async () => {
    const backup = await plane.backUpEtcd();
    const watched = watchPods();
    await current(watched);
    const filler = Array.from({ length: 500 }, (_, index) => ({
      apiVersion: 'v1',
      kind: 'ConfigMap',
      metadata: { name: `filler-${index}`, namespace: 'default' },
    }));
    await plane.apply(...filler); // versions that the restored etcd does not reach soon
    const { name: lost } = await createPod();
    await until('the pod to be seen', () => sees(watched, lost));
    await plane.restoreEtcd(backup);
    const { name, uid } = await createPod();
    const whyKept = (): string | null => whyKeepPod(watched, { namespace: 'default', name, uid });
    await until('the new pod to be kept', () => whyKept() === `pod default/${name} is there`, 30_000);
    expect(sees(watched, lost)).toBe(false);
    expect(watched.trouble).toBeNull();
  });
});
