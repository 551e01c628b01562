/**
 * vhost-user ports of Open vSwitch over OVSDB (vswitch.ovsschema: Bridge → Port → Interface). A port is made in one
 * transaction; when it is committed ovs-vswitchd takes it up by itself, which nobody waits for here.
 *
 * Only ports whose `external_ids` carry `virtio-user-id` = their own name are ours; others are never changed.
 */
import { VirtioUserError } from '../errors.ts';
import { type OvsdbClient, type OvsdbOperation, type OvsdbOutcome, type OvsdbResult, readMap } from './ovsdb.ts';
import type { OvsPort, OvsPorts, OvsPortSpec } from './ports.ts';

export const ownerTag = 'virtio-user-id';
export const nodeTag = 'virtio-user-node';

interface ExistingPort {
  readonly uuid: string;
  readonly interfaceUuid: string | null;
  readonly externalIds: Readonly<Record<string, string>>;
}

export class VhostPorts implements OvsPorts {
  readonly #client: OvsdbClient;

  /** Takes the client: `close` closes it. */
  constructor(client: OvsdbClient) {
    this.#client = client;
  }

  async ensure(spec: OvsPortSpec, signal: AbortSignal): Promise<void> {
    const what = `add port ${spec.name} to bridge ${spec.bridge}`;
    const outcome = await this.#client.transact(insertion(spec), signal);
    if (outcome.kind === 'committed') return;
    if (outcome.operation === 0) throw await this.#noSuchBridge(spec, signal);
    // A unique index on the name (columns "name" of Port and Interface): the port is there already.
    if (outcome.error !== 'constraint violation') throw refused(what, outcome);
    await this.#adopt(spec, what, outcome, signal);
  }

  async remove(name: string, signal: AbortSignal): Promise<boolean> {
    const existing = await this.#find(name, signal);
    if (existing === null || existing.externalIds[ownerTag] !== name) return false;
    const uuid = ['uuid', existing.uuid];
    const outcome = await this.#client.transact(
      // Rows of Port and Interface that nothing refers to are collected by the database.
      [
        {
          op: 'mutate',
          table: 'Bridge',
          where: [['ports', 'includes', uuid]],
          mutations: [['ports', 'delete', uuid]],
        },
      ],
      signal,
    );
    if (outcome.kind === 'refused') throw refused(`remove port ${name}`, outcome);
    return (outcome.results[0]?.count ?? 0) > 0;
  }

  async list(nodeName: string, signal: AbortSignal): Promise<readonly OvsPort[]> {
    const outcome = await this.#client.transact(
      [
        {
          op: 'select',
          table: 'Port',
          where: [['external_ids', 'includes', mapOf({ [nodeTag]: nodeName })]],
          columns: ['_uuid', 'name', 'external_ids'],
        },
        { op: 'select', table: 'Bridge', where: [], columns: ['name', 'ports'] },
      ],
      signal,
    );
    if (outcome.kind === 'refused') throw refused('list ports', outcome);
    const bridgeOf = new Map<string, string>();
    for (const row of rowsOf(outcome.results[1])) {
      for (const uuid of uuidsOf(row['ports'])) bridgeOf.set(uuid, textOf(row['name']));
    }
    return rowsOf(outcome.results[0]).flatMap((row) => {
      const bridge = bridgeOf.get(uuidsOf(row['_uuid'])[0] ?? '');
      return bridge === undefined
        ? []
        : [{ name: textOf(row['name']), bridge, externalIds: readMap(row['external_ids']) }];
    });
  }

  close(): void {
    this.#client.close();
  }

  /** Makes a port of ours that exists what `spec` says; a port that is right already is not disturbed. */
  async #adopt(spec: OvsPortSpec, what: string, clash: Refused, signal: AbortSignal): Promise<void> {
    const existing = await this.#find(spec.name, signal);
    // An interface of that name under another port, for example.
    if (existing === null) throw refused(what, clash);
    if (existing.externalIds[ownerTag] !== spec.name || existing.interfaceUuid === null) {
      throw new VirtioUserError('OVS_REFUSED', `${what}: a port of this name exists and does not carry our tag`, {
        details: { committed: 'no', port: spec.name },
        remedy: 'Remove or rename that port.',
      });
    }
    const port = ['uuid', existing.uuid];
    const outcome = await this.#client.transact(
      [
        bridgeExists(spec.bridge),
        {
          op: 'update',
          table: 'Interface',
          where: [['_uuid', '==', ['uuid', existing.interfaceUuid]]],
          row: interfaceRow(spec),
        },
        { op: 'update', table: 'Port', where: [['_uuid', '==', port]], row: portRow(spec) },
        {
          op: 'mutate',
          table: 'Bridge',
          where: [
            ['name', '!=', spec.bridge],
            ['ports', 'includes', port],
          ],
          mutations: [['ports', 'delete', port]],
        },
        addToBridge(spec.bridge, port),
      ],
      signal,
    );
    if (outcome.kind === 'refused') throw refused(what, outcome);
  }

  async #find(name: string, signal: AbortSignal): Promise<ExistingPort | null> {
    const outcome = await this.#client.transact(
      [
        {
          op: 'select',
          table: 'Port',
          where: [['name', '==', name]],
          columns: ['_uuid', 'interfaces', 'external_ids'],
        },
      ],
      signal,
    );
    if (outcome.kind === 'refused') throw refused(`look up port ${name}`, outcome);
    const [row] = rowsOf(outcome.results[0]);
    if (row === undefined) return null;
    const [uuid] = uuidsOf(row['_uuid']);
    if (uuid === undefined) return null;
    return {
      uuid,
      interfaceUuid: uuidsOf(row['interfaces'])[0] ?? null,
      externalIds: readMap(row['external_ids']),
    };
  }

  async #noSuchBridge(spec: OvsPortSpec, signal: AbortSignal): Promise<VirtioUserError> {
    const outcome = await this.#client.transact(
      [{ op: 'select', table: 'Bridge', where: [], columns: ['name'] }],
      signal,
    );
    const rows = outcome.kind === 'committed' ? rowsOf(outcome.results[0]) : [];
    const names = rows.map((row) => textOf(row['name'])).sort();
    const there = names.length === 0 ? 'there are no bridges' : `bridges are ${names.slice(0, 20).join(', ')}`;
    return new VirtioUserError('OVS_REFUSED', `add port ${spec.name}: no bridge ${spec.bridge}; ${there}`, {
      details: { committed: 'no', bridge: spec.bridge },
      remedy: `Create it (ovs-vsctl add-br ${spec.bridge} -- set bridge ${spec.bridge} datapath_type=netdev) or correct ovs.bridge.`,
    });
  }
}

