/** The manual against the program: every option, key, metric, error and event has its line, and no line is left over. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from '@jest/globals';
import { parse } from 'yaml';
import { agentOptionHelp } from '../../src/agent/options.ts';
import { cniError } from '../../src/cni/error.ts';
import { netconfJsonSchema } from '../../src/cni/netconf-schema.ts';
import { capabilities } from '../../src/cni/pod-requests.ts';
import { exitCode } from '../../src/cli/exit-code.ts';
import { errorCodes, VirtioUserError } from '../../src/errors.ts';
import { eventReasons } from '../../src/kubernetes/event-recorder.ts';
import { nodeStatus, stoppedStatus } from '../../src/kubernetes/node-object.ts';
import { attachmentView } from '../support/attachment-view.ts';
import { chart, container, find, helmTemplate, type PodSpec, podSpec } from './support/manifests.ts';
import { quietMetrics } from '../support/quiet-metrics.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));

const manual = (name: string): string => readFileSync(join(root, 'docs', name), 'utf8');

/** Cells of the table whose heading row starts with this cell. */
function table(text: string, firstHeading: string): string[][] {
  const lines = text.split('\n');
  const start = lines.findIndex((line) => line.startsWith(`| ${firstHeading} |`));
  if (start < 0) throw new Error(`no table with the heading ${firstHeading}`);
  const length = lines.slice(start).findIndex((line) => !line.startsWith('|'));
  return lines.slice(start + 2, start + length).map((line) =>
    line
      .slice(1, -1)
      .split('|')
      .map((cell) => cell.trim()),
  );
}

const code = (cell: string | undefined): string => (cell ?? '').replaceAll('`', '');

describe('docs/errors.md', () => {
  const rows = table(manual('errors.md'), 'code');

  it('has every error code, in the order of the source', () => {
    expect(rows.map(([name]) => code(name))).toEqual([...errorCodes]);
  });

  it.each(errorCodes)('has the CNI number of %s, and a remedy', (name) => {
    const [, number, meaning, remedy] = rows.find(([cell]) => code(cell) === name) ?? [];
    expect(number).toBe(String(cniError(new VirtioUserError(name, 'x'), 'ADD').code));
    expect(meaning).not.toBe('');
    expect(remedy).not.toBe('');
  });

  it('has every event, and what to do', () => {
    const events = table(manual('errors.md'), 'reason');
    expect(events.map(([name]) => code(name))).toEqual([...eventReasons]);
    for (const [name, meaning, remedy] of events) expect([name, meaning, remedy]).not.toContain('');
  });

  it('has every condition of the node', () => {
    const view = { agentVersion: '', ready: true, readyReason: '', restored: true, attachments: [], corruptRecords: 0 };
    const conditions = nodeStatus(view, null, new Date()).conditions.map(({ type }) => type);
    expect(table(manual('errors.md'), 'condition').map(([name]) => code(name))).toEqual(conditions);
  });

  it('has every reason of every condition, and what to do', () => {
    const view = {
      agentVersion: '',
      ready: true,
      readyReason: '',
      restored: true,
      attachments: [attachmentView(1)],
      corruptRecords: 0,
    };
    const parked = { ...view, ready: false, attachments: [attachmentView(1, { state: 'parked' })], corruptRecords: 1 };
    const healthy = nodeStatus(view, null, new Date());
    const unwell = nodeStatus(parked, null, new Date());
    const stopped = stoppedStatus(healthy, new Date());
    const reasons = healthy.conditions.map(({ type }) => {
      const all = [healthy, unwell, stopped].map(
        ({ conditions }) => conditions.find((one) => one.type === type)?.reason,
      );
      return [type, [...new Set(all)].join(', ')];
    });
    const rows = table(manual('errors.md'), 'condition');
    expect(rows.map(([name, documented]) => [code(name), code(documented)])).toEqual(reasons);
    for (const [name, , , remedy] of rows) expect({ name, remedy }).not.toEqual({ name, remedy: '' });
  });

  it('has every exit code of the command line', () => {
    const section = manual('errors.md').split('## Exit codes of the command line')[1]?.split('##')[0] ?? '';
    const numbers = [...section.matchAll(/(?:^|· ?|\n)(\d+) /g)].map(([, number]) => Number(number));
    expect(numbers).toEqual(Object.values(exitCode));
  });
});

