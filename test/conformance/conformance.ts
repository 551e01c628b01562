/**
 * `npm run test:conformance`: number → statement → pass, for the checklist of the device (statements.json).
 *
 * Runs every test whose name begins with a number (`[33] …`, in C++ `S33_…`), then prints the table. A statement without
 * a test must say why in statements.json. Exit code 1: a statement failed, or is neither shown nor explained.
 *   --results DIRECTORY   runs nothing; reads *.json of Jest and native/*.json of GoogleTest there
 */
import { spawnSync } from 'node:child_process';
import { existsSync, globSync, mkdirSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { readGoogle, readJest, type RunTest } from './results.ts';

interface Statement {
  readonly id: string;
  readonly text: string;
  /** Why no test shows it. */
  readonly notCovered?: string;
}

const root = fileURLToPath(new URL('../..', import.meta.url));
const tiers = ['unit', 'protocol', 'fuzz', 'addon', 'interop', 'e2e'] as const;
const numbered = /\[(\d{1,2}|F\d{1,2})\] /;

function run(command: string, args: readonly string[], env: NodeJS.ProcessEnv = process.env): void {
  const { status, signal } = spawnSync(command, args, { cwd: root, env, stdio: 'inherit', timeout: 900_000 });
  // Failures are in the results; what did not run is missing there, which is an error of its own.
  if (signal !== null) throw new Error(`${command} ${args[0] ?? ''} was ended: ${signal}`);
  if (status !== 0) process.stderr.write(`[conformance] ${command} ${args.slice(0, 2).join(' ')}: exit ${status}\n`);
}

function runTests(directory: string): void {
  rmSync(directory, { recursive: true, force: true });
  mkdirSync(join(directory, 'native'), { recursive: true });
  run('bash', ['scripts/build.sh']);
  for (const tier of tiers) {
    const files = globSync(`test/${tier}/**/*.test.ts`, { cwd: root }).filter((file) =>
      numbered.test(readFileSync(join(root, file), 'utf8')),
    );
    if (files.length === 0) continue;
    const jest = ['node_modules/jest/bin/jest.js', '--config', 'test/jest.config.js', '--runInBand', '--silent'];
    const node = ['--disable-warning=ExperimentalWarning', '--experimental-vm-modules', ...jest];
    run(process.execPath, [...node, '--json', `--outputFile=${join(directory, `${tier}.json`)}`, ...files.toSorted()]);
  }
  const results = `json:${join(directory, 'native')}/`;
  run('bash', ['scripts/test-native.sh', 'plain'], { ...process.env, GTEST_OUTPUT: results });
}

function readResults(directory: string): RunTest[] {
  const jest = readdirSync(directory).filter((file) => file.endsWith('.json'));
  const native = join(directory, 'native');
  const google = existsSync(native) ? readdirSync(native).filter((file) => file.endsWith('.json')) : [];
  if (jest.length === 0 || google.length === 0) throw new Error(`no results of Jest or of GoogleTest in ${directory}`);
  return [
    ...jest.flatMap((file) => readJest(join(directory, file))),
    ...google.flatMap((file) => readGoogle(join(native, file))),
  ];
}

function report(statements: readonly Statement[], tests: readonly RunTest[]): boolean {
  const count = { pass: 0, fail: 0, open: 0, unexplained: 0 };
  for (const statement of statements) {
    const shown = tests.filter(({ ids }) => ids.includes(statement.id));
    const failed = shown.filter(({ passed }) => !passed);
    const verdict =
      failed.length > 0
        ? 'fail'
        : shown.length > 0
          ? 'pass'
          : statement.notCovered !== undefined
            ? 'open'
            : 'unexplained';
    count[verdict] += 1;
    const label = { pass: 'pass', fail: 'FAIL', open: 'not covered', unexplained: 'NO TEST' }[verdict];
    const where = [...new Set(shown.map((test) => test.where.split('/')[0]))].join(', ');
    const tail = shown.length > 0 ? ` (${shown.length}: ${where})` : '';
    process.stdout.write(`${statement.id.padStart(3)}  ${label.padEnd(11)}  ${statement.text}${tail}\n`);
    if (verdict === 'open') process.stdout.write(`${' '.repeat(18)}why: ${statement.notCovered}\n`);
    if (shown.length > 0 && statement.notCovered !== undefined) {
      process.stdout.write(`${' '.repeat(18)}statements.json still says why it is not covered\n`);
    }
    for (const { where: place, test } of failed) process.stdout.write(`${' '.repeat(18)}${place}: ${test}\n`);
  }
  process.stdout.write(
    `${count.pass} pass, ${count.fail} fail, ${count.open} not covered, ${count.unexplained} without test or reason\n`,
  );
  return count.fail === 0 && count.unexplained === 0;
}

const { values } = parseArgs({ options: { results: { type: 'string' } } });
const directory = values.results ?? join(root, 'build/conformance');
if (values.results === undefined) runTests(directory);
const statements = JSON.parse(
  readFileSync(new URL('./statements.json', import.meta.url), 'utf8'),
) as readonly Statement[];
process.exitCode = report(statements, readResults(directory)) ? 0 : 1;
