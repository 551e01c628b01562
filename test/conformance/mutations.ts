/**
 * `npm run test:mutations`: each rule of mutations.json is broken by one line in a copy of the tree, and a test whose
 * name begins with the rule's number must then fail. Two lanes at a time: TypeScript, native.
 *   --seconds N   time box (default: none); what did not fit is listed. Lanes start at a rule that changes from day to
 *                 day, so that a bounded run gets to all of them.
 *   --rule ID     this rule only
 * Exit code 1: a mutation survived, or could not be made.
 */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { cpSync, existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { Cleanup } from '../support/cleanup.ts';
import { readGoogle, readJest, type RunTest } from './results.ts';

interface Mutation {
  readonly rule: string;
  readonly file: string;
  /** Occurs once, unless `all`. */
  readonly search: string;
  readonly replace: string;
  readonly all?: boolean;
  /** A Jest file, `native`, or `native:` and a filter of GoogleTest names. */
  readonly test: string;
  /** Of native tests: the binary that holds them. */
  readonly binary?: string;
}

type Verdict = 'killed' | 'survived' | 'invalid' | 'not run';

const root = fileURLToPath(new URL('../..', import.meta.url));
const testSeconds = 120;
const cleanup = new Cleanup();
cleanup.onSignals();
/** Process groups under way. */
const running = new Set<number>();
cleanup.add('children', () => {
  for (const pid of running) process.kill(-pid, 'SIGKILL');
});

async function run(command: string, args: readonly string[], cwd: string, seconds: number, env = process.env) {
  const child = spawn(command, args, { cwd, env, stdio: ['ignore', 'pipe', 'pipe'], detached: true });
  let output = '';
  for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk: Buffer) => (output += chunk.toString()));
  const { pid } = child;
  if (pid === undefined) throw new Error(`${command} does not start`);
  running.add(pid);
  // The group: a broken program's children must not outlive it.
  const timer = setTimeout(() => process.kill(-pid, 'SIGKILL'), seconds * 1000);
  const [code] = (await once(child, 'close')) as [number | null];
  clearTimeout(timer);
  running.delete(pid);
  return { code, output: output.slice(-2000) };
}

/** A copy of what is under version control, as it is in the working tree. */
function copyTree(lane: string): string {
  const copy = mkdtempSync(join(tmpdir(), `vu-mutations-${lane}-`));
  cleanup.add(copy, () => rmSync(copy, { recursive: true }));
  const files = execFileSync('git', ['ls-files', '-z', 'src', 'native', 'test', 'package.json', 'tsconfig.json'], {
    cwd: root,
    encoding: 'utf8',
  });
  for (const file of files.split('\0').filter((name) => name !== '' && existsSync(join(root, name)))) {
    mkdirSync(dirname(join(copy, file)), { recursive: true });
    cpSync(join(root, file), join(copy, file));
  }
  symlinkSync(join(root, 'node_modules'), join(copy, 'node_modules'));
  return copy;
}

function mutate(tree: string, { file, search, replace, all }: Mutation): (() => void) | null {
  const path = join(tree, file);
  const before = existsSync(path) ? readFileSync(path, 'utf8') : '';
  const times = before.split(search).length - 1;
  if (times === 0 || (times > 1 && all !== true)) return null;
  writeFileSync(
    path,
    before.replaceAll(search, () => replace),
  );
  return () => writeFileSync(path, before);
}

const binaryOf = ({ binary }: Mutation): string => binary ?? 'native_tests';
const isTypeScript = ({ test }: Mutation): boolean => !test.startsWith('native');

async function runJest(tree: string, file: string): Promise<RunTest[] | null> {
  const output = join(tree, 'mutation-result.json');
  rmSync(output, { force: true });
  const node = ['--disable-warning=ExperimentalWarning', '--experimental-vm-modules', 'node_modules/jest/bin/jest.js'];
  const args = [...node, '--config', 'test/jest.config.js', '--runInBand', '--silent', '--forceExit'];
  await run(process.execPath, [...args, '--json', `--outputFile=${output}`, file], tree, testSeconds);
  if (!existsSync(output)) return null;
  try {
    return readJest(output);
  } catch {
    return null; // the mutated file does not even load
  }
}

function filterOf({ rule, test }: Mutation): string {
  if (test !== 'native') return test.slice('native:'.length);
  const lead = rule.startsWith('F') ? rule : `S${rule}`;
  return `*.${lead}_*:*_${lead}_*`;
}

/** @returns what the compiler said, or null when it built */
async function buildNative(tree: string, binaries: readonly string[]): Promise<string | null> {
  const cmake = ['-S', 'test/native', '-B', 'build/native-test', '-G', 'Ninja', '-DCMAKE_CXX_COMPILER=g++'];
  if (!existsSync(join(tree, 'build/native-test/build.ninja'))) {
    const { code, output } = await run('cmake', cmake, tree, 60);
    if (code !== 0) return output;
  }
  const ninja = ['-C', 'build/native-test', '-j', process.env['JOBS'] ?? '2', ...binaries];
  const { code, output } = await run('ninja', ninja, tree, 900);
  return code === 0 ? null : output;
}

