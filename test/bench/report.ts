/** From the figures: the table of ratios with gate and aim, and the charts. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { barChart, type Panel } from './chart.ts';
import type { Table } from './dataplane.ts';
import type { ExecutableResult } from './executable.ts';
import type { ScaleResult } from './scale.ts';

interface Ratio {
  readonly what: string;
  readonly value: number;
  /** null: told, not judged. */
  readonly gate: number | null;
  readonly aim: number | null;
  /** Whether larger is better. */
  readonly larger: boolean;
}

function median(table: Table, row: string, metric: string): number {
  return table[row]?.[metric]?.median ?? Number.NaN;
}

const tcp1 = 'TCP 1 stream, Gbit/s';
const tcp4 = 'TCP 4 streams, Gbit/s';

function dataplaneRatios(withTso: Table | undefined, without: Table | undefined): Ratio[] {
  const ratios: Ratio[] = [];
  const ours = 'virtio-user';
  const internal = 'OVS internal ports';
  if (withTso !== undefined) {
    const against = (row: string, metric: string): number =>
      median(withTso, ours, metric) / median(withTso, row, metric);
    ratios.push(
      {
        what: 'TCP 1 stream, TSO / kernel bridge',
        value: against('kernel bridge', tcp1),
        gate: 0.65,
        aim: 0.85,
        larger: true,
      },
      { what: 'TCP 1 stream, TSO / OVS internal', value: against(internal, tcp1), gate: 1.05, aim: 1.25, larger: true },
      { what: 'TCP 4 streams, TSO / OVS internal', value: against(internal, tcp4), gate: 0.9, aim: 1.1, larger: true },
      {
        what: 'frames dropped by the switch, TCP 1, TSO',
        value: median(withTso, ours, 'TCP 1 stream, frames dropped by the switch'),
        gate: 0,
        aim: 0,
        larger: false,
      },
      {
        what: 'frames dropped by the switch, TCP 4, TSO (aim only)',
        value: median(withTso, ours, 'TCP 4 streams, frames dropped by the switch'),
        gate: Number.POSITIVE_INFINITY,
        aim: 0,
        larger: false,
      },
      {
        what: '64-byte UDP received / kernel bridge',
        value: against('kernel bridge', 'UDP 64 B, kpps received'),
        gate: 1.1,
        aim: 1.4,
        larger: true,
      },
      {
        what: 'ping-pong p50 / OVS internal',
        value: against(internal, 'ping-pong p50, us'),
        gate: 0.6,
        aim: 0.4,
        larger: false,
      },
      {
        what: 'ping-pong p99 / OVS internal',
        value: against(internal, 'ping-pong p99, us'),
        gate: 0.5,
        aim: 0.3,
        larger: false,
      },
    );
  }
  if (without !== undefined) {
    const against = (row: string): number => median(without, row, tcp1) / median(without, internal, tcp1);
    ratios.push(
      { what: 'TCP 1 stream, no TSO / OVS internal', value: against(ours), gate: 4.5, aim: 6, larger: true },
      {
        what: 'the same without software GSO and GRO / OVS internal',
        value: against('virtio-user, software offloads off'),
        gate: 1.1,
        aim: 1.25,
        larger: true,
      },
    );
  }
  return ratios;
}

/** Nothing to reach: what a kind of ring costs, for those who choose one. */
function ringRatios(table: Table | undefined): Ratio[] {
  if (table === undefined) return [];
  return [
    ['packed, 1 pair', 'split, 1 pair'],
    ['split, any order, 1 pair', 'split, 1 pair'],
    ['split, 2 pairs', 'split, 1 pair'],
    ['packed, 2 pairs', 'split, 2 pairs'],
  ].flatMap(([row, base]) =>
    [tcp1, tcp4, 'UDP 64 B, kpps received'].map((metric) => ({
      what: `${metric.split(',')[0] ?? ''}: ${row} / ${base}`,
      value: median(table, `virtio-user, ${row}`, metric) / median(table, `virtio-user, ${base}`, metric),
      gate: null,
      aim: null,
      larger: true,
    })),
  );
}

function verbRatios(table: Table | undefined): Ratio[] {
  if (table === undefined) return [];
  const against = (row: string, metric: string): number =>
    median(table, row, metric) / median(table, 'bridge plugin', metric);
  return [
    {
      what: 'ADD p50, path / bridge plugin',
      value: against('virtio-user, path', 'ADD one by one, ms'),
      gate: 0.7,
      aim: 0.5,
      larger: false,
    },
    {
      what: 'DEL p50, path / bridge plugin',
      value: against('virtio-user, path', 'DEL one by one, ms'),
      gate: 0.5,
      aim: 0.3,
      larger: false,
    },
    {
      what: 'ADD p50, ovs / bridge plugin',
      value: against('virtio-user, ovs', 'ADD one by one, ms'),
      gate: 1,
      aim: 0.7,
      larger: false,
    },
  ];
}

