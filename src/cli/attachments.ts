/** `attachments list|show|reconnect|set-queues`: what the agent holds, and what can be changed while it runs. */
import type { AttachmentReport } from '../agent/introspect.ts';
import { AgentClient, runDirOf } from './agent-client.ts';
import { type Command, integerArgument, print, textArgument } from './command.ts';
import { exitCode } from './exit-code.ts';
import { type Column, renderFields, renderTable } from './output.ts';

const columns: readonly Column<AttachmentReport>[] = [
  { title: 'id', value: ({ id }) => id },
  { title: 'pod', value: podOf },
  { title: 'interface', value: ({ key }) => key.ifName },
  { title: 'network', value: ({ key }) => key.networkName },
  { title: 'state', value: ({ state }) => state },
  { title: 'carrier', value: ({ carrier }) => (carrier ? 'on' : 'off') },
  { title: 'addresses', value: ({ addresses }) => addresses.join(',') },
  { title: 'rx frames', value: ({ counters }) => counters?.rxFrames ?? '', align: 'right' },
  { title: 'tx frames', value: ({ counters }) => counters?.txFrames ?? '', align: 'right' },
  { title: 'drops', value: (report) => (report.counters === null ? '' : String(dropsOf(report))), align: 'right' },
  { title: 'reason', value: ({ reason }) => reason ?? '' },
];

const idPositional = { id: { type: 'string', describe: 'id of the attachment: "vu" and 12 digits' } } as const;

export const listCommand: Command = {
  usage: 'list',
  describe: 'all attachments of this node, with state and counters',
  run: async (args, terminal) => {
    const reports = await new AgentClient(runDirOf(args)).attachments();
    print(args, terminal, reports, () => renderTable(columns, reports));
    return exitCode.ok;
  },
};

export const showCommand: Command = {
  usage: 'show <id>',
  describe: 'everything about one attachment: backend, features by name, counters',
  positionals: idPositional,
  run: async (args, terminal) => {
    const report = await new AgentClient(runDirOf(args)).attachment(textArgument(args, 'id'));
    print(args, terminal, report, () => renderFields(fieldsOf(report)));
    return exitCode.ok;
  },
};

export const reconnectCommand: Command = {
  usage: 'reconnect <id>',
  describe: 'drop the backend connection of an attachment and negotiate anew',
  positionals: idPositional,
  run: async (args, terminal) => {
    const id = textArgument(args, 'id');
    await new AgentClient(runDirOf(args)).reconnect(id);
    print(args, terminal, { id }, () => `${id} negotiates anew\n`);
    return exitCode.ok;
  },
};

export const setQueuesCommand: Command = {
  usage: 'set-queues <id> <pairs>',
  describe: 'how many queue pairs of an attachment carry traffic, from now on',
  positionals: {
    ...idPositional,
    pairs: { type: 'string', describe: 'from 1 to the number that the device has (attachments show)' },
  },
  run: async (args, terminal) => {
    const id = textArgument(args, 'id');
    // What a number of pairs may be is the device's to judge.
    const pairs = integerArgument(args, 'pairs', 0, 0xffff);
    await new AgentClient(runDirOf(args)).setQueuePairs(id, pairs);
    print(args, terminal, { id, queuePairs: pairs }, () => `${id} uses ${pairs} queue pair${pairs === 1 ? '' : 's'}\n`);
    return exitCode.ok;
  },
};

function podOf({ pod }: AttachmentReport): string {
  return pod === null ? '' : `${pod.namespace}/${pod.name}`;
}

function pairsOf({ activePairs, queuePairs, configuredPairs, wantedPairs }: AttachmentReport): string {
  const configured = configuredPairs === queuePairs ? '' : `, ${configuredPairs} configured`;
  const wish = wantedPairs === null ? '' : `, ${wantedPairs} asked for`;
  return `${activePairs} of ${queuePairs}${configured}${wish}`;
}

function receiveFilterOf({ control }: AttachmentReport): readonly string[] {
  if (control === null) return [];
  const { mac, rxModes, unicast, multicast, announce } = control;
  return [mac, ...rxModes, ...unicast, ...multicast, ...(announce ? ['announcement is not acknowledged yet'] : [])];
}

function dropsOf({ counters }: AttachmentReport): bigint {
  return Object.values(counters?.drops ?? {}).reduce((sum, frames) => sum + BigInt(frames), 0n);
}

function fieldsOf(report: AttachmentReport): readonly (readonly [string, string | readonly string[]])[] {
  const { counters } = report;
  const happened = (values: Readonly<Record<string, string>> | undefined): string[] =>
    Object.entries(values ?? {})
      .filter(([, value]) => value !== '0')
      .map(([name, value]) => `${name} ${value}`);
  return [
    ['id', report.id],
    ['state', report.reason === null ? report.state : `${report.state}: ${report.reason}`],
    ['carrier', report.carrier ? 'on' : 'off'],
    ['pod', podOf(report)],
    ['network', report.key.networkName],
    ['container', report.key.containerId],
    ['interface', `${report.key.ifName} in ${report.netnsPath}`],
    ['mac, mtu', `${report.mac}, ${report.mtu}`],
    ['addresses', report.addresses],
    ['backend', `${report.backendPath} (${report.server ? 'we listen' : 'we connect'})`],
    ['backend pid', report.backendPid === null ? '' : String(report.backendPid)],
    ['OVS port', report.ovsPort ?? ''],
    ['connections', String(report.connections)],
    ['last outage', report.lastOutageMs === null ? '' : `${report.lastOutageMs} ms`],
    ['status', report.statusNames.join(' ')],
    ['queue pairs', pairsOf(report)],
    ['offered', report.offeredFeatures?.names ?? []],
    ['acknowledged', report.ackedFeatures?.names ?? []],
    ['protocol', report.protocolFeatures.join(' ')],
    ["frontend's own", report.localFeatures?.names ?? []],
    ['unsupported', report.unsupportedFeatures?.names ?? []],
    ['receive filter', receiveFilterOf(report)],
    ['rx', counters === null ? '' : `${counters.rxFrames} frames, ${counters.rxBytes} bytes`],
    ['tx', counters === null ? '' : `${counters.txFrames} frames, ${counters.txBytes} bytes`],
    ['drops', happened(counters?.drops)],
    ['events', happened(counters?.events)],
  ];
}
