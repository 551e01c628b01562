/** Which test showed which statement: what Jest and GoogleTest wrote, read by the numbers in test names. */
import { readFileSync } from 'node:fs';

export interface Shown {
  readonly id: string;
  /** Tier or binary, and the test's whole name. */
  readonly where: string;
  readonly test: string;
  readonly passed: boolean;
}

export interface RunTest {
  readonly where: string;
  readonly test: string;
  readonly ids: readonly string[];
  readonly passed: boolean;
}

interface JestRun {
  readonly testResults: readonly {
    readonly name: string;
    readonly status: string;
    readonly message: string;
    readonly assertionResults: readonly {
      readonly ancestorTitles: readonly string[];
      readonly title: string;
      readonly fullName: string;
      readonly status: string;
    }[];
  }[];
}

interface GoogleRun {
  readonly testsuites: readonly {
    readonly testsuite: readonly {
      readonly name: string;
      readonly classname: string;
      readonly result: string;
      readonly failures?: readonly unknown[];
    }[];
  }[];
}

/** `[33] [F15] with …` → 33, F15: the numbers that a title begins with. */
export function idsOfTitle(title: string): string[] {
  const lead = /^(\[(\d{1,2}|F\d{1,2})\]\s*)+/.exec(title)?.[0] ?? '';
  return Array.from(lead.matchAll(/\[(\w+)\]/g), ([, id]) => id ?? '');
}

/** `S55_F31_ReceiveIndexJumps/split` → 55, F31: a C++ name holds no brackets. */
export function idsOfIdentifier(name: string): string[] {
  const lead = /^((S\d{1,2}|F\d{1,2})_)+/.exec(name)?.[0] ?? '';
  return Array.from(lead.matchAll(/S?(F?\d+)_/g), ([, id]) => id ?? '');
}

/** @throws Error when a suite did not run at all: its tests would be missing without a trace */
export function readJest(path: string): RunTest[] {
  const run = JSON.parse(readFileSync(path, 'utf8')) as JestRun;
  return run.testResults.flatMap(({ name, status, message, assertionResults }) => {
    const where = /\/test\/(.*)$/.exec(name)?.[1] ?? name;
    if (status === 'failed' && assertionResults.length === 0) throw new Error(`${where} did not run: ${message}`);
    return assertionResults.map(({ ancestorTitles, title, fullName, status: outcome }) => ({
      where,
      test: fullName,
      ids: [...ancestorTitles, title].flatMap(idsOfTitle),
      passed: outcome === 'passed',
    }));
  });
}

export function readGoogle(path: string): RunTest[] {
  const run = JSON.parse(readFileSync(path, 'utf8')) as GoogleRun;
  return run.testsuites.flatMap(({ testsuite }) =>
    testsuite.map(({ name, classname, result, failures }) => ({
      where: 'native',
      test: `${classname}.${name}`,
      ids: idsOfIdentifier(name),
      passed: result === 'COMPLETED' && (failures ?? []).length === 0,
    })),
  );
}
