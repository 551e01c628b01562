/**
 * The dashboard with real data: an OVS-DPDK, an agent and pods with traffic for two minutes, the switch killed once,
 * scraped by Prometheus; then every query of the dashboard is asked as Grafana would ask it, and the answers are drawn to
 * docs/charts/dashboard.svg. Grafana itself is not run.
 */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as pass } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { Daemon, until } from '../support/process.ts';
import { TcpTransfer } from '../support/tcp-transfer.ts';
import { World } from '../support/world.ts';
import { drawDashboard, type Panel, type Range, type Series } from './panels.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const scrapeSeconds = 5;
const dashboard = JSON.parse(readFileSync(join(root, 'deploy/helm/virtio-user-cni/files/dashboard.json'), 'utf8')) as {
  readonly panels: readonly Panel[];
};

function say(text: string): void {
  process.stdout.write(`${new Date().toISOString().slice(11, 19)}  ${text}\n`);
}

const prometheusUrl = 'http://127.0.0.1:29090';

/** Scrapes with the labels that the ServiceMonitor gives. */
async function startPrometheus({ directory, agent, cleanup }: World): Promise<void> {
  const targets = { targets: [agent.metricsAddress], labels: { node: 'node-1' } };
  const scrape = { job_name: 'virtio-user-agent-metrics', honor_labels: true, static_configs: [targets] };
  const config = { global: { scrape_interval: `${scrapeSeconds}s` }, scrape_configs: [scrape] };
  writeFileSync(join(directory, 'prometheus.yml'), JSON.stringify(config)); // JSON is YAML
  const args = [
    `--config.file=${join(directory, 'prometheus.yml')}`,
    `--storage.tsdb.path=${join(directory, 'prometheus')}`,
    `--web.listen-address=${new URL(prometheusUrl).host}`,
    '--log.level=warn',
  ];
  const daemon = new Daemon('prometheus', 'prometheus', args, join(directory, 'prometheus.log'));
  cleanup.add('prometheus', () => daemon.stop('SIGTERM'));
  await until('the first scrape', async () => {
    if (!daemon.alive) throw new Error(`Prometheus ended (${daemon.exit}):\n${daemon.logTail()}`);
    const up = await get<Answer>('query', { query: 'up == 1' }).catch(() => null);
    return up !== null && up.result.length > 0;
  });
}

async function get<T>(path: string, parameters: Readonly<Record<string, string>>): Promise<T> {
  const response = await fetch(`${prometheusUrl}/api/v1/${path}?${new URLSearchParams(parameters).toString()}`);
  const answer = (await response.json()) as { readonly data: T; readonly error?: string };
  if (!response.ok) throw new Error(`${parameters['query'] ?? path}: ${answer.error ?? response.status}`);
  return answer.data;
}

interface Answer {
  readonly result: readonly {
    readonly metric: Readonly<Record<string, string>>;
    readonly value?: readonly [number, string];
    readonly values?: readonly (readonly [number, string])[];
  }[];
}

/** With the variables as Grafana fills them in: all nodes, and four scrapes as the interval of rates. */
async function ask(panel: Panel, range: Range): Promise<Series[]> {
  const series: Series[] = [];
  for (const { expr, legendFormat, instant } of panel.targets) {
    const query = expr
      .replaceAll('$__rate_interval', `${4 * scrapeSeconds}s`)
      .replaceAll('$__range', `${range.end - range.start}s`)
      .replaceAll('$node', '.*');
    if (/\$\w/.test(query)) throw new Error(`${panel.title}: a variable that is not known: ${query}`);
    const [start, end, step] = [range.start, range.end, range.step].map(String) as [string, string, string];
    const { result } =
      instant === true
        ? await get<Answer>('query', { query, time: end })
        : await get<Answer>('query_range', { query, start, end, step });
    for (const { metric, value, values } of result) {
      const points = (values ?? (value === undefined ? [] : [value])).map(([at, text]) => [at, Number(text)] as const);
      const name = legendFormat.replaceAll(/\{\{(\w+)\}\}/g, (_, label: string) => metric[label] ?? '').trim();
      series.push({ name, points: points.filter(([, number]) => !Number.isNaN(number)) });
    }
  }
  return series.filter(({ points }) => points.length > 0);
}

/** What an operator's two minutes may hold. */
async function live(world: World): Promise<void> {
  const [one, two, three, four] = [
    await world.addPod(),
    await world.addPod(),
    await world.addPod(),
    await world.addPod(),
  ];
  for (const pod of [one, two, three, four]) await pod.netns.waitForCarrier();
  const transfer = (from: typeof one, to: typeof one, port: number, mebibytesPerSecond: number): Promise<TcpTransfer> =>
    TcpTransfer.start(
      from.netns,
      to.netns,
      to.ipv4,
      { port, mebibytes: 8192, mebibytesPerSecond },
      world.directory,
      world.cleanup,
    );
  await transfer(one, two, 7400, 20);
  await pass(15_000);
  await transfer(three, four, 7401, 6);
  await pass(20_000);
  say('the switch is killed');
  await world.ovs.killSwitch();
  await pass(6_000);
  await world.ovs.startSwitch();
  say('the switch is back');
  await pass(30_000);
  const { netns, call, netconf } = await world.addPod();
  await world.agent.runtime
    .add({ ...netconf, device: { queues: 99 } }, { ...call, containerId: 'c'.repeat(64) })
    .catch(() => say('an ADD fails'));
  await pass(20_000);
  await world.agent.runtime.del(netconf, call);
  await netns.delete();
  await pass(25_000);
}

const world = await World.create({ tag: 'dashboard' });
world.cleanup.onSignals();
try {
  const start = Math.ceil(Date.now() / 1000);
  await startPrometheus(world);
  await live(world);
  const range = { start, end: Math.floor(Date.now() / 1000), step: scrapeSeconds };
  const nodes = await get<string[]>('label/node/values', { 'match[]': 'virtio_user_build_info' });
  say(`nodes that the variable offers: ${nodes.join(', ')}`);
  const answers: [Panel, Series[]][] = [];
  for (const panel of dashboard.panels) answers.push([panel, await ask(panel, range)]);
  for (const [{ title }, series] of answers) say(`${title}: ${series.map(({ name }) => name).join(', ') || 'no data'}`);
  writeFileSync(join(root, 'docs/charts/dashboard.svg'), drawDashboard(answers, range));
} finally {
  await world.close();
}
