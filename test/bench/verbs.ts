/** (b) Latency of ADD and DEL, one by one and 32 at a time, against the `bridge` plugin with the same host-local. */
import { join } from 'node:path';
import type { Agent } from '../support/agent.ts';
import { Cleanup } from '../support/cleanup.ts';
import { Netns } from '../support/netns.ts';
import { pollingCore } from '../support/ovs.ts';
import { runAny, until } from '../support/process.ts';
import { hostLocal, type Netconf, newContainerId, type PodCall, Runtime } from '../support/runtime.ts';
import { threadCores } from '../support/thread-cores.ts';
import type { Table } from './dataplane.ts';
import { bridge, startNode } from './node.ts';
import { Samples } from './statistics.ts';

interface Contender {
  readonly row: string;
  readonly runtime: Runtime;
  readonly netconf: Netconf;
}

async function timed(contender: Contender, verb: 'ADD' | 'DEL', call: PodCall): Promise<number> {
  const outcome = await contender.runtime.call(verb, contender.netconf, call);
  if (!outcome.ok) throw new Error(`${contender.row} ${verb}: ${outcome.error.msg}`);
  return outcome.durationMs;
}

/** A pod that stays: without a port the switch has no polling thread, which shares the cores with every row. */
async function keepPolling(netconf: Netconf, agent: Agent, cleanup: Cleanup): Promise<void> {
  const { runtime } = agent;
  const netns = await Netns.create('vu-bench-stays', cleanup);
  const call: PodCall = { containerId: newContainerId(), netnsPath: netns.path };
  await runtime.add(netconf, call);
  cleanup.add('pod that stays', () => runtime.del(netconf, call));
  await netns.waitForCarrier();
  await until('the agent to keep off it', () =>
    threadCores(agent.pid).some(({ cores }) => !cores.includes(pollingCore)),
  );
}

export async function benchVerbs(
  directory: string,
  rounds: number,
  batches: number,
  say: (text: string) => void,
): Promise<Table> {
  const cleanup = new Cleanup();
  cleanup.onSignals();
  const samples = new Samples();
  try {
    const { agent } = await startNode(directory, true, cleanup);
    const common = (name: string, subnet: string): Netconf => ({
      cniVersion: '1.0.0',
      name,
      ipam: hostLocal(join(directory, name), [subnet]),
    });
    cleanup.add('plugin bridge', () => runAny('ip', ['link', 'del', 'vu-bench-cni']));
    const contenders: readonly Contender[] = [
      {
        row: 'bridge plugin',
        runtime: new Runtime({}, '/usr/lib/cni/bridge'),
        netconf: { ...common('bench-bridge', '10.81.0.0/16'), type: 'bridge', bridge: 'vu-bench-cni' },
      },
      {
        row: 'virtio-user, path',
        runtime: agent.runtime,
        netconf: { ...common('bench-path', '10.82.0.0/16'), type: 'virtio-user' },
      },
      {
        row: 'virtio-user, ovs',
        runtime: agent.runtime,
        netconf: { ...common('bench-ovs', '10.83.0.0/16'), type: 'virtio-user', ovs: { bridge } },
      },
    ];
    const netconf = { ...common('bench-stays', '10.84.0.0/16'), type: 'virtio-user', ovs: { bridge } };
    await keepPolling(netconf, agent, cleanup);
    const namespaces: Netns[] = [];
    for (let index = 0; index < 32; index++) namespaces.push(await Netns.create(`vu-bench-v${index}`, cleanup));
    const callFor = (netns: Netns): PodCall => ({ containerId: newContainerId(), netnsPath: netns.path });

    for (let round = 0; round < rounds + 2; round++) {
      const netns = namespaces[round % namespaces.length];
      if (netns === undefined) throw new Error('namespaces were created');
      for (const contender of contenders) {
        const call = callFor(netns);
        const add = await timed(contender, 'ADD', call);
        const del = await timed(contender, 'DEL', call);
        if (round < 2) continue; // warm-up: first use of binaries, code and bridge
        samples.add(contender.row, 'ADD one by one, ms', add);
        samples.add(contender.row, 'DEL one by one, ms', del);
      }
    }
    say(`verbs: ${rounds} rounds one by one`);
    for (let batch = 0; batch < batches; batch++) {
      for (const contender of contenders) {
        const calls = namespaces.map(callFor);
        for (const verb of ['ADD', 'DEL'] as const) {
          const times = await Promise.all(calls.map((call) => timed(contender, verb, call)));
          for (const time of times) samples.add(contender.row, `${verb} 32 at a time, ms`, time);
        }
      }
    }
    say(`verbs: ${batches} batches of 32`);
    return samples.summary();
  } finally {
    for (const failure of await cleanup.run()) say(`clean-up: ${failure}`);
  }
}
