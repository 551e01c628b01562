/** Alerts and dashboard against the metrics that the agent really serves. */
import { join } from 'node:path';
import { parse } from 'yaml';
import { readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';
import { Metrics } from '../../src/telemetry/metrics.ts';
import { chart, find, helmTemplate, readJson } from './support/manifests.ts';
import { quietMetrics } from '../support/quiet-metrics.ts';

interface Rule {
  readonly alert: string;
  readonly expr: string;
  readonly for?: string;
  readonly labels: Readonly<Record<string, string>>;
  readonly annotations: Readonly<Record<string, string>>;
}

interface Panel {
  readonly title: string;
  readonly gridPos: { readonly x: number; readonly y: number; readonly w: number; readonly h: number };
  readonly targets: readonly { readonly expr: string }[];
}

const { groups } = parse(readFileSync(join(chart, 'files/rules.yaml'), 'utf8')) as { groups: { rules: Rule[] }[] };
const rules = groups.flatMap((group) => group.rules);
const dashboard = readJson(join(chart, 'files/dashboard.json')) as { panels: Panel[] };

/** Every series name that a scrape shows, with label names; attachments with figures included. */
async function served(): Promise<ReadonlyMap<string, ReadonlySet<string>>> {
  const metrics = new Metrics({
    version: '0.1.0',
    deleteQueueLength: () => 1,
    cniInFlight: () => 1,
    lostLogLines: () => 1,
    attachments: () => [
      {
        id: 'vu000000000001',
        namespace: 'default',
        pod: 'one',
        network: 'net',
        state: 'running',
        carrier: true,
        connections: 1,
        disconnects: 0,
        statusNames: ['ACKNOWLEDGE', 'DRIVER', 'DRIVER_OK', 'FEATURES_OK'],
        ackedFeatures: ['VERSION_1'],
        counters: {
          txFrames: 1n,
          txBytes: 1n,
          rxFrames: 1n,
          rxBytes: 1n,
          drops: { tx_lost: 1n },
          events: { kicks: 1n },
        },
      },
    ],
  });
  metrics.cniServed('ADD', null, 5);
  metrics.cniServed('ADD', 'STATE_WRITE', 5);
  metrics.backendOutage(100);
  metrics.orphanRemoved('lease');
  const { body } = await metrics.render();
  const series = new Map<string, Set<string>>();
  for (const line of body.split('\n')) {
    const match = /^([a-z_0-9]+)(?:\{(.*)\})? /.exec(line);
    if (match === null || line.startsWith('#')) continue;
    const labels = series.get(match[1] ?? '') ?? new Set<string>();
    for (const [, name] of (match[2] ?? '').matchAll(/(\w+)="/g)) labels.add(name ?? '');
    series.set(match[1] ?? '', labels);
  }
  return series;
}

/** Put on by Prometheus and the ServiceMonitor. */
const scrapeLabels = ['node', 'job', 'instance'];

/** What an expression names that nobody serves. */
function unserved(expression: string, series: ReadonlyMap<string, ReadonlySet<string>>): string[] {
  const faults: string[] = [];
  const selectors = [...expression.matchAll(/\b((?:virtio_user|process|nodejs)_\w+|up)\b(?:\{([^}]*)\})?/g)];
  if (selectors.length === 0) faults.push(`no metric in ${expression}`);
  const available = new Set<string>(scrapeLabels);
  for (const [, metric = '', matchers = ''] of selectors) {
    if (metric === 'up') continue;
    const labels = series.get(metric);
    if (labels === undefined) {
      faults.push(metric);
      continue;
    }
    for (const label of labels) available.add(label);
    for (const [, label = ''] of matchers.matchAll(/(\w+)(?:=|!=|=~|!~)"/g)) {
      if (!labels.has(label) && !scrapeLabels.includes(label)) faults.push(`${metric}{${label}}`);
    }
  }
  for (const [, grouping = ''] of expression.matchAll(/\bby \(([^)]*)\)/g)) {
    for (const label of grouping.split(',').map((name) => name.trim())) {
      if (!available.has(label)) faults.push(`by (${label})`);
    }
  }
  if (expression.split('(').length !== expression.split(')').length) faults.push(`brackets of ${expression}`);
  return faults;
}

describe('alert rules', () => {
  it('name only metrics, labels and groupings that exist', async () => {
    const series = await served();
    for (const { alert, expr } of rules) expect({ [alert]: unserved(expr, series) }).toEqual({ [alert]: [] });
  });

  it('notices a metric that is gone', async () => {
    const series = await served();
    expect(unserved('sum by (node) (virtio_user_gone_total) > 0', series)).toEqual(['virtio_user_gone_total']);
    expect(unserved('virtio_user_attachments{pod="x"} > 0', series)).toEqual(['virtio_user_attachments{pod}']);
    expect(unserved('sum by (verb) (virtio_user_attachments)', series)).toEqual(['by (verb)']);
  });

  it('cover what an admin is promised, with a text for each', () => {
    expect(rules.map(({ alert }) => alert)).toEqual([
      'VirtioUserAgentDown',
      'VirtioUserBackendDown',
      'VirtioUserDeleteQueueStuck',
      'VirtioUserAddSlow',
      'VirtioUserAddErrors',
      'VirtioUserStateWriteErrors',
      'VirtioUserStateCorrupt',
      'VirtioUserVersionSkew',
    ]);
    for (const { labels, annotations } of rules) {
      expect(labels['severity']).toMatch(/^(critical|warning|info)$/);
      expect(annotations['summary']).toBeTruthy();
      expect(annotations['description']).toBeTruthy();
    }
    const wait = new Map(rules.map((rule) => [rule.alert, rule.for]));
    expect(wait.get('VirtioUserBackendDown')).toBe('1m');
    expect(wait.get('VirtioUserDeleteQueueStuck')).toBe('5m');
  });
});

describe('the alert on interfaces without a backend', () => {
  const rule = rules.find(({ alert }) => alert === 'VirtioUserBackendDown');
  const excluded = (/state!~"([^"]+)"/.exec(rule?.expr ?? '')?.[1] ?? '').split('|');

  it('is silent about those that run, are made or are removed', () => {
    expect(excluded).toEqual(['running', 'creating', 'closing']);
  });

  it('says of every other state what it means', async () => {
    const metrics = quietMetrics();
    const { body } = await metrics.render();
    const states = [...body.matchAll(/^virtio_user_attachments\{state="([^"]+)"\}/gm)].map(([, state]) => state ?? '');
    expect(states).toContain('degraded');
    for (const state of states.filter((name) => !excluded.includes(name)))
      expect(rule?.annotations['description']).toMatch(new RegExp(`\\b${state}\\b`));
  });
});

describe('the dashboard', () => {
  it('names only metrics, labels and groupings that exist', async () => {
    const series = await served();
    for (const { title, targets } of dashboard.panels) {
      expect({ [title]: targets.flatMap(({ expr }) => unserved(expr, series)) }).toEqual({ [title]: [] });
    }
  });

  it('shows every metric of ours', async () => {
    const expressions = JSON.stringify(dashboard.panels.map(({ targets }) => targets));
    const names = [...(await served()).keys()].filter((name) => name.startsWith('virtio_user_'));
    const missing = names.filter((name) => !expressions.includes(name.replace(/_(bucket|sum|count)$/, '')));
    expect(missing).toEqual([]);
  });

  it('is not empty where all is well: what a comparison filters away has something in its place', () => {
    const filters = dashboard.panels.flatMap(({ targets }) => targets.map(({ expr }) => expr));
    const bare = filters.filter((expr) => /[=!<>]=? ?\d/.test(expr.replaceAll(/\{[^}]*\}/g, '')));
    expect(bare.filter((expr) => !expr.includes(' or on () '))).toEqual([]);
    expect(bare.length).toBeGreaterThan(0);
  });

  it('has panels that do not overlap', () => {
    const taken = new Set<string>();
    for (const { title, gridPos } of dashboard.panels) {
      expect(gridPos.x + gridPos.w).toBeLessThanOrEqual(24);
      for (let x = gridPos.x; x < gridPos.x + gridPos.w; x++) {
        for (let y = gridPos.y; y < gridPos.y + gridPos.h; y++) {
          expect({ title, cell: taken.has(`${x} ${y}`) }).toEqual({ title, cell: false });
          taken.add(`${x} ${y}`);
        }
      }
    }
  });
});

describe('the ServiceMonitor', () => {
  it('selects the service that selects the agents, on the port that they name', async () => {
    const manifests = await helmTemplate({
      observability: { serviceMonitor: true, prometheusRule: true, dashboard: true },
    });
    const monitor = find(manifests, 'ServiceMonitor')['spec'] as {
      selector: { matchLabels: Record<string, string> };
      endpoints: { port: string }[];
    };
    const service = find(manifests, 'Service');
    const { selector, ports } = service['spec'] as { selector: Record<string, string>; ports: { name: string }[] };
    const { template } = find(manifests, 'DaemonSet')['spec'] as {
      template: { metadata: { labels: Record<string, string> }; spec: { containers: { ports: { name: string }[] }[] } };
    };
    expect(service.metadata.labels).toMatchObject(monitor.selector.matchLabels);
    expect(template.metadata.labels).toMatchObject(selector);
    expect(monitor.endpoints[0]?.port).toBe(ports[0]?.name);
    expect(template.spec.containers[0]?.ports[0]?.name).toBe('metrics');
    // The job label of the alerts is the name of the service.
    for (const [, job] of JSON.stringify(rules).matchAll(/job=\\"([^"\\]+)/g)) expect(job).toBe(service.metadata.name);
  });

  it('is off unless asked for, and the metrics stay on the loopback', async () => {
    const manifests = await helmTemplate();
    expect(manifests.map(({ kind }) => kind)).not.toContain('ServiceMonitor');
    expect(JSON.stringify(manifests)).not.toContain('0.0.0.0:9473');
  });
});
