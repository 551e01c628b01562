/**
 * `npm run bench`: everything that is compared runs interleaved in one go; medians and ratios are printed and written
 * to bench/results.json, the charts of the README to docs/charts/. `--quick` is a smoke run whose figures mean nothing.
 * `--only dataplane-tso,dataplane-own,dataplane,rings,verbs,scale,executable` repeats parts and keeps the other figures.
 */
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { cpus, release, totalmem } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { benchDataplane, benchRings, congestionControl } from './dataplane.ts';
import { benchExecutable } from './executable.ts';
import { writeReport } from './report.ts';
import { benchScale } from './scale.ts';
import { benchVerbs } from './verbs.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const resultsPath = join(root, 'bench', 'results.json');
const quick = process.argv.includes('--quick');
const onlyIndex = process.argv.indexOf('--only');
const only = onlyIndex === -1 ? null : (process.argv[onlyIndex + 1] ?? '').split(',');
const startedMs = performance.now();

function say(text: string): void {
  process.stdout.write(`${((performance.now() - startedMs) / 1000).toFixed(0).padStart(5)} s  ${text}\n`);
}

const usual = { tcpOnly: false, placement: 'shared' } as const;
const dataplane = quick
  ? { rounds: 1, tcpSeconds: 1, shortSeconds: 1, ...usual }
  : { rounds: 7, tcpSeconds: 3, shortSeconds: 2, ...usual };

const parts: Readonly<Record<string, (directory: string) => Promise<unknown>>> = {
  executable: (directory) => benchExecutable(directory, quick ? 20 : 300),
  verbs: (directory) => benchVerbs(directory, quick ? 3 : 100, quick ? 1 : 5, say),
  'dataplane-tso': (directory) => benchDataplane(true, directory, dataplane, say),
  'dataplane-own': (directory) => benchDataplane(true, directory, { ...dataplane, placement: 'own' }, say),
  dataplane: (directory) => benchDataplane(false, directory, { ...dataplane, tcpOnly: true }, say),
  rings: (directory) => benchRings(directory, { ...dataplane, placement: 'own' }, say),
  scale: (directory) => benchScale(directory, quick ? 3 : 20, say),
};

const results: Record<string, unknown> =
  only !== null && existsSync(resultsPath)
    ? (JSON.parse(readFileSync(resultsPath, 'utf8')) as Record<string, unknown>)
    : {};
results['machine'] = {
  cpu: cpus()[0]?.model ?? 'unknown',
  cores: cpus().length,
  memoryGb: Math.round(totalmem() / 2 ** 30),
  kernel: release().split('-')[0] ?? '',
  node: process.version,
  congestionControl: congestionControl(),
  date: new Date().toISOString().slice(0, 10),
};

for (const [name, bench] of Object.entries(parts)) {
  if (only !== null && !only.includes(name)) continue;
  const directory = mkdtempSync('/run/vu-bench-');
  try {
    say(`part ${name}`);
    results[name] = await bench(directory);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
  if (!quick) {
    mkdirSync(join(root, 'bench'), { recursive: true });
    writeFileSync(resultsPath, `${JSON.stringify(results, null, 2)}\n`);
  }
}
const { failedGates } = writeReport(results, quick ? null : join(root, 'docs', 'charts'));
say(`${failedGates} gates missed`);
