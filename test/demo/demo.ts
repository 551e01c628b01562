/**
 * `npm run demo`: two ordinary pods on vhost-user ports of a real OVS-DPDK, made by real CNI calls; the switch and then
 * the agent are killed under a running TCP connection, which finishes intact; nothing is left behind.
 */
import { mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { Agent } from '../support/agent.ts';
import { Cleanup } from '../support/cleanup.ts';
import { Netns } from '../support/netns.ts';
import { Ovs } from '../support/ovs.ts';
import { Ping } from '../support/ping.ts';
import { until } from '../support/process.ts';
import { hostLocal, newContainerId } from '../support/runtime.ts';
import { snapshotDifference, takeSnapshot } from '../support/snapshot.ts';
import { TcpTransfer } from '../support/tcp-transfer.ts';

const bridge = 'br-vu-demo';
const startedMs = performance.now();
const cleanup = new Cleanup();
cleanup.onSignals();

function clock(): string {
  return `${((performance.now() - startedMs) / 1000).toFixed(1).padStart(6)} s`;
}

function say(text: string): void {
  process.stdout.write(`${clock()}  ${text}\n`);
}

/** Runs one step, prints how long it took and what came out; a dot per second shows that it is alive. */
async function step<T>(title: string, work: () => Promise<T>, outcome: (value: T) => string): Promise<T> {
  process.stdout.write(`${clock()}  ${title} `);
  const stepMs = performance.now();
  const heartbeat = setInterval(() => process.stdout.write('.'), 1000);
  try {
    const value = await work();
    process.stdout.write(`\n              ${outcome(value)} (${Math.round(performance.now() - stepMs)} ms)\n`);
    return value;
  } finally {
    clearInterval(heartbeat);
  }
}

function expect(condition: boolean, what: string): void {
  if (!condition) throw new Error(`expected ${what}`);
}

async function demo(): Promise<void> {
  const directory = mkdtempSync('/run/vu-demo-');
  cleanup.add('directory', () => rmSync(directory, { recursive: true, force: true }));
  const pristine = await takeSnapshot({ ovs: null, bridge, directories: {}, ignore: /^$/ });

  const ovs = await step(
    'start OVS-DPDK (own database, own sockets, userspace TSO)',
    () => Ovs.start(join(directory, 'ovs'), { tso: true }, cleanup),
    (started) => `ovs-vswitchd is pid ${started.switchPid}`,
  );
  await ovs.addBridge(bridge);
  const agent = await step(
    'start the node agent',
    () => Agent.start(join(directory, 'agent'), { ovsdb: ovs.databaseRemote }, cleanup),
    (started) => `pid ${started.pid}, health and metrics on http://${started.metricsAddress}`,
  );

  const scope = {
    ovs,
    bridge,
    directories: {
      sockets: join(agent.runDir, 'vhost'),
      records: agent.stateDir,
      leases: join(directory, 'ipam'),
    },
    ignore: /\/(lock|last_reserved_ip\.\d+)$/,
  };
  const before = await takeSnapshot(scope);

  const netconf = {
    cniVersion: '1.0.0',
    name: 'dpdk-net',
    type: 'virtio-user',
    ovs: { bridge },
    ipam: hostLocal(directory, ['10.77.0.0/24', 'fd77::/64']),
  };
  const runtime = agent.runtime;
  const pods: { netns: Netns; call: { containerId: string; netnsPath: string; podName: string }; address: string }[] =
    [];
  for (const name of ['one', 'two']) {
    const netns = await Netns.create(`vu-demo-${name}`, cleanup);
    const call = { containerId: newContainerId(), netnsPath: netns.path, podName: name };
    const result = await step(
      `CNI ADD for pod ${name}`,
      () => runtime.add(netconf, call),
      (added) => `${added.interfaces[0]?.mac} ${added.ips?.map((ip) => ip.address).join(' ')}`,
    );
    cleanup.add(`pod ${name}`, () => runtime.del(netconf, call));
    pods.push({ netns, call, address: (result.ips?.[0]?.address ?? '').split('/')[0] ?? '' });
  }
  const [one, two] = pods;
  if (one === undefined || two === undefined) throw new Error('two pods were added');

  for (const { netns } of pods) await netns.waitForCarrier();
  await step(
    'ping from pod one to pod two',
    () => one.netns.run('ping', '-n', '-c', '20', '-i', '0.05', '-W', '5', two.address),
    (text) => text.trim().split('\n').slice(-2).join('; '),
  );

  const server = two.netns.daemon('iperf3', join(directory, 'iperf3.log'), 'iperf3', '-s');
  cleanup.add('iperf3', () => server.stop('SIGKILL'));
  await until('iperf3', async () => (await two.netns.run('ss', '-Hlnt')).includes(':5201'));
  await step(
    'TCP throughput, one stream, 4 seconds',
    async () => {
      const text = await one.netns.run('iperf3', '-J', '-c', two.address, '-t', '4', '--connect-timeout', '5000');
      return (JSON.parse(text) as { end: { sum_received: { bits_per_second: number } } }).end.sum_received
        .bits_per_second;
    },
    (bits) => `${(bits / 1e9).toFixed(2)} Gbit/s`,
  );
  await server.stop('SIGKILL');

  const load = { mebibytes: 480, mebibytesPerSecond: 60 };
  for (const victim of ['the switch', 'the agent'] as const) {
    const port = victim === 'the switch' ? 7001 : 7002;
    const transfer = await TcpTransfer.start(one.netns, two.netns, two.address, { port, ...load }, directory, cleanup);
    say(`a TCP transfer of ${load.mebibytes} MiB runs: ${transfer.tuple}`);
    const ping = Ping.start(one.netns, two.address, 10, directory, cleanup);
    await new Promise((resolve) => setTimeout(resolve, 2000));
    await step(
      `SIGKILL ${victim}, start it again`,
      async () => {
        if (victim === 'the switch') {
          await ovs.killSwitch();
          await ovs.startSwitch();
          return ovs.switchPid;
        }
        await agent.kill();
        await agent.start();
        return agent.pid;
      },
      (pid) => `new pid ${pid}`,
    );
    const ends = await step(
      'wait for the transfer to finish',
      () => transfer.finish(60_000),
      ({ sent, received }) =>
        `sent ${sent.bytes} bytes ${sent.sha256.slice(0, 16)}…, received ${received.bytes} bytes ${received.sha256.slice(0, 16)}…`,
    );
    const gap = await ping.stop();
    expect(ovs.alive, `ovs-vswitchd to be alive; its log ends with\n${ovs.log}`);
    expect(ends.sent.sha256 === ends.received.sha256, 'equal hashes on both ends');
    expect(ends.received.tuple.replaceAll('::ffff:', '') === ends.sent.tuple, 'one connection on both ends');
    say(`same connection, equal hashes; longest silence for a ping every 10 ms: ${Math.round(gap.longestGapMs)} ms`);
  }

  for (const { netns, call } of pods) {
    await step(
      `CNI DEL for ${netns.name}`,
      () => runtime.del(netconf, call),
      () => 'done',
    );
    await netns.delete();
  }
  const left = snapshotDifference(before, await takeSnapshot(scope));
  expect(left.length === 0, `nothing left behind, found ${left.join(', ')}`);
  say('ports, leases, sockets, records, links and namespaces before and after: no difference');

  const failures = await cleanup.run();
  expect(failures.length === 0, `a clean end, got ${failures.join('; ')}`);
  const strays = snapshotDifference(pristine, await takeSnapshot({ ovs: null, bridge, directories: {}, ignore: /^$/ }));
  expect(strays.length === 0, `the machine as it was, found ${strays.join(', ')}`);
  say('done');
}

try {
  await demo();
} catch (error) {
  process.stdout.write(`\n`);
  say(`FAILED: ${error instanceof Error ? error.message : String(error)}`);
  for (const failure of await cleanup.run()) say(`while cleaning up: ${failure}`);
  process.exitCode = 1;
}
