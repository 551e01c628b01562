/** Traffic between two namespaces: iperf3 for TCP and small UDP, sockperf for ping-pong. Loads are bounded in time. */
import { join } from 'node:path';
import type { Cleanup } from '../support/cleanup.ts';
import type { Netns } from '../support/netns.ts';
import { type Daemon, until } from '../support/process.ts';

/** Client and server end of one row of the comparison. */
export interface Path {
  readonly row: string;
  readonly client: Netns;
  readonly server: Netns;
  /** IPv4 of the server. */
  readonly address: string;
  /** Frames dropped by the switch for want of buffers on this path so far, or null where there is no such thing. */
  readonly switchDrops: (() => Promise<number>) | null;
}

const iperfPort = 5201;
const sockperfPort = 11111;

/** Starts the servers of a path once. */
export async function serve(path: Path, logDirectory: string, cleanup: Cleanup): Promise<void> {
  const start = (name: string, ...command: [string, ...string[]]): Daemon => {
    const daemon = path.server.daemon(
      name,
      join(logDirectory, `${path.row.replaceAll(/\W/g, '-')}-${name}.log`),
      ...command,
    );
    cleanup.add(name, () => daemon.stop('SIGKILL'));
    return daemon;
  };
  start('iperf3', 'iperf3', '-s', '-p', String(iperfPort));
  start('sockperf', 'sockperf', 'server', '-i', path.address, '-p', String(sockperfPort));
  await until(
    `servers of ${path.row}`,
    async () => {
      const sockets = await path.server.run('ss', '-Hlntu');
      return sockets.includes(`:${iperfPort}`) && sockets.includes(`:${sockperfPort}`);
    },
    5_000,
  );
  await path.client.run('ping', '-n', '-c', '3', '-i', '0.2', '-W', '5', path.address);
}

interface IperfEnd {
  readonly end: {
    readonly sum_received?: { readonly bits_per_second: number };
    readonly sum_sent?: { readonly retransmits?: number };
    readonly sum?: { readonly packets: number; readonly lost_packets: number; readonly seconds: number };
  };
}

async function iperf(path: Path, ...args: string[]): Promise<IperfEnd> {
  const text = await path.client.run(
    'iperf3',
    '-J',
    '-c',
    path.address,
    '-p',
    String(iperfPort),
    '--connect-timeout',
    '5000',
    ...args,
  );
  return JSON.parse(text) as IperfEnd;
}

/** Gbit/s received. */
export async function tcp(
  path: Path,
  streams: number,
  seconds: number,
): Promise<{ gbits: number; retransmits: number }> {
  const { end } = await iperf(path, '-P', String(streams), '-t', String(seconds));
  return { gbits: (end.sum_received?.bits_per_second ?? 0) / 1e9, retransmits: end.sum_sent?.retransmits ?? 0 };
}

/** Thousands of 64-byte frames received per second, sender unlimited. */
export async function smallUdp(path: Path, seconds: number): Promise<number> {
  const { end } = await iperf(path, '-u', '-l', '18', '-b', '0', '-t', String(seconds));
  if (end.sum === undefined) throw new Error(`iperf3 gave no UDP sum on ${path.row}`);
  return (end.sum.packets - end.sum.lost_packets) / end.sum.seconds / 1000;
}

/** Round-trip time of 64-byte UDP ping-pong, microseconds. */
export async function pingPong(path: Path, seconds: number): Promise<{ p50Us: number; p99Us: number }> {
  const text = await path.client.run(
    'sockperf',
    'ping-pong',
    '-i',
    path.address,
    '-p',
    String(sockperfPort),
    '-m',
    '64',
    '-t',
    String(seconds),
    '--full-rtt',
  );
  const percentile = (q: string): number => {
    const match = new RegExp(`percentile ${q}\\s*=\\s*([\\d.]+)`).exec(text);
    if (match === null) throw new Error(`sockperf gave no percentile ${q} on ${path.row}: ${text.slice(-400)}`);
    return Number(match[1]);
  };
  return { p50Us: percentile('50\\.000'), p99Us: percentile('99\\.000') };
}
