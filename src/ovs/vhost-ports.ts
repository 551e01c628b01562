/** vhost-user ports over OVSDB (ovs-vswitchd.conf.db(5)): one transaction each, touching only what carries our tag. */
import { VirtioUserError } from '../errors.ts';
import { type OperationResult, Ovsdb } from './ovsdb.ts';
import type { OvsPort, OvsPorts, OvsPortSpec } from './ports.ts';

const idTag = 'virtio-user-id';
const nodeTag = 'virtio-user-node';

type OvsMap = readonly ['map', readonly (readonly [string, string])[]];

function ovsMap(entries: Readonly<Record<string, string>>): OvsMap {
  return ['map', Object.entries(entries)];
}

function fromMap(value: unknown): Readonly<Record<string, string>> {
  if (!Array.isArray(value) || value[0] !== 'map' || !Array.isArray(value[1])) return {};
  return Object.fromEntries(
    (value[1] as readonly unknown[]).flatMap((entry) =>
      Array.isArray(entry) && typeof entry[0] === 'string' ? [[entry[0], String(entry[1])]] : [],
    ),
  );
}

/** A column of references: one uuid, or a set of them. */
function uuidsOf(value: unknown): string[] {
  if (!Array.isArray(value)) return [];
  if (value[0] === 'uuid') return [String(value[1])];
  return value[0] === 'set' && Array.isArray(value[1]) ? (value[1] as readonly unknown[]).flatMap(uuidsOf) : [];
}

function rowsOf(result: OperationResult | undefined): readonly Readonly<Record<string, unknown>>[] {
  return result?.rows ?? [];
}

export class VhostPorts implements OvsPorts {
  readonly #database: Ovsdb;

  constructor(remote: string) {
    this.#database = new Ovsdb(remote);
  }

  async ensure(spec: OvsPortSpec, signal: AbortSignal): Promise<void> {
    const [bridges, ports] = await this.#database.transact(
      [
        { op: 'select', table: 'Bridge', where: [], columns: ['name', '_uuid'] },
        { op: 'select', table: 'Port', where: [['name', '==', spec.name]], columns: ['_uuid'] },
      ],
      signal,
    );
    const names = rowsOf(bridges).map((row) => String(row['name']));
    if (!names.includes(spec.bridge)) {
      throw new VirtioUserError(
        'OVS_REFUSED',
        `OVS has no bridge ${spec.bridge}; it has ${names.sort().join(', ') || 'none'}`,
        {
          details: { bridge: spec.bridge },
          remedy: `create the bridge (datapath_type=netdev), or correct ovs.bridge`,
        },
      );
    }
    if (rowsOf(ports).length > 0) await this.remove(spec.name, signal);
    const interfaceRow = {
      name: spec.name,
      type: spec.type,
      options: ovsMap(spec.type === 'dpdkvhostuserclient' ? { 'vhost-server-path': spec.socketPath } : {}),
      mtu_request: spec.mtu,
      external_ids: ovsMap(spec.externalIds),
    };
    const portRow = {
      name: spec.name,
      interfaces: ['named-uuid', 'the_interface'],
      external_ids: ovsMap(spec.externalIds),
      ...(spec.vlan === null ? {} : { tag: spec.vlan }),
    };
    await this.#database.transact(
      [
        {
          op: 'wait',
          table: 'Bridge',
          where: [['name', '==', spec.bridge]],
          columns: ['name'],
          until: '==',
          rows: [{ name: spec.bridge }],
          timeout: 0,
        },
        { op: 'insert', table: 'Interface', row: interfaceRow, 'uuid-name': 'the_interface' },
        { op: 'insert', table: 'Port', row: portRow, 'uuid-name': 'the_port' },
        {
          op: 'mutate',
          table: 'Bridge',
          where: [['name', '==', spec.bridge]],
          mutations: [['ports', 'insert', ['set', [['named-uuid', 'the_port']]]]],
        },
        nextConfiguration,
      ],
      signal,
    );
  }

  async remove(name: string, signal: AbortSignal): Promise<boolean> {
    const [ports] = await this.#database.transact(
      [{ op: 'select', table: 'Port', where: [['name', '==', name]], columns: ['_uuid', 'external_ids'] }],
      signal,
    );
    const row = rowsOf(ports)[0];
    if (row === undefined || fromMap(row['external_ids'])[idTag] !== name) return false;
    const [uuid] = uuidsOf(row['_uuid']);
    if (uuid === undefined) return false;
    // Port and Interface are not roots: unreferenced, they vanish with the commit.
    await this.#database.transact(
      [
        {
          op: 'mutate',
          table: 'Bridge',
          where: [['ports', 'includes', ['set', [['uuid', uuid]]]]],
          mutations: [['ports', 'delete', ['set', [['uuid', uuid]]]]],
        },
        nextConfiguration,
      ],
      signal,
    );
    return true;
  }

  async list(nodeName: string, signal: AbortSignal): Promise<readonly OvsPort[]> {
    const [bridges, ports] = await this.#database.transact(
      [
        { op: 'select', table: 'Bridge', where: [], columns: ['name', 'ports'] },
        {
          op: 'select',
          table: 'Port',
          where: [['external_ids', 'includes', ovsMap({ [nodeTag]: nodeName })]],
          columns: ['_uuid', 'name', 'external_ids'],
        },
      ],
      signal,
    );
    const bridgeOf = new Map(
      rowsOf(bridges).flatMap((row) => uuidsOf(row['ports']).map((uuid) => [uuid, String(row['name'])] as const)),
    );
    return rowsOf(ports).map((row) => ({
      name: String(row['name']),
      bridge: bridgeOf.get(uuidsOf(row['_uuid'])[0] ?? '') ?? '',
      externalIds: fromMap(row['external_ids']),
    }));
  }

  close(): void {
    this.#database.close();
  }
}

/** What ovs-vsctl does too: tells ovs-vswitchd that there is a new configuration. */
const nextConfiguration = {
  op: 'mutate',
  table: 'Open_vSwitch',
  where: [],
  mutations: [['next_cfg', '+=', 1]],
};