/** null: the mutated tree did not build. A crash is a failure of all that it was to run. */
async function runNative(tree: string, mutation: Mutation): Promise<RunTest[] | null> {
  if ((await buildNative(tree, [binaryOf(mutation)])) !== null) return null;
  const output = join(tree, 'mutation-result.json');
  rmSync(output, { force: true });
  const filter = filterOf(mutation);
  const args = [`--gtest_filter=${filter}`, `--gtest_output=json:${output}`, '--gtest_brief=1', '--gtest_fail_fast'];
  await run(join(tree, 'build/native-test', binaryOf(mutation)), args, tree, testSeconds);
  if (existsSync(output)) return readGoogle(output);
  return [{ where: 'native', test: `${filter} (crashed or hung)`, ids: [mutation.rule], passed: false }];
}

const runTests = (tree: string, mutation: Mutation): Promise<RunTest[] | null> =>
  isTypeScript(mutation) ? runJest(tree, mutation.test) : runNative(tree, mutation);

/** Tests that speak for the rule: by number, or by the filter that the mutation names. */
function relevant(tests: readonly RunTest[], mutation: Mutation): RunTest[] {
  if (mutation.test.startsWith('native:')) return [...tests];
  return tests.filter(({ ids }) => ids.includes(mutation.rule));
}

async function judge(tree: string, mutation: Mutation): Promise<readonly [Verdict, string]> {
  const undo = mutate(tree, mutation);
  if (undo === null) return ['invalid', `${mutation.file} does not hold, once: ${mutation.search}`];
  try {
    const tests = await runTests(tree, mutation);
    if (tests === null) return ['invalid', 'the mutated tree does not build or load'];
    const failed = relevant(tests, mutation).filter(({ passed }) => !passed);
    if (failed.length > 0) return ['killed', failed[0]?.test ?? ''];
    return ['survived', `${relevant(tests, mutation).length} tests of [${mutation.rule}] in ${mutation.test} pass`];
  } finally {
    undo();
  }
}

/** Without a mutation everything that is to fail passes: else a failure would prove nothing. */
async function checkBaseline(tree: string, mutations: readonly Mutation[]): Promise<void> {
  const binaries = new Set(mutations.filter((mutation) => !isTypeScript(mutation)).map(binaryOf));
  if (binaries.size > 0) {
    const said = await buildNative(tree, [...binaries]);
    if (said !== null) throw new Error(`without a mutation the native tests do not build:\n${said}`);
  }
  const distinct = new Map(
    mutations.map((mutation) => [
      isTypeScript(mutation) ? mutation.test : `${binaryOf(mutation)} ${filterOf(mutation)}`,
      mutation,
    ]),
  );
  for (const [name, mutation] of distinct) {
    const tests = (await runTests(tree, mutation)) ?? [];
    const failed = tests.filter(({ passed }) => !passed);
    if (tests.length === 0 || failed.length > 0) {
      throw new Error(`without a mutation ${name} does not pass: ${failed[0]?.test ?? 'nothing ran'}`);
    }
  }
}

async function runLane(lane: string, mutations: readonly Mutation[], endMs: number): Promise<Verdict[]> {
  if (mutations.length === 0) return [];
  const tree = copyTree(lane);
  const verdicts: Verdict[] = [];
  await checkBaseline(tree, mutations);
  for (const mutation of mutations) {
    const started = performance.now();
    const [verdict, why] = started > endMs ? (['not run', 'out of time'] as const) : await judge(tree, mutation);
    verdicts.push(verdict);
    const seconds = ((performance.now() - started) / 1000).toFixed(0).padStart(3);
    process.stdout.write(
      `${`[${mutation.rule}]`.padEnd(6)} ${verdict.padEnd(8)} ${seconds} s  ${mutation.file}: ${why}\n`,
    );
  }
  return verdicts;
}

const { values } = parseArgs({ options: { seconds: { type: 'string' }, rule: { type: 'string' } } });
const all = JSON.parse(readFileSync(new URL('./mutations.json', import.meta.url), 'utf8')) as readonly Mutation[];
const wanted = all.filter(({ rule }) => values.rule === undefined || rule === values.rule);
const endMs = values.seconds === undefined ? Infinity : performance.now() + Number(values.seconds) * 1000;
const day = Math.floor(Date.now() / 86_400_000);
const turned = (lane: readonly Mutation[]): Mutation[] => {
  const first = values.seconds === undefined || lane.length === 0 ? 0 : (day * 7) % lane.length;
  return [...lane.slice(first), ...lane.slice(0, first)];
};
const lanes = await Promise.allSettled([
  runLane('ts', turned(wanted.filter(isTypeScript)), endMs),
  runLane('native', turned(wanted.filter((mutation) => !isTypeScript(mutation))), endMs),
]);
for (const failure of await cleanup.run()) process.stderr.write(`clean-up: ${failure}\n`);
const broken = lanes.filter((lane) => lane.status === 'rejected');
for (const { reason } of broken) process.stderr.write(`${String(reason)}\n`);
const verdicts = lanes.flatMap((lane) => (lane.status === 'fulfilled' ? lane.value : []));
const count = (verdict: Verdict): number => verdicts.filter((one) => one === verdict).length;
process.stdout.write(
  `${count('killed')} killed, ${count('survived')} survived, ${count('invalid')} invalid, ${count('not run')} not run\n`,
);
process.exitCode = broken.length + count('survived') + count('invalid') === 0 ? 0 : 1;
