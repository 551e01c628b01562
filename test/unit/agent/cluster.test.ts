import { describe, expect, it } from '@jest/globals';
import { Cluster, findCredentials } from '../../../src/agent/cluster.ts';
import { listenForNews } from '../../../src/agent/cluster-news.ts';
import type { News } from '../../../src/kubernetes/event-recorder.ts';
import type { NodeView } from '../../../src/kubernetes/node-object.ts';
import { whyKeepPod, type PodSummary } from '../../../src/kubernetes/node-pods.ts';
import { type AttachmentIdentity, publish } from '../../../src/telemetry/channels.ts';
import { ManualTimers } from '../../support/manual-timers.ts';
import { until } from '../../support/process.ts';
import { RecordingLogger } from '../../support/recording-logger.ts';

const readyView = (): NodeView => ({
  agentVersion: '1',
  ready: true,
  readyReason: '',
  restored: true,
  attachments: [],
  corruptRecords: 0,
});
const inPod = { KUBERNETES_SERVICE_HOST: '10.96.0.1' };
const attachment: AttachmentIdentity = {
  id: 'vu000000000001',
  networkName: 'net',
  containerId: 'container-1',
  ifName: 'eth0',
  pod: { namespace: 'ns', name: 'web-0', uid: 'uid-0' },
};

describe('whether the Kubernetes API is used', () => {
  it.each([
    ['off', { ...inPod, KUBECONFIG: '/etc/kubeconfig' }, true, null],
    ['auto', {}, true, null],
    ['auto', inPod, false, null],
    ['auto', inPod, true, { kind: 'in-cluster' }],
    ['on', inPod, true, { kind: 'in-cluster' }],
    ['auto', { ...inPod, KUBECONFIG: '/etc/kubeconfig' }, true, { kind: 'kubeconfig', path: '/etc/kubeconfig' }],
  ] as const)('%s with %j, token file: %s', (mode, environment, token, credentials) => {
    expect(findCredentials(mode, environment, () => token)).toEqual(credentials);
  });

  it.each([
    [{}, 'KUBERNETES_SERVICE_HOST is not set'],
    [inPod, 'there is no /var/run/secrets/'],
  ])('on with %j and no token is an error', (environment, told) => {
    expect(() => findCredentials('on', environment, () => false)).toThrow(told);
  });
});

describe('when the cluster is told of an agent', () => {
  /** Without a kubeconfig that can be read the client says at once that it was opened. */
  function cluster(): { readonly link: Cluster; readonly log: RecordingLogger; readonly opened: () => boolean } {
    const log = new RecordingLogger();
    const link = new Cluster({
      nodeName: 'node1',
      view: () => ({
        agentVersion: '1',
        ready: false,
        readyReason: '',
        restored: false,
        attachments: [],
        corruptRecords: 0,
      }),
      log,
      credentials: { kind: 'kubeconfig', path: '/nonexistent/kubeconfig' },
    });
    return { link, log, opened: () => log.messages.some((message) => message.includes('its client cannot start')) };
  }

  it('when it has started, once', async () => {
    const { link, log, opened } = cluster();
    const clock = new ManualTimers();
    await link.openAfter(Promise.resolve(), clock);
    await until('the client', opened);
    expect(clock.pending).toEqual([]);
    expect(log.lines).toHaveLength(1);
    await link.close();
  });

  it('after eight seconds at the latest: one that hangs in its start is not ready', async () => {
    const { link, log, opened } = cluster();
    const clock = new ManualTimers();
    const started = Promise.withResolvers<void>();
    const openAfter = link.openAfter(started.promise, clock);
    clock.advance(7_999);
    expect(log.lines).toEqual([]);
    clock.advance(1);
    await until('the client', opened);
    expect(log.messages[0]).toContain('slow to start');
    started.resolve();
    await openAfter;
    await link.close();
    expect(log.lines).toHaveLength(2);
  });

  it('never, when it does not start', async () => {
    const { link, log } = cluster();
    const clock = new ManualTimers();
    await expect(link.openAfter(Promise.reject(new Error('no socket')), clock)).rejects.toThrow('no socket');
    expect(clock.pending).toEqual([]);
    expect(log.lines).toEqual([]);
    await link.close();
  });
});