function insertion(spec: OvsPortSpec): readonly OvsdbOperation[] {
  return [
    bridgeExists(spec.bridge),
    { op: 'insert', table: 'Interface', row: { name: spec.name, ...interfaceRow(spec) }, 'uuid-name': 'interface' },
    {
      op: 'insert',
      table: 'Port',
      row: { name: spec.name, interfaces: ['named-uuid', 'interface'], ...portRow(spec) },
      'uuid-name': 'port',
    },
    addToBridge(spec.bridge, ['named-uuid', 'port']),
  ];
}

/** Fails with "timed out" at once where the bridge is not there. */
function bridgeExists(bridge: string): OvsdbOperation {
  return {
    op: 'wait',
    table: 'Bridge',
    timeout: 0,
    where: [['name', '==', bridge]],
    columns: ['name'],
    until: '==',
    rows: [{ name: bridge }],
  };
}

function addToBridge(bridge: string, port: readonly string[]): OvsdbOperation {
  return {
    op: 'mutate',
    table: 'Bridge',
    where: [['name', '==', bridge]],
    mutations: [['ports', 'insert', ['set', [port]]]],
  };
}

function interfaceRow(spec: OvsPortSpec): Readonly<Record<string, unknown>> {
  // A dpdkvhostuser port has its socket where OVS puts it; only the client type is told a path.
  const options = spec.type === 'dpdkvhostuserclient' ? { 'vhost-server-path': spec.socketPath } : {};
  return {
    type: spec.type,
    options: mapOf(options),
    mtu_request: spec.mtu,
    external_ids: mapOf(tagged(spec)),
  };
}

function portRow(spec: OvsPortSpec): Readonly<Record<string, unknown>> {
  return { tag: spec.vlan ?? ['set', []], external_ids: mapOf(tagged(spec)) };
}

function tagged(spec: OvsPortSpec): Readonly<Record<string, string>> {
  return { ...spec.externalIds, [ownerTag]: spec.name };
}

function mapOf(entries: Readonly<Record<string, string>>): readonly unknown[] {
  return ['map', Object.entries(entries)];
}

/** The uuids of a column: one atom, or a set of them. */
function uuidsOf(value: unknown): readonly string[] {
  if (!Array.isArray(value)) return [];
  const [tag, content] = value as unknown[];
  if (tag === 'uuid' && typeof content === 'string') return [content];
  if (tag === 'set' && Array.isArray(content)) return (content as unknown[]).flatMap(uuidsOf);
  return [];
}

function textOf(value: unknown): string {
  return typeof value === 'string' ? value : '';
}

function rowsOf(result: OvsdbResult | undefined): readonly Readonly<Record<string, unknown>>[] {
  return result?.rows ?? [];
}

type Refused = Extract<OvsdbOutcome, { readonly kind: 'refused' }>;

function refused(what: string, { error, details }: Refused): VirtioUserError {
  return new VirtioUserError('OVS_REFUSED', `${what}: ${error}${details === '' ? '' : `: ${details}`}`, {
    details: { committed: 'no' },
  });
}
