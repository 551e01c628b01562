import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from '@jest/globals';
import { parse } from 'yaml';
import type { AttachmentView } from '../../../src/attachment/api.ts';
import {
  conditionFlipped,
  conditionsOf,
  group,
  kind,
  type NodeStatus,
  nodeStatus,
  type NodeView,
  plural,
  sameStatus,
  stoppedStatus,
  version,
} from '../../../src/kubernetes/node-object.ts';
import { attachmentView } from '../../support/attachment-view.ts';

const at = (second: number): Date => new Date(Date.UTC(2026, 0, 1, 0, 0, second));

function view(states: readonly string[], change: Partial<NodeView> = {}): NodeView {
  const attachments = states.map((state, index): AttachmentView => attachmentView(index, { state }));
  return {
    agentVersion: '1.2.3',
    ready: true,
    readyReason: '',
    restored: true,
    attachments,
    corruptRecords: 0,
    ...change,
  };
}

const conditions = (status: NodeStatus): Record<string, string> =>
  Object.fromEntries(status.conditions.map((condition) => [condition.type, `${condition.status} ${condition.reason}`]));

interface Described {
  readonly enum?: readonly string[];
  readonly items?: { readonly properties: Readonly<Record<string, Described>> };
}

interface Definition {
  readonly spec: {
    readonly group: string;
    readonly names: { readonly kind: string; readonly plural: string };
    readonly versions: readonly {
      readonly name: string;
      readonly schema: {
        readonly openAPIV3Schema: {
          readonly properties: { readonly status: { readonly properties: Readonly<Record<string, Described>> } };
        };
      };
    }[];
  };
}