describe('docs/metrics.md', () => {
  const rows = table(manual('metrics.md'), 'metric');

  it('has every metric of ours with its type, and no other', async () => {
    const { body } = await quietMetrics().render();
    const served = [...body.matchAll(/^# TYPE (virtio_user_\w+) (\w+)$/gm)].map(([, name, type]) => `${name} ${type}`);
    expect(rows.map(([name, type]) => `${code(name)} ${type}`).sort()).toEqual(served.sort());
  });

  it('has every state of an interface', async () => {
    const { body } = await quietMetrics().render();
    const states = [...body.matchAll(/^virtio_user_attachments\{state="([^"]+)"\}/gm)].map(([, state]) => state);
    const [, , , meaning = ''] = rows.find(([name]) => code(name) === 'virtio_user_attachments') ?? [];
    const listed = meaning.replaceAll(/ \([^)]*\)/g, '').replace(/^interfaces: /, '');
    expect(listed).toBe(states.join(', '));
  });

  it('has every alert with what to do', () => {
    const { groups } = parse(readFileSync(join(chart, 'files/rules.yaml'), 'utf8')) as {
      groups: { rules: { alert: string }[] }[];
    };
    const documented = table(manual('metrics.md'), 'alert');
    expect(documented.map(([name]) => code(name))).toEqual(
      groups.flatMap(({ rules }) => rules.map(({ alert }) => alert)),
    );
    for (const [name, meaning, remedy] of documented) expect([name, meaning, remedy]).not.toContain('');
  });

  it('has every reason of a drop', () => {
    const source = readFileSync(join(root, 'native/core/counters.h'), 'utf8');
    const names = /kDropNames = \{([^}]*)\}/.exec(source)?.[1] ?? '';
    const reasons = [...names.matchAll(/"(\w+)"/g)].map(([, name]) => name);
    const documented = table(manual('metrics.md'), 'reason').flatMap(([cell]) => code(cell).split(', '));
    expect(reasons.length).toBeGreaterThan(5);
    expect(documented.sort()).toEqual(reasons.sort());
  });
});

interface JsonSchema {
  readonly properties?: Readonly<Record<string, JsonSchema>>;
  readonly default?: string | number | boolean;
  readonly enum?: readonly unknown[];
  readonly minimum?: number;
  readonly maximum?: number;
}

function keys(schema: JsonSchema, prefix = ''): [string, JsonSchema][] {
  return Object.entries(schema.properties ?? {}).flatMap(([name, inner]) =>
    inner.properties === undefined ? [[prefix + name, inner]] : keys(inner, `${prefix}${name}.`),
  );
}

describe('docs/configuration.md', () => {
  const rows = table(manual('configuration.md'), 'key');
  const published = keys(netconfJsonSchema());

  it('has every key of the network configuration, and no other', () => {
    expect(rows.map(([key]) => code(key)).sort()).toEqual(published.map(([key]) => key).sort());
  });

  it.each(published)('has range and default of %s', (key, schema) => {
    const [, accepted = '', fallback = ''] = rows.find(([cell]) => code(cell) === key) ?? [];
    if (schema.default !== undefined) expect(code(fallback)).toBe(String(schema.default));
    for (const choice of schema.enum ?? []) expect(accepted).toContain(String(choice));
    if (schema.minimum !== undefined) expect(accepted).toContain(`${schema.minimum} to ${schema.maximum}`);
  });

  it('has every capability, and which are ignored', () => {
    expect(table(manual('configuration.md'), 'capability').map(([name]) => code(name))).toEqual([...capabilities]);
    for (const ignored of ['bandwidth', 'portMappings', 'ipRanges', 'dns', 'aliases', 'infinibandGUID', 'cgroupPath'])
      expect(manual('configuration.md')).toContain(`\`${ignored}\``);
  });

  it('has every option of the agent with variable and default', () => {
    const documented = table(manual('configuration.md'), 'flag').map(([flag, environment, fallback]) =>
      [flag, environment, fallback].map(code),
    );
    const known = agentOptionHelp.map(({ flag, environment, defaultText }) => [`--${flag}`, environment, defaultText]);
    expect(documented).toEqual(known);
  });
});

describe('docs/security.md', () => {
  const spec = async (values: Readonly<Record<string, unknown>>): Promise<PodSpec> =>
    podSpec(find(await helmTemplate(values), 'DaemonSet'));
  const securityTable = (heading: string): string[][] => table(manual('security.md'), heading);

  it('has every capability of both profiles', async () => {
    const rows = securityTable('right').filter(([name]) => /^`[A-Z_]+`$/.test(name ?? ''));
    const added = async (securityProfile: string): Promise<readonly string[]> =>
      container(await spec({ securityProfile }), 'agent').securityContext.capabilities.add ?? [];
    const documented = (column: number): string[] =>
      rows.filter((row) => row[column] === 'yes').map(([name]) => code(name));
    expect(documented(1)).toEqual(await added('default'));
    expect(documented(2)).toEqual(await added('restricted'));
  });

  it('has every path of the node that the agent and its installer see', async () => {
    const { volumes } = await spec({});
    const paths = volumes.flatMap(({ hostPath }) => (hostPath === undefined ? [] : [hostPath.path]));
    expect(
      securityTable('path')
        .map(([path]) => code(path))
        .sort(),
    ).toEqual(paths.sort());
  });

  it('has every right of the account', async () => {
    const manifests = await helmTemplate();
    const rules = ['ClusterRole', 'Role'].flatMap(
      (kind) => find(manifests, kind)['rules'] as { resources: string[]; verbs: string[] }[],
    );
    const documented = securityTable('resource').map(([resource, verbs]) => [code(resource), verbs]);
    expect(documented).toEqual(rules.map(({ resources, verbs }) => [resources.join(), verbs.join(', ')]));
  });

  it('says how many calls the seccomp profile allows', () => {
    const profile = JSON.parse(readFileSync(join(root, 'deploy/seccomp/virtio-user.json'), 'utf8')) as {
      syscalls: { names: string[] }[];
    };
    expect(manual('security.md')).toContain(`${profile.syscalls[0]?.names.length} calls`);
  });
});
