/** The custom resource against what the agent writes. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { parse } from 'yaml';
import { describe, expect, it } from '@jest/globals';
import { group, kind, type NodeStatus, nodeStatus, plural, version } from '../../src/kubernetes/node-object.ts';
import { find, helmTemplate, kustomize, deploy, type Manifest } from './support/manifests.ts';

interface Schema {
  readonly type?: string;
  readonly properties?: Readonly<Record<string, Schema>>;
  readonly items?: Schema;
  readonly required?: readonly string[];
  readonly enum?: readonly string[];
  readonly pattern?: string;
  readonly maxItems?: number;
  readonly 'x-kubernetes-list-type'?: string;
  readonly 'x-kubernetes-list-map-keys'?: readonly string[];
}

interface Crd extends Manifest {
  readonly spec: {
    readonly group: string;
    readonly scope: string;
    readonly names: { readonly kind: string; readonly plural: string };
    readonly versions: readonly {
      readonly name: string;
      readonly subresources: unknown;
      readonly additionalPrinterColumns: readonly {
        readonly name: string;
        readonly type: string;
        readonly jsonPath: string;
        readonly priority?: number;
      }[];
      readonly schema: { readonly openAPIV3Schema: Schema };
    }[];
  };
}

const crd = parse(readFileSync(join(deploy, 'helm/virtio-user-cni/crds/virtiousernodes.yaml'), 'utf8')) as Crd;
const [v1alpha1] = crd.spec.versions;
const status = v1alpha1?.schema.openAPIV3Schema.properties?.['status'] as Schema;

/** Paths at which the value does not fit, or which the API server would drop. */
function misfits(schema: Schema, value: unknown, path: string): string[] {
  if (Array.isArray(value)) {
    if (schema.type !== 'array' || schema.items === undefined) return [path];
    const { items } = schema;
    return value.flatMap((item, index) => misfits(items, item, `${path}[${index}]`));
  }
  if (typeof value === 'object' && value !== null) {
    if (schema.type !== 'object') return [path];
    const missing = (schema.required ?? []).filter((name) => !(name in value)).map((name) => `${path}.${name} missing`);
    return [
      ...missing,
      ...Object.entries(value).flatMap(([name, inner]) => {
        const known = schema.properties?.[name];
        return known === undefined ? [`${path}.${name} unknown`] : misfits(known, inner, `${path}.${name}`);
      }),
    ];
  }
  const type = typeof value === 'number' ? 'integer' : typeof value;
  const fits =
    schema.type === type &&
    (schema.enum === undefined || schema.enum.includes(String(value))) &&
    (schema.pattern === undefined || new RegExp(schema.pattern).test(String(value)));
  return fits ? [] : [`${path} = ${String(value)}`];
}

type View = Parameters<typeof nodeStatus>[0];

function statusOf(states: readonly string[], ready: boolean, corruptRecords: number): NodeStatus {
  const attachments = states.map((state, index) => ({
    id: `vu${String(index).padStart(12, '0')}`,
    key: { networkName: 'net', containerId: 'c', ifName: 'eth0' },
    pod: index % 2 === 0 ? { namespace: 'default', name: `pod-${index}` } : null,
    state,
    reason: 'why',
  })) as unknown as View['attachments'];
  const view = {
    agentVersion: '0.1.0',
    ready,
    readyReason: 'records are being restored',
    restored: true,
    attachments,
    corruptRecords,
  };
  return nodeStatus(view, null, new Date());
}