describe('the object of a node', () => {
  it.each([
    [[], 'Idle', 0, 0],
    [['running', 'running'], 'Connected', 2, 0],
    [['running', 'held'], 'Partial', 2, 1],
    [['waiting', 'held'], 'Disconnected', 2, 2],
    [['running', 'creating', 'closing'], 'Connected', 1, 0],
  ])('attachments in the states %j are %s', (states, backend, attachments, disconnected) => {
    expect(nodeStatus(view(states), null, at(0))).toMatchObject({ backend, attachments, disconnected });
  });

  it('says of a healthy node that all is well', () => {
    expect(conditions(nodeStatus(view(['running']), null, at(0)))).toEqual({
      Ready: 'True AgentReady',
      BackendConnected: 'True AllConnected',
      StateRestored: 'True AllRecordsRead',
      Degraded: 'False NotDegraded',
    });
  });

  it('says what is wrong with an unwell one', () => {
    const unwell = view(['parked', 'running'], {
      ready: false,
      readyReason: 'records-restored',
      restored: true,
      corruptRecords: 2,
    });
    const status = nodeStatus(unwell, null, at(0));
    expect(conditions(status)).toEqual({
      Ready: 'False AgentNotReady',
      BackendConnected: 'False BackendDisconnected',
      StateRestored: 'False StateCorrupt',
      Degraded: 'True FeatureMismatch',
    });
    expect(status.conditions.map(({ message }) => message)).toEqual([
      'records-restored',
      '1 of 2 attachments have no backend',
      '2 records could not be read',
      '1 attachments wait for a backend with more features',
    ]);
  });

  it('says of an interface whose handshake keeps failing that it has no backend, not that it waits for features', () => {
    expect(conditions(nodeStatus(view(['degraded', 'running']), null, at(0)))).toMatchObject({
      BackendConnected: 'False BackendDisconnected',
      Degraded: 'False NotDegraded',
    });
  });

  it('names at most 20 unhealthy attachments with their pod, and counts the rest', () => {
    const status = nodeStatus(view(Array.from({ length: 30 }, () => 'held')), null, at(0));
    expect(status.disconnected).toBe(30);
    expect(status.unhealthy).toHaveLength(20);
    expect(status.unhealthy[3]).toEqual({
      id: 'vu000000000003',
      pod: 'ns/pod-3',
      interface: 'eth0',
      state: 'held',
      reason: 'the backend is gone',
    });
  });

  it('moves lastTransitionTime only when the status of a condition does', () => {
    const first = nodeStatus(view(['running']), null, at(0));
    const same = nodeStatus(view(['running', 'running']), first, at(10));
    expect(same.conditions).toEqual(
      first.conditions.map((condition) => ({ ...condition, message: expect.any(String) })),
    );
    const broken = nodeStatus(view(['held']), same, at(20));
    const times = Object.fromEntries(
      broken.conditions.map(({ type, lastTransitionTime }) => [type, lastTransitionTime]),
    );
    expect(times).toMatchObject({ Ready: at(0).toISOString(), BackendConnected: at(20).toISOString() });
  });

  it('until records are restored tells of readiness alone; the rest stays as it was last seen', () => {
    const restoring = { ready: false, readyReason: 'the agent waits for records-restored', restored: false };
    const before = nodeStatus(view(['running'], { corruptRecords: 1 }), null, at(0));
    const status = nodeStatus(view(['absent', 'absent'], restoring), before, at(9));
    expect(conditions(status)).toEqual({ ...conditions(before), Ready: 'False AgentNotReady' });
    expect(status.conditions.slice(1)).toEqual(before.conditions.slice(1));
    expect(status).toMatchObject({ attachments: 2, disconnected: 2 });
    expect(conditions(nodeStatus(view([], restoring), null, at(9)))).toEqual({ Ready: 'False AgentNotReady' });
  });

  it('of a node that was not ready when its agent stopped says since when it is not', () => {
    const unwell = nodeStatus(view([], { ready: false, readyReason: 'x' }), null, at(0));
    const [ready] = stoppedStatus(unwell, at(9)).conditions;
    expect(ready).toMatchObject({ status: 'False', reason: 'AgentStopped', lastTransitionTime: at(0).toISOString() });
  });

  it('is read back as far as it is understood', () => {
    const status = nodeStatus(view(['running']), null, at(0));
    expect(conditionsOf({ metadata: { name: 'n' }, status })).toEqual(status.conditions);
    const newer = { type: 'Shining', status: 'True', reason: 'R', message: '', lastTransitionTime: '' };
    expect(conditionsOf({ status: { conditions: [newer, ...status.conditions] } })).toEqual(status.conditions);
    const unknown = { type: 'Ready', status: 'Unknown', reason: 'R', message: '', lastTransitionTime: '' };
    for (const strange of [null, 7, {}, { status: {} }, { status: { conditions: [unknown, null] } }])
      expect(conditionsOf(strange)).toEqual([]);
  });

  it('an unchanged node gives the same object, whenever it is asked', () => {
    const first = nodeStatus(view(['running']), null, at(0));
    expect(sameStatus(nodeStatus(view(['running']), first, at(99)), first)).toBe(true);
    expect(sameStatus(nodeStatus(view(['running', 'running']), first, at(99)), first)).toBe(false);
  });

  it('tells news that cannot wait from news that can', () => {
    const first = nodeStatus(view(['running']), null, at(0));
    expect(conditionFlipped(null, first)).toBe(true);
    expect(conditionFlipped(first, nodeStatus(view(['running', 'running']), first, at(1)))).toBe(false);
    expect(conditionFlipped(first, nodeStatus(view(['held']), first, at(1)))).toBe(true);
  });

  it('is what the CustomResourceDefinition of deploy/ describes, field by field', () => {
    const path = fileURLToPath(new URL('../../../deploy/base/virtiousernodes.yaml', import.meta.url));
    const { spec } = parse(readFileSync(path, 'utf8')) as Definition;
    expect([spec.group, spec.names.kind, spec.names.plural]).toEqual([group, kind, plural]);
    expect(spec.versions.map(({ name }) => name)).toEqual([version]);
    const described = spec.versions[0]?.schema.openAPIV3Schema.properties.status.properties ?? {};
    const status = nodeStatus(view(['held']), null, at(0));
    const fields = (value: object | undefined): string[] => Object.keys(value ?? {}).sort();
    expect(fields(described)).toEqual(fields(status));
    expect(described['backend']?.enum).toContain(status.backend);
    expect(fields(described['unhealthy']?.items?.properties)).toEqual(fields(status.unhealthy[0]));
    expect(fields(described['conditions']?.items?.properties)).toEqual(fields(status.conditions[0]));
  });
});
