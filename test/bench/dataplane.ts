/** (a) Pod ⇄ pod traffic, rows interleaved round by round, with and without userspace TSO in the switch. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { Agent } from '../support/agent.ts';
import { Cleanup } from '../support/cleanup.ts';
import { type Ovs, pollingCore } from '../support/ovs.ts';
import { CoreDistance } from './core-distance.ts';
import { bridge, startNode } from './node.ts';
import { internalPath, kernelBridgePath, ourPath } from './paths.ts';
import { place, type Placement } from './placement.ts';
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

async function measureRound(
  path: Path,
  options: DataplaneOptions,
  distance: CoreDistance,
  samples: Samples,
): Promise<void> {
  const near = <T>(measure: () => Promise<T>): Promise<T> =>
    distance.whileNear(measure, (apart) =>
      samples.add(path.row, 'measured with the cores apart, 0 or 1', apart ? 1 : 0),
    );
  const drops = async (): Promise<number> => (await path.switchDrops?.()) ?? 0;
  for (const [streams, name] of [
    [1, 'TCP 1 stream'],
    [4, 'TCP 4 streams'],
  ] as const) {
    const { gbits, retransmits, dropped } = await near(async () => {
      const before = await drops();
      const result = await tcp(path, streams, options.tcpSeconds);
      return { ...result, dropped: (await drops()) - before };
    });
    samples.add(path.row, `${name}, Gbit/s`, gbits);
    if (streams === 1) samples.add(path.row, `${name}, retransmits`, retransmits);
    if (path.switchDrops !== null) samples.add(path.row, `${name}, frames dropped by the switch`, dropped);
  }
  if (options.tcpOnly) return;
  samples.add(path.row, 'UDP 64 B, kpps received', await near(() => smallUdp(path, options.shortSeconds)));
  const { p50Us, p99Us } = await near(() => pingPong(path, options.shortSeconds));
  samples.add(path.row, 'ping-pong p50, us', p50Us);
  samples.add(path.row, 'ping-pong p99, us', p99Us);
}

/** Congestion control of the pods: what the host has. */
export const congestionControl = (): string => readFileSync('/proc/sys/net/ipv4/tcp_congestion_control', 'utf8').trim();

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
    const distance = await CoreDistance.between(0, pollingCore, directory);
    await place(options.placement);
    cleanup.add('placement', () => place('shared'));
    const { ovs, agent } = await startNode(directory, tso, cleanup);
    const paths = await makePaths(ovs, agent, cleanup);
    for (const path of paths) await serve(path, directory, cleanup);
    for (let round = 1; round <= options.rounds; round++) {
      for (const path of paths) {
        if (!ovs.alive) throw new Error(`ovs-vswitchd ended by itself:\n${ovs.log}`);
        await measureRound(path, options, distance, samples);
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