describe('VirtioUserNode', () => {
  it('is the resource that the agent writes', () => {
    expect(crd.metadata.name).toBe(`${plural}.${group}`);
    expect(crd.spec).toMatchObject({ group, scope: 'Cluster', names: { kind, plural } });
    expect(v1alpha1).toMatchObject({ name: version, subresources: { status: {} } });
  });

  it.each<[string, NodeStatus]>([
    ['an idle node', statusOf([], true, 0)],
    ['a healthy node', statusOf(['running', 'running'], true, 0)],
    ['a node with every kind of trouble', statusOf(['waiting', 'running', 'parked', 'held', 'negotiating'], false, 3)],
    [
      'a node with more trouble than fits',
      statusOf(
        Array.from({ length: 60 }, () => 'waiting'),
        true,
        0,
      ),
    ],
  ])('has a schema that takes the status of %s, and drops nothing of it', (_name, written) => {
    expect(misfits(status, written, 'status')).toEqual([]);
    expect(written.unhealthy.length).toBeLessThanOrEqual(status.properties?.['unhealthy']?.maxItems ?? 0);
  });

  it('has no field that the agent never writes', () => {
    const written = statusOf(['waiting'], true, 0);
    expect(Object.keys(status.properties ?? {}).sort()).toEqual(Object.keys(written).sort());
    const [unhealthy] = written.unhealthy;
    expect(Object.keys(status.properties?.['unhealthy']?.items?.properties ?? {}).sort()).toEqual(
      Object.keys(unhealthy ?? {}).sort(),
    );
  });

  it('merges conditions by type', () => {
    const conditions = status.properties?.['conditions'];
    expect(conditions?.['x-kubernetes-list-type']).toBe('map');
    expect(conditions?.['x-kubernetes-list-map-keys']).toEqual(['type']);
  });

  it('shows in one line which node is unwell', () => {
    const columns = v1alpha1?.additionalPrinterColumns.filter(({ priority }) => priority === undefined) ?? [];
    expect(columns.map(({ name }) => name)).toEqual([
      'Ready',
      'Backend',
      'Attachments',
      'Disconnected',
      'Version',
      'Age',
    ]);
    for (const { jsonPath } of columns) {
      const field = /^\.status\.(\w+)/.exec(jsonPath)?.[1];
      if (field !== undefined) expect(status.properties).toHaveProperty(field);
    }
  });
});

describe('kubectl get virtiousernodes -o wide', () => {
  const wide = v1alpha1?.additionalPrinterColumns.filter(({ priority }) => priority === 1) ?? [];

  it('says why and since when of the agent and of its backends', () => {
    expect(wide.map(({ name, type }) => `${name}: ${type}`)).toEqual([
      'Ready-Message: string',
      'Ready-Since: date',
      'Backend-Message: string',
      'Backend-Since: date',
    ]);
  });

  it('shows what the agent writes', () => {
    const { conditions } = statusOf(['held', 'running'], false, 0);
    for (const { jsonPath } of wide) {
      const [, type, field] = /^\.status\.conditions\[\?\(@\.type=="(\w+)"\)\]\.(\w+)$/.exec(jsonPath) ?? [];
      const condition = conditions.find((candidate) => candidate.type === type);
      expect(Object.entries(condition ?? {}).find(([name]) => name === field)?.[1]).toMatch(/./);
    }
  });
});

describe('RBAC', () => {
  it('allows what the agent does, and is the same from helm and kustomize', async () => {
    for (const manifests of [await kustomize(deploy), await helmTemplate()]) {
      const { rules } = find(manifests, 'ClusterRole') as unknown as {
        rules: { apiGroups: string[]; resources: string[]; verbs: string[] }[];
      };
      expect(rules).toEqual([
        { apiGroups: [''], resources: ['pods'], verbs: ['list', 'watch'] },
        { apiGroups: [''], resources: ['nodes'], verbs: ['get'] },
        { apiGroups: [group], resources: [plural], verbs: ['get', 'create', 'patch'] },
        { apiGroups: [group], resources: [`${plural}/status`], verbs: ['patch'] },
        { apiGroups: ['events.k8s.io'], resources: ['events'], verbs: ['create', 'patch'] },
      ]);
      expect(find(manifests, 'Role')['rules']).toEqual([
        { apiGroups: ['coordination.k8s.io'], resources: ['leases'], verbs: ['create', 'get', 'update'] },
      ]);
    }
  });
});
