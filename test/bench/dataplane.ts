/** (a) Pod ⇄ pod traffic, rows interleaved round by round, with and without userspace TSO in the switch. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Agent } from '../support/agent.ts';
import { Cleanup } from '../support/cleanup.ts';
import type { Ovs } from '../support/ovs.ts';
import { run } from '../support/process.ts';
import { bridge, startNode } from './node.ts';
import { internalPath, kernelBridgePath, ourPath } from './paths.ts';
import { place, type Placement, pollingCore } from './placement.ts';
import { Samples, type Summary } from './statistics.ts';
import { type Path, pingPong, serve, smallUdp, tcp } from './traffic.ts';

export interface DataplaneOptions {
  readonly rounds: number;
  readonly tcpSeconds: number;
  readonly shortSeconds: number;
  /** Small packets and latency do not depend on segmentation offloads. */
  readonly tcpOnly: boolean;
  readonly placement: Placement;
}

export type Table = Readonly<Record<string, Readonly<Record<string, Summary>>>>;

async function measureRound(path: Path, options: DataplaneOptions, samples: Samples): Promise<void> {
  const dropsBefore = (await path.switchDrops?.()) ?? 0;
  const one = await tcp(path, 1, options.tcpSeconds);
  samples.add(path.row, 'TCP 1 stream, Gbit/s', one.gbits);
  samples.add(path.row, 'TCP 1 stream, retransmits', one.retransmits);
  if (path.switchDrops !== null) {
    samples.add(path.row, 'TCP 1 stream, frames dropped by the switch', (await path.switchDrops()) - dropsBefore);
  }
  const dropsBetween = (await path.switchDrops?.()) ?? 0;
  const four = await tcp(path, 4, options.tcpSeconds);
  samples.add(path.row, 'TCP 4 streams, Gbit/s', four.gbits);
  if (path.switchDrops !== null) {
    samples.add(path.row, 'TCP 4 streams, frames dropped by the switch', (await path.switchDrops()) - dropsBetween);
  }
  if (options.tcpOnly) return;
  samples.add(path.row, 'UDP 64 B, kpps received', await smallUdp(path, options.shortSeconds));
  const { p50Us, p99Us } = await pingPong(path, options.shortSeconds);
  samples.add(path.row, 'ping-pong p50, us', p50Us);
  samples.add(path.row, 'ping-pong p99, us', p99Us);
}

/** Congestion control of the pods: what the host has. */
export const congestionControl = (): string => readFileSync('/proc/sys/net/ipv4/tcp_congestion_control', 'utf8').trim();

/** Nanoseconds that a line of cache takes from core 0 to the polling thread's and back, asked anew at each call. */
async function coreDistance(directory: string): Promise<() => Promise<number>> {
  const probe = join(directory, 'core_distance');
  await run('gcc', ['-O2', '-pthread', '-o', probe, fileURLToPath(new URL('./core_distance.c', import.meta.url))]);
  return async () => Number(await run(probe, ['0', String(pollingCore)]));
}

/** Rows on one node, interleaved round by round. */
async function compare(
  what: string,
  tso: boolean,
  directory: string,
  options: DataplaneOptions,
  say: (text: string) => void,
  makePaths: (ovs: Ovs, agent: Agent, cleanup: Cleanup) => Promise<readonly Path[]>,
): Promise<Table> {
  const cleanup = new Cleanup();
  cleanup.onSignals();
  const samples = new Samples();
  try {
    const distanceNs = await coreDistance(directory);
    await place(options.placement);
    cleanup.add('placement', () => place('shared'));
    const { ovs, agent } = await startNode(directory, tso, cleanup);
    const paths = await makePaths(ovs, agent, cleanup);
    for (const path of paths) await serve(path, directory, cleanup);
    for (let round = 1; round <= options.rounds; round++) {
      for (const path of paths) {
        if (!ovs.alive) throw new Error(`ovs-vswitchd ended by itself:\n${ovs.log}`);
        samples.add(path.row, 'line of cache between the cores and back, ns', await distanceNs());
        await measureRound(path, options, samples);
      }
      say(`${what}: round ${round} of ${options.rounds}`);
    }
    return samples.summary();
  } finally {
    for (const failure of await cleanup.run()) say(`clean-up: ${failure}`);
  }
}

/** Our own rows against each other: kinds of ring, and queue pairs, with userspace TSO. */
export function benchRings(directory: string, options: DataplaneOptions, say: (text: string) => void): Promise<Table> {
  const devices = [
    ['split, 1 pair', 'sp', {}],
    ['packed, 1 pair', 'pk', { packedVq: true }],
    ['split, any order, 1 pair', 'ao', { inOrder: false }],
    ['split, 2 pairs', 's2', { queues: 2 }],
    ['packed, 2 pairs', 'p2', { packedVq: true, queues: 2 }],
  ] as const;
  return compare('rings', true, directory, options, say, async (ovs, agent, cleanup) => {
    const paths: Path[] = [];
    for (const [index, [row, tag, device]] of devices.entries()) {
      const subnet = `10.${81 + index}.0.0/24`;
      paths.push(await ourPath(`virtio-user, ${row}`, tag, subnet, agent, ovs, bridge, directory, cleanup, device));
    }
    return paths;
  });
}

export function benchDataplane(
  tso: boolean,
  directory: string,
  options: DataplaneOptions,
  say: (text: string) => void,
): Promise<Table> {
  const what = `dataplane, userspace TSO ${tso ? 'on' : 'off'}, polling core ${options.placement}`;
  return compare(what, tso, directory, options, say, async (ovs, agent, cleanup) => {
    const our = (row: string, tag: string, subnet: string, by: Agent): Promise<Path> =>
      ourPath(row, tag, subnet, by, ovs, bridge, directory, cleanup);
    const paths = [
      await kernelBridgePath(cleanup),
      await internalPath(ovs, bridge, cleanup),
      await our('virtio-user', 'vu', '10.77.0.0/24', agent),
    ];
    if (tso) return paths;
    const plain = await Agent.start(
      join(directory, 'plain'),
      { ovsdb: ovs.databaseRemote, extraArgs: ['--software-offloads=false'] },
      cleanup,
    );
    return [...paths, await our('virtio-user, software offloads off', 'pl', '10.78.0.0/24', plain)];
  });
}
