/** The manual against the program: every option, key, metric, error and event has its line, and no line is left over. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { describe, expect, it } from '@jest/globals';
import { agentOptionHelp } from '../../src/agent/options.ts';
import { cniError } from '../../src/cni/error.ts';
import { netconfJsonSchema } from '../../src/cni/netconf-schema.ts';
import { exitCode } from '../../src/cli/exit-code.ts';
import { errorCodes, VirtioUserError } from '../../src/errors.ts';
import { eventReasons } from '../../src/kubernetes/event-recorder.ts';
import { nodeStatus } from '../../src/kubernetes/node-object.ts';
import { Metrics } from '../../src/telemetry/metrics.ts';

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

  it('has every event', () => {
    expect(table(manual('errors.md'), 'reason').map(([name]) => code(name))).toEqual([...eventReasons]);
  });

  it('has every condition of the node', () => {
    const view = { agentVersion: '', ready: true, readyReason: '', attachments: [], corruptRecords: 0 };
    const conditions = nodeStatus(view, null, new Date()).conditions.map(({ type }) => type);
    expect(table(manual('errors.md'), 'condition').map(([name]) => code(name))).toEqual(conditions);
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
    const metrics = new Metrics({
      version: '0',
      attachments: () => [],
      deleteQueueLength: () => 0,
      cniInFlight: () => 0,
    });
    const { body } = await metrics.render();
    const served = [...body.matchAll(/^# TYPE (virtio_user_\w+) (\w+)$/gm)].map(([, name, type]) => `${name} ${type}`);
    expect(rows.map(([name, type]) => `${code(name)} ${type}`).sort()).toEqual(served.sort());
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

  it('has every option of the agent with variable and default', () => {
    const documented = table(manual('configuration.md'), 'flag').map(([flag, environment, fallback]) =>
      [flag, environment, fallback].map(code),
    );
    const known = agentOptionHelp.map(({ flag, environment, defaultText }) => [`--${flag}`, environment, defaultText]);
    expect(documented).toEqual(known);
  });
});

describe('docs/security.md', () => {
  it('says how many calls the seccomp profile allows', () => {
    const profile = JSON.parse(readFileSync(join(root, 'deploy/seccomp/virtio-user.json'), 'utf8')) as {
      syscalls: { names: string[] }[];
    };
    expect(manual('security.md')).toContain(`${profile.syscalls[0]?.names.length} calls`);
  });
});