describe('what the cluster is told', () => {
  function heard(tell: () => void): { readonly news: readonly News[]; readonly touches: number } {
    const news: News[] = [];
    let touches = 0;
    const stop = listenForNews({ nodeName: 'node1', tell: (one) => news.push(one), touch: () => (touches += 1) });
    try {
      tell();
    } finally {
      stop();
    }
    return { news, touches };
  }

  it('an attachment that is ready is news to its pod; one that was taken up again is not', () => {
    const { news, touches } = heard(() => {
      publish('attachmentReady', { attachment, restored: false });
      publish('attachmentReady', { attachment, restored: true });
    });
    expect(news).toMatchObject([
      {
        reason: 'AttachmentReady',
        type: 'Normal',
        subject: { kind: 'Pod', namespace: 'ns', name: 'web-0', uid: 'uid-0' },
      },
    ]);
    expect(touches).toBe(2);
  });

  it('an outage is told with its reason, then with its length', () => {
    const { news } = heard(() => {
      publish('backendDisconnected', { attachment, reason: 'hang-up' });
      publish('backendReconnected', { attachment, outageMs: 1234.5, features: 0n });
    });
    expect(news).toMatchObject([
      { reason: 'BackendDisconnected', type: 'Warning', note: expect.stringContaining('hang-up') },
      { reason: 'BackendReconnected', type: 'Normal', note: expect.stringContaining('after 1235 ms') },
    ]);
  });

  it('a feature that is missing is a warning when the attachment stands still for it', () => {
    const { news } = heard(() => {
      publish('featureMismatch', { attachment, parked: true, missing: ['VIRTIO_F_VERSION_1'] });
      publish('featureMismatch', { attachment, parked: false, missing: ['VIRTIO_NET_F_CSUM'] });
    });
    expect(news.map(({ reason, type }) => `${reason} ${type}`)).toEqual([
      'FeatureMismatch Warning',
      'FeatureMismatch Normal',
    ]);
    expect(news[0]?.note).toContain('VIRTIO_F_VERSION_1');
  });

  it('orphans and records that cannot be read are news of the node, as is what has no pod', () => {
    const { news } = heard(() => {
      publish('orphanRemoved', { kind: 'ovs-port', id: 'vu1', reason: 'no attachment has this port' });
      publish('stateCorrupt', { id: 'vu2', path: '/var/lib/x.bad', reason: 'not JSON' });
      publish('backendDisconnected', { attachment: { ...attachment, pod: null }, reason: 'hang-up' });
    });
    expect(news.map(({ reason, subject }) => `${reason} ${subject.kind} ${subject.name}`)).toEqual([
      'OrphanRemoved Node node1',
      'StateCorrupt Node node1',
      'BackendDisconnected Node node1',
    ]);
    expect(news[1]?.note).toContain('/var/lib/x.bad');
  });
});

describe('why an orphan is kept', () => {
  const pod = { namespace: 'ns', name: 'web-0', uid: 'uid-0' };
  const listed = (change: Partial<PodSummary> = {}): Pick<Parameters<typeof whyKeepPod>[0], 'list' | 'trouble'> => ({
    list: () => [{ ...pod, staticUid: '', ended: false, ...change }],
    trouble: null,
  });

  it.each([
    ['its pod is there', {}, 'pod ns/web-0 is there'],
    ['its pod is a static one', { uid: 'mirror', staticUid: 'uid-0' }, 'pod ns/web-0 is there'],
    ['its pod has ended', { ended: true }, null],
    ['another pod has its name', { uid: 'uid-1' }, null],
    ['its pod is in another namespace', { namespace: 'other' }, null],
  ])('%s', (_case, change, why) => {
    expect(whyKeepPod(listed(change), pod)).toBe(why);
  });

  it('its namespace was never recorded, so that it cannot be found', () => {
    expect(whyKeepPod(listed(), { ...pod, namespace: '' })).toContain('namespace of pod web-0 is not known');
  });

  it('the node has no pods at all, as one of a wrong name has none', () => {
    expect(whyKeepPod({ list: () => [], trouble: null }, pod)).toContain('no pod of this node');
  });

  it('nobody can say', () => {
    const unknown = { list: () => null, trouble: 'HTTP 403' };
    expect(whyKeepPod(unknown, pod)).toBe('the pods of this node are not known: HTTP 403');
  });

  it('without the Kubernetes API nothing is kept; with it, everything until it has answered', async () => {
    const parts = {
      nodeName: 'node1',
      view: readyView,
      log: new RecordingLogger(),
    };
    const without = new Cluster({ ...parts, credentials: null });
    expect(without.whyKeepPod(pod)).toBeNull();
    const starting = new Cluster({ ...parts, credentials: { kind: 'in-cluster' } });
    expect(starting.whyKeepPod(pod)).toContain('not known yet');
    expect(without.whyKeepPod(null)).toBeNull();
    expect(starting.whyKeepPod(null)).toContain('names no pod');
    await Promise.all([without.close(), starting.close()]);
  });

  it('a kubeconfig that cannot be read costs the use of the API, not the agent', async () => {
    const log = new RecordingLogger();
    const path = '/nonexistent/kubeconfig';
    const cluster = new Cluster({
      nodeName: 'node1',
      view: readyView,
      log,
      credentials: { kind: 'kubeconfig', path },
    });
    await cluster.open();
    expect(log.lines).toMatchObject([{ level: 'error', message: expect.stringContaining('its client cannot start') }]);
    expect(cluster.whyKeepPod({ namespace: 'ns', name: 'web-0', uid: '' })).not.toBeNull();
    await cluster.close();
  });
});