function scaleRatios(scale: ScaleResult | undefined): Ratio[] {
  const last = scale?.points[scale.points.length - 1];
  if (scale === undefined || last === undefined) return [];
  return [
    {
      what: 'private memory per idle attachment, MB',
      value: scale.privatePerAttachmentMb,
      gate: 0.1,
      aim: 0.05,
      larger: false,
    },
    { what: '250 idle: CPU, % of a core', value: last.idleCpuPercent, gate: 1, aim: 0.3, larger: false },
    { what: '250 idle: resident, MB', value: last.residentMb, gate: 180, aim: 120, larger: false },
    { what: '250 at once: failures', value: scale.burst.failures, gate: 0, aim: 0, larger: false },
    {
      what: '250 at once: seconds until all have carrier',
      value: scale.burst.allCarrierSeconds,
      gate: 10,
      aim: 4,
      larger: false,
    },
  ];
}

function executableRatios(executable: ExecutableResult | undefined): Ratio[] {
  if (executable === undefined) return [];
  return [
    {
      what: 'VERSION beyond a process that does nothing, ms',
      value: executable.beyondMs,
      gate: 1.5,
      aim: 0.5,
      larger: false,
    },
    { what: 'VERSION resident, MB', value: executable.residentMb, gate: 1, aim: 0.5, larger: false },
  ];
}

function print(title: string, table: Table | undefined): void {
  if (table === undefined) return;
  process.stdout.write(`\n${title}\n`);
  for (const [row, metrics] of Object.entries(table)) {
    for (const [metric, summary] of Object.entries(metrics)) {
      const { median: middle, min, max, runs } = summary;
      process.stdout.write(
        `  ${row.padEnd(36)} ${metric.padEnd(46)} ${middle.toFixed(2).padStart(10)}  (${min.toFixed(2)}-${max.toFixed(2)}, n=${runs})\n`,
      );
    }
  }
}

function panels(table: Table, metrics: readonly string[]): Panel[] {
  return metrics.map((metric) => ({
    title: metric,
    bars: Object.entries(table).flatMap(([row, values]) => {
      const summary = values[metric];
      return summary === undefined ? [] : [{ label: row, summary, ours: row.startsWith('virtio-user') }];
    }),
  }));
}

export function writeReport(
  results: Readonly<Record<string, unknown>>,
  chartDirectory: string | null,
): { readonly failedGates: number } {
  const withTso = results['dataplane-tso'] as Table | undefined;
  const own = results['dataplane-own'] as Table | undefined;
  const without = results['dataplane'] as Table | undefined;
  const rings = results['rings'] as Table | undefined;
  const verbs = results['verbs'] as Table | undefined;
  print('pod ⇄ pod, userspace TSO on', withTso);
  print('pod ⇄ pod, userspace TSO on, nobody else on the polling core', own);
  print('pod ⇄ pod, userspace TSO off', without);
  print('kinds of ring and queue pairs, userspace TSO on', rings);
  print('ADD and DEL', verbs);
  for (const name of ['scale', 'executable']) {
    if (results[name] !== undefined) process.stdout.write(`\n${name}\n${JSON.stringify(results[name], null, 2)}\n`);
  }
  const ratios = [
    ...dataplaneRatios(withTso, without),
    ...dataplaneRatios(own, undefined).map((ratio) => ({ ...ratio, what: `polling core left alone: ${ratio.what}` })),
    ...ringRatios(rings),
    ...verbRatios(verbs),
    ...scaleRatios(results['scale'] as ScaleResult | undefined),
    ...executableRatios(results['executable'] as ExecutableResult | undefined),
  ];
  process.stdout.write(
    `\n${'ratio or figure'.padEnd(80)}${'value'.padStart(10)}${'gate'.padStart(8)}${'aim'.padStart(8)}\n`,
  );
  let failedGates = 0;
  for (const { what, value, gate, aim, larger } of ratios) {
    process.stdout.write(`${what.padEnd(80)}${value.toFixed(3).padStart(10)}`);
    if (gate === null || aim === null) {
      process.stdout.write('\n');
      continue;
    }
    const meets = (limit: number): boolean => (larger ? value >= limit : value <= limit);
    if (!meets(gate)) failedGates += 1;
    const verdict = meets(aim) ? 'aim' : meets(gate) ? 'ok' : 'MISSED';
    process.stdout.write(`${String(gate).padStart(8)}${String(aim).padStart(8)}  ${verdict}\n`);
  }
  if (chartDirectory !== null) {
    mkdirSync(chartDirectory, { recursive: true });
    const write = (name: string, title: string, table: Table | undefined, metrics: readonly string[]): void => {
      if (table !== undefined) writeFileSync(join(chartDirectory, name), barChart(title, panels(table, metrics)));
    };
    write('throughput-tso.svg', 'Pod to pod through OVS-DPDK, userspace TSO on', withTso, [
      tcp1,
      tcp4,
      'UDP 64 B, kpps received',
    ]);
    write('latency.svg', 'Ping-pong round trip, 64-byte UDP (less is better)', withTso, [
      'ping-pong p50, us',
      'ping-pong p99, us',
    ]);
    write('throughput-no-tso.svg', 'Pod to pod through OVS-DPDK, userspace TSO off', without, [tcp1, tcp4]);
    write('verbs.svg', 'CNI ADD and DEL (less is better)', verbs, [
      'ADD one by one, ms',
      'DEL one by one, ms',
      'ADD 32 at a time, ms',
      'DEL 32 at a time, ms',
    ]);
  }
  return { failedGates };
}
