/**
 * What an admin lives through with this product, on a real cluster: two nodes, one with Debian's containerd 1.6 and one
 * with containerd 2, each with an OVS-DPDK of its own. The chapters share the cluster and follow from each other.
 */
import { cpSync, existsSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import ipaddr from 'ipaddr.js';
import { Cleanup } from '../support/cleanup.ts';
import { reserveHugepages } from '../support/hugepages.ts';
import { run, until } from '../support/process.ts';
import { TcpTransfer } from '../support/tcp-transfer.ts';
import { chart, deploy, helm, namespace, root } from '../deploy/support/manifests.ts';
import { ControlPlane } from './support/control-plane.ts';
import { agentImage, agentImageName, busyboxImage, pauseImage } from './support/image.ts';
import { Node } from './support/node.ts';
import type { PodNamespace } from './support/pod-namespace.ts';
import { Switch, switchMemoryMiB } from './support/switch.ts';

const { version } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { readonly version: string };
const nextVersion = `${version}-next`;
const executable = '/opt/cni/bin/virtio-user';
const conflist = '/etc/cni/net.d/10-virtio-user.conflist';
const seccompProfile = '/var/lib/kubelet/seccomp/virtio-user.json';
const agents = 'daemonset/virtio-user-agent';

interface Member {
  readonly node: Node;
  readonly vswitch: Switch;
  readonly podCidr: string;
}

interface Running {
  readonly name: string;
  readonly uid: string;
  readonly address: string;
  readonly namespace: PodNamespace;
}

const cleanup = new Cleanup();
let directory: string;
let plane: ControlPlane;
let members: readonly Member[];

function member(index: 0 | 1): Member {
  const found = members[index];
  if (found === undefined) throw new Error(`there is no node ${index}`);
  return found;
}

/** A chapter needs the ones before it: after a failure the others do not wait in vain. */
let broken: string | null = null;
function chapter(name: string, tell: () => Promise<void>, timeoutMs: number): void {
  it(
    name,
    async () => {
      if (broken !== null) {
        const untold = new Error(`not told, as this went wrong: ${broken}`);
        delete untold.stack;
        throw untold;
      }
      broken = name;
      try {
        await tell();
      } catch (error) {
        await explain();
        throw error;
      }
      broken = null;
    },
    timeoutMs,
  );
}

const logsKept = join(root, 'build/test/story');

/** What an admin would look at, on stderr; logs are kept. */
async function explain(): Promise<void> {
  cpSync(directory, logsKept, {
    recursive: true,
    filter: (path) =>
      !/\/(etcd|root\/var\/lib|root\/opt|containers|[a-z]+-root)$/.test(path) &&
      (path.endsWith('.log') || statSync(path, { throwIfNoEntry: false })?.isDirectory() === true),
  });
  const looks = [
    ['get', 'pods', '-A', '-o', 'wide'],
    ['get', 'virtiousernodes', '-o', 'wide'],
    ['get', 'events', '-A', '--sort-by=.lastTimestamp'],
    ['logs', '-n', namespace, agents, '--all-containers', '--all-pods', '--prefix', '--tail=25'],
  ];
  for (const look of looks) {
    const { stdout, stderr } = await plane.tryKubectl(...look);
    process.stderr.write(`\n$ kubectl ${look.join(' ')}\n${stdout.split('\n').slice(-60).join('\n')}${stderr}`);
  }
}

const kubectl = (...args: string[]): Promise<string> => plane.kubectl(...args);

async function read<T>(...args: string[]): Promise<T> {
  return JSON.parse(await kubectl('get', '-o', 'json', ...args)) as T;
}

beforeAll(async () => {
  rmSync(logsKept, { recursive: true, force: true });
  directory = mkdtempSync('/var/tmp/vu-story-');
  cleanup.add('directory', () => rmSync(directory, { recursive: true, force: true }));
  const images = [await pauseImage(directory), await busyboxImage(directory), await agentImage(directory, version)];
  plane = await ControlPlane.start(join(directory, 'plane'), ['node1', 'node2'], cleanup);
  const nodes = [
    new Node('node1', 1, join(directory, 'node1'), '1.6', plane),
    new Node('node2', 2, join(directory, 'node2'), '2.1', plane),
  ];
  reserveHugepages(nodes.length * switchMemoryMiB, cleanup);
  members = await Promise.all(
    nodes.map(async (node): Promise<Member> => {
      await node.start(images, cleanup);
      await node.ctr('images', 'tag', `${agentImageName}:${version}`, `${agentImageName}:${nextVersion}`);
      const vswitch = await Switch.start(node, cleanup);
      const podCidr = await until(
        `a subnet for ${node.name}`,
        async () => (await plane.tryKubectl('get', 'node', node.name, '-o', 'jsonpath={.spec.podCIDR}')).stdout || null,
        60_000,
        200,
      );
      return { node, vswitch, podCidr };
    }),
  );
  for (const { node, vswitch, podCidr } of members) {
    const others = members.filter((other) => other.node !== node);
    const routes = Object.fromEntries(others.map((other) => [other.podCidr, other.node.address]));
    await vswitch.route({ gateway: podCidr.replace(/\.0\//, '.1/'), routes });
  }
}, 180_000);

afterAll(async () => {
  expect(await cleanup.run()).toEqual([]);
}, 120_000);

/** A pod of busybox on this node. */
function podManifest(name: string, nodeName: string): object {
  return {
    apiVersion: 'v1',
    kind: 'Pod',
    metadata: { name, namespace: 'default' },
    spec: {
      nodeName,
      terminationGracePeriodSeconds: 0,
      automountServiceAccountToken: false,
      containers: [{ name: 'main', image: 'vu.test/busybox:1', imagePullPolicy: 'Never' }],
    },
  };
}

interface PodObject {
  readonly metadata: { readonly name: string; readonly uid: string };
  readonly spec: { readonly nodeName: string };
  readonly status: {
    readonly podIP?: string;
    readonly containerStatuses?: readonly { readonly containerID?: string; readonly restartCount: number }[];
  };
}

async function running(name: string): Promise<Running> {
  await kubectl('wait', '--for=condition=Ready', `pod/${name}`, '--timeout=60s');
  const { metadata, spec, status } = await read<PodObject>('pod', name);
  const host = members.find(({ node }) => node.name === spec.nodeName);
  if (host === undefined) throw new Error(`${name} runs nowhere`);
  return {
    name,
    uid: metadata.uid,
    address: status.podIP ?? '',
    namespace: host.node.podNamespace(name, metadata.uid),
  };
}

async function expectPing(from: Running, to: Running): Promise<void> {
  await until(
    `${from.name} to reach ${to.name}`,
    async () => (await from.namespace.runAny('ping', ['-c1', '-W1', to.address])).code === 0,
    20_000,
  );
}

let nextPort = 7_000;
/** One connection, on which bytes move until its end is asked for. */
function transfer(from: Running, to: Running): Promise<TcpTransfer> {
  const load = { port: nextPort++, mebibytes: 10_000, mebibytesPerSecond: 2 };
  return TcpTransfer.start(from.namespace, to.namespace, to.address, load, directory, cleanup);
}

/** It is still there, and has carried every byte. */
async function expectWhole(moving: TcpTransfer, timeoutMs = 60_000): Promise<void> {
  moving.end();
  const { sent, received } = await moving.finish(timeoutMs);
  expect([received.bytes, received.sha256]).toEqual([sent.bytes, sent.sha256]);
  expect(sent.bytes).toBeGreaterThan(0);
}

/** All that the product keeps for pods on a node. */
interface Inventory {
  readonly ports: number;
  readonly records: number;
  readonly sockets: number;
  readonly leases: number;
  readonly namespaces: number;
}

const each = (count: number): Inventory => ({
  ports: count,
  records: count,
  sockets: count,
  leases: count,
  namespaces: count,
});

async function inventory({ node, vswitch }: Member): Promise<Inventory> {
  const list = async (path: string): Promise<string[]> =>
    (await node.execAny('ls', [path])).stdout.split('\n').filter((line) => line !== '');
  return {
    ports: (await vswitch.ports()).length,
    records: (await list('/var/lib/virtio-user/attachments')).filter((name) => name.endsWith('.json')).length,
    sockets: (await list('/run/virtio-user/vhost')).length,
    leases: (await list('/var/lib/cni/networks/dpdk-net')).filter((name) => ipaddr.isValid(name)).length,
    namespaces: (await list('/run/netns')).length,
  };
}

/** Not before it is so: kubelet and the runtime take their time. */
async function expectInventory(of: Member, count: number, timeoutMs = 30_000): Promise<void> {
  let last: Inventory | null = null;
  await until(
    `${count} pods on ${of.node.name}`,
    async () => JSON.stringify((last = await inventory(of))) === JSON.stringify(each(count)),
    timeoutMs,
    200,
  ).catch(() => undefined);
  expect(last).toEqual(each(count));
}

interface Condition {
  readonly type: string;
  readonly status: string;
}

async function condition(nodeName: string, type: string): Promise<string | undefined> {
  const { stdout, code } = await plane.tryKubectl('get', 'virtiousernode', nodeName, '-o', 'json');
  if (code !== 0) return undefined;
  const { status } = JSON.parse(stdout) as { readonly status?: { readonly conditions?: readonly Condition[] } };
  return status?.conditions?.find((one) => one.type === type)?.status;
}

const expectCondition = (nodeName: string, type: string, wanted: string): Promise<unknown> =>
  until(`${type}=${wanted} of ${nodeName}`, async () => (await condition(nodeName, type)) === wanted, 60_000, 200);

const expectAttachments = (nodeName: string, count: number): Promise<unknown> =>
  until(
    `${nodeName} to tell of ${count} attachments`,
    async () =>
      (await kubectl('get', 'virtiousernode', nodeName, '-o', 'jsonpath={.status.attachments}')) === `${count}`,
    // kubelet may wait a minute before it looks for new pods again, after the API server was away.
    120_000,
    200,
  );

const eventsOf = (pod: string): Promise<string> => kubectl('events', '--for', `pod/${pod}`);

async function expectNodes(ready: 'True' | 'False'): Promise<void> {
  for (const { node } of members)
    await kubectl('wait', `--for=condition=Ready=${ready}`, `node/${node.name}`, '--timeout=110s');
}

/** Of all that install and agents put on a node. */
async function expectNothingLeft(node: Node): Promise<void> {
  const paths = [executable, conflist, seccompProfile, '/var/lib/virtio-user', '/run/virtio-user'];
  expect((await node.execAny('ls', ['-d', ...paths])).stdout).toBe('');
}

/** Whether kubelet takes the node for ready, and since when. */
async function nodeReady(node: Node): Promise<{ readonly status: string; readonly since: string }> {
  const { status } = await read<{
    readonly status: { readonly conditions: readonly (Condition & { readonly lastTransitionTime: string })[] };
  }>('node', node.name);
  const ready = status.conditions.find(({ type }) => type === 'Ready');
  return { status: ready?.status ?? '', since: ready?.lastTransitionTime ?? '' };
}

async function agentPods(): Promise<readonly PodObject[]> {
  const { items } = await read<{ readonly items: readonly PodObject[] }>(
    ...['pods', '-n', namespace, '-l', 'app.kubernetes.io/component=agent'],
  );
  return items;
}

describe('the story of a cluster', () => {
  chapter(
    'nodes without a network get one by kubectl apply -k deploy/',
    async () => {
      await expectNodes('False');
      await kubectl('apply', '-k', deploy);
      await kubectl('-n', namespace, 'rollout', 'status', agents, '--timeout=90s');
      await expectNodes('True');
      for (const { node, podCidr } of members) {
        await expectCondition(node.name, 'Ready', 'True');
        await kubectl('-n', namespace, 'get', 'lease', `virtio-user-${node.name}`);
        expect(readFileSync(node.hostPath(conflist), 'utf8')).toContain(`"subnet": "${podCidr}"`);
      }
      expect(members[0]?.podCidr).not.toBe(members[1]?.podCidr);
    },
    180_000,
  );

  const names = ['one', 'two', 'three', 'four'] as const;
  let pods: Record<(typeof names)[number], Running>;
  const findPods = async (): Promise<void> => {
    const found = await Promise.all(names.map(running));
    pods = Object.fromEntries(found.map((pod) => [pod.name, pod])) as typeof pods;
  };

  chapter(
    'pods of both nodes run with addresses of their node, and reach each other by ping and TCP',
    async () => {
      await plane.apply(...names.map((name, index) => podManifest(name, index < 2 ? 'node1' : 'node2')));
      await findPods();
      for (const [index, name] of names.entries()) {
        const { podCidr } = member(index < 2 ? 0 : 1);
        expect(ipaddr.parse(pods[name].address).match(ipaddr.parseCIDR(podCidr))).toBe(true);
      }
      await expectInventory(member(0), 2);
      await expectInventory(member(1), 2);
      await expectPing(pods.one, pods.two);
      await expectPing(pods.three, pods.four);
      await expectPing(pods.one, pods.four);
      expect(await pods.one.namespace.run('ip', '-d', 'link', 'show', 'eth0')).toContain('tun type tap');
      const transfers = [await transfer(pods.one, pods.two), await transfer(pods.three, pods.one)];
      await Promise.all(transfers.map((moving) => expectWhole(moving)));
      await until('the event', async () => (await eventsOf('one')).includes('AttachmentReady'), 20_000, 200);
    },
    120_000,
  );

  chapter(
    'kubectl shows the nodes, and the agent finds nothing wrong with its own',
    async () => {
      const rows = async (): Promise<string[][]> =>
        (await kubectl('get', 'virtiousernodes', '--no-headers'))
          .trim()
          .split('\n')
          .map((row) => row.split(/\s+/).slice(0, 6));
      const wanted = members.map(({ node }) => [node.name, 'True', 'Connected', '2', '0', version]);
      await until('the table', async () => JSON.stringify(await rows()) === JSON.stringify(wanted), 30_000, 500).catch(
        () => undefined,
      );
      expect(await rows()).toEqual(wanted);
      for (const { metadata, spec } of await agentPods()) {
        const list = await kubectl(
          '-n',
          namespace,
          'exec',
          metadata.name,
          '--',
          'virtio-user-cni',
          'attachments',
          'list',
        );
        expect(list.match(/running/g)).toHaveLength(2);
        const { stdout, code } = await plane.tryKubectl(
          '-n',
          namespace,
          'exec',
          metadata.name,
          '--',
          'virtio-user-cni',
          'doctor',
        );
        expect({ node: spec.nodeName, code, stdout }).toMatchObject({ code: 0 });
      }
    },
    60_000,
  );

  chapter(
    'the switch is killed and returns: seen in conditions and events, and its TCP connections go on',
    async () => {
      const { node, vswitch } = member(0);
      await expectCondition(node.name, 'BackendConnected', 'True');
      const moving = await transfer(pods.one, pods.two);
      await vswitch.kill();
      await expectCondition(node.name, 'BackendConnected', 'False');
      expect(await condition('node2', 'BackendConnected')).toBe('True');
      await vswitch.run();
      await expectCondition(node.name, 'BackendConnected', 'True');
      await expectWhole(moving);
      await until(
        'the events',
        async () => {
          const events = await eventsOf('one');
          return events.includes('BackendDisconnected') && /BackendReconnected.* ms/.test(events);
        },
        20_000,
        200,
      );
      await expectPing(pods.one, pods.four);
    },
    120_000,
  );

  chapter(
    'the agent is deleted, then upgraded to another image: TCP connections go on',
    async () => {
      const moving = await Promise.all([transfer(pods.one, pods.two), transfer(pods.three, pods.four)]);
      const images = (): Promise<string> =>
        kubectl('-n', namespace, 'get', 'pods', '-o', 'jsonpath={.items[*].spec.containers[*].image}');
      const before = await Promise.all(members.map(({ node }) => nodeReady(node)));
      await kubectl('-n', namespace, 'delete', 'pods', '-l', 'app.kubernetes.io/component=agent');
      await kubectl('-n', namespace, 'rollout', 'status', agents, '--timeout=60s');
      await kubectl('-n', namespace, 'set', 'image', agents, `*=virtio-user-cni:${nextVersion}`);
      await kubectl('-n', namespace, 'rollout', 'status', agents, '--timeout=90s');
      await until(
        'the new image everywhere',
        async () => (await images()) === Array(2).fill(`virtio-user-cni:${nextVersion}`).join(' '),
        30_000,
        200,
      );
      await Promise.all(moving.map((one) => expectWhole(one)));
      await expectPing(pods.four, pods.one);
      for (const { node } of members) await expectCondition(node.name, 'Ready', 'True');
      // With their times: no node was NotReady in between.
      expect(await Promise.all(members.map(({ node }) => nodeReady(node)))).toEqual(before);
    },
    240_000,
  );

  chapter(
    'an agent that stays away: a runtime with STATUS says that the network is down, until the agent is back',
    async () => {
      for (const { node } of members) expect(await node.networkReady()).toBe(true);
      const [{ node: first }, { node: second }] = [member(0), member(1)];
      const move = (selector: object): Promise<string> =>
        kubectl(
          ...['-n', namespace, 'patch', agents, '--type=merge', '-p'],
          JSON.stringify({ spec: { template: { spec: { nodeSelector: selector } } } }),
        );
      await move({ 'vu.test/nowhere': 'true' });
      await until('both agents to be gone', async () => (await agentPods()).length === 0, 60_000, 200);
      await until('the network to be down', async () => !(await second.networkReady()), 30_000, 500);
      await kubectl('wait', '--for=condition=Ready=False', `node/${second.name}`, '--timeout=60s');
      expect(await first.networkReady()).toBe(true);
      expect((await nodeReady(first)).status).toBe('True');
      await move({ 'vu.test/nowhere': null });
      await kubectl('-n', namespace, 'rollout', 'status', agents, '--timeout=60s');
      await until('the network to be up', () => second.networkReady(), 30_000, 500);
      await expectNodes('True');
      await findPods();
      await expectPing(pods.one, pods.four);
    },
    180_000,
  );

  chapter(
    'a deleted pod leaves nothing on its node',
    async () => {
      for (const [name, where] of [
        ['two', member(0)],
        ['four', member(1)],
      ] as const) {
        await kubectl('delete', 'pod', name, '--wait=true');
        await expectInventory(where, 1);
        await plane.apply(podManifest(name, where.node.name));
      }
      await findPods();
      await expectPing(pods.one, pods.two);
      await expectPing(pods.three, pods.four);
    },
    120_000,
  );

  const crowd = (nodeName: string, replicas: number): object => ({
    apiVersion: 'apps/v1',
    kind: 'Deployment',
    metadata: { name: `crowd-${nodeName}`, namespace: 'default' },
    spec: {
      replicas,
      selector: { matchLabels: { crowd: nodeName } },
      template: {
        metadata: { labels: { crowd: nodeName } },
        spec: {
          nodeSelector: { 'kubernetes.io/hostname': nodeName },
          terminationGracePeriodSeconds: 0,
          automountServiceAccountToken: false,
          containers: [{ name: 'main', image: 'vu.test/busybox:1', imagePullPolicy: 'Never' }],
        },
      },
    },
  });

  chapter(
    '60 pods come to a node in one go, each with an address of its own, and go again',
    async () => {
      for (const { node, podCidr } of members) {
        const where = member(node.name === 'node1' ? 0 : 1);
        await plane.apply(crowd(node.name, 60));
        await kubectl('rollout', 'status', `deployment/crowd-${node.name}`, '--timeout=120s');
        await expectInventory(where, 62);
        const { items } = await read<{ readonly items: readonly PodObject[] }>('pods', '-l', `crowd=${node.name}`);
        const addresses = items.map(({ status }) => status.podIP ?? '');
        expect(new Set(addresses).size).toBe(60);
        for (const address of addresses) expect(ipaddr.parse(address).match(ipaddr.parseCIDR(podCidr))).toBe(true);
        await expectAttachments(node.name, 62);
        const gateway = podCidr.replace(/0\/24$/, '1');
        for (const { metadata } of items) {
          await until(
            `${metadata.name} to reach its gateway`,
            async () =>
              (await node.podNamespace(metadata.name, metadata.uid).runAny('ping', ['-c1', '-W1', gateway])).code === 0,
            20_000,
          );
        }
        await kubectl('delete', `deployment/crowd-${node.name}`, '--wait=true');
        await expectInventory(where, 2, 90_000);
      }
    },
    360_000,
  );

  chapter(
    'after a power failure of every node pods come back, and nothing of before is left',
    async () => {
      const before = await Promise.all(names.map((name) => read<PodObject>('pod', name)));
      await Promise.all(
        members.map(async ({ node, vswitch }) => {
          await node.powerOff();
          await node.boot();
          await vswitch.boot();
        }),
      );
      await kubectl('-n', namespace, 'rollout', 'status', agents, '--timeout=120s');
      for (const { node } of members) {
        // The cluster takes the agents of before for running until kubelet says otherwise.
        const made = async (): Promise<boolean> =>
          (await node.execAny('test', ['-S', '/run/virtio-user/agent.sock'])).code === 0;
        await until(`an agent on ${node.name}`, made, 90_000, 200);
      }
      for (const where of members) await expectInventory(where, 2, 90_000);
      await findPods();
      for (const [index, name] of names.entries()) expect(pods[name].uid).toBe(before[index]?.metadata.uid);
      await expectPing(pods.one, pods.two);
      await expectPing(pods.three, pods.four);
      await expectPing(pods.two, pods.three);
      for (const { node } of members) await expectAttachments(node.name, 2);
    },
    300_000,
  );

  chapter(
    'pods come and go while the API server is away, with an agent that started without it too',
    async () => {
      // Of a container that ended once before, also by a power failure, kubelet lets the next end cost twenty seconds.
      await kubectl('-n', namespace, 'delete', 'pods', '-l', 'app.kubernetes.io/component=agent');
      await kubectl('-n', namespace, 'rollout', 'status', agents, '--timeout=60s');
      const ids = new Map(
        (await agentPods()).map(({ spec, status }) => [
          spec.nodeName,
          status.containerStatuses?.[0]?.containerID?.replace('containerd://', '') ?? '',
        ]),
      );
      await plane.stopApiServer();
      const moving = await transfer(pods.one, pods.two);
      await member(0).node.ctr('task', 'kill', '--signal=SIGKILL', ids.get('node1') ?? '');
      await Promise.all(
        members.map(async (where) => {
          const { node } = where;
          node.setStaticPod('alone', podManifest('alone', node.name));
          await expectInventory(where, 3, 90_000);
          node.setStaticPod('alone', null);
          await expectInventory(where, 2, 60_000);
        }),
      );
      await expectPing(pods.one, pods.four);
      await expectWhole(moving);
      await plane.startApiServer();
      await expectNodes('True');
      // Written by these agents, not by those of before.
      await plane.apply(podManifest('news-1', 'node1'), podManifest('news-2', 'node2'));
      for (const { node } of members) await expectAttachments(node.name, 3);
      await kubectl('delete', 'pods', 'news-1', 'news-2', '--wait=true');
      for (const { node } of members) await expectAttachments(node.name, 2);
    },
    300_000,
  );

  const uninstalled = (): Promise<string> =>
    kubectl('-n', namespace, 'rollout', 'status', 'daemonset/virtio-user-uninstall', '--timeout=60s');
  const uninstaller = join(deploy, 'uninstall');

  chapter(
    'uninstalling refuses while pods are attached, then leaves nothing',
    async () => {
      const logs = await kubectl('-n', namespace, 'logs', agents, '-c', 'agent', '--all-pods', '--tail=-1');
      expect(logs.split('\n').filter((line) => line.includes('"level":"error"'))).toEqual([]);
      await kubectl('-n', namespace, 'delete', agents);
      await kubectl('apply', '-k', uninstaller);
      await until(
        'the refusal on both nodes',
        async () => {
          const { stdout } = await plane.tryKubectl(
            ...[
              '-n',
              namespace,
              'logs',
              'daemonset/virtio-user-uninstall',
              '-c',
              'uninstall',
              '--all-pods',
              '--prefix',
            ],
          );
          return stdout.split('\n').filter((line) => line.includes('2 pod interfaces are attached')).length >= 2;
        },
        60_000,
        500,
      );
      for (const { node } of members)
        for (const path of [executable, conflist]) expect(existsSync(node.hostPath(path))).toBe(true);
      await kubectl('delete', '-k', uninstaller);

      await kubectl('apply', '-k', deploy);
      await kubectl('-n', namespace, 'rollout', 'status', agents, '--timeout=90s');
      await kubectl('delete', 'pods', ...names, '--wait=true');
      for (const where of members) await expectInventory(where, 0);
      await kubectl('-n', namespace, 'delete', agents, '--cascade=foreground', '--wait=true');
      await kubectl('apply', '-k', uninstaller);
      await uninstalled();
      for (const { node } of members) await expectNothingLeft(node);
      await kubectl('delete', '-k', uninstaller);
      await kubectl('delete', '-k', deploy, '--ignore-not-found', '--wait=true');
      const kinds = 'namespaces,customresourcedefinitions,clusterroles,clusterrolebindings,validatingadmissionpolicies';
      expect(await kubectl('get', kinds, '-l', 'app.kubernetes.io/part-of=virtio-user-cni', '-o', 'name')).toBe('');
      await expectNodes('False');
    },
    300_000,
  );

  chapter(
    'the Helm chart gives them the network again, and its release ends without a rest',
    async () => {
      const release = (...args: string[]): Promise<string> =>
        run(helm, [...args, '--namespace', namespace, `--kubeconfig=${plane.kubeconfig('admin')}`], {
          timeoutMs: 120_000,
        });
      await kubectl('create', 'namespace', namespace);
      await kubectl('label', 'namespace', namespace, 'pod-security.kubernetes.io/enforce=privileged');
      await release(
        'install',
        'virtio-user-cni',
        chart,
        '--set',
        'securityProfile=restricted',
        '--wait',
        '--timeout=90s',
      );
      await expectNodes('True');
      await plane.apply(podManifest('one', 'node1'), podManifest('two', 'node2'));
      const [one, two] = [await running('one'), await running('two')];
      await expectPing(one, two);
      for (const { node } of members) await expectCondition(node.name, 'Ready', 'True');
      await kubectl('delete', 'pods', 'one', 'two', '--wait=true');
      for (const where of members) await expectInventory(where, 0);
      await release('uninstall', 'virtio-user-cni', '--wait', '--timeout=60s');
      for (const { node } of members) expect(existsSync(node.hostPath(seccompProfile))).toBe(true);
      await kubectl('apply', '-k', uninstaller);
      await uninstalled();
      for (const { node } of members) await expectNothingLeft(node);
      await kubectl('delete', '-k', uninstaller);
    },
    300_000,
  );
});
