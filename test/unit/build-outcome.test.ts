/** The build for the tiers deploy and cluster: what this machine lacks is left out, what is broken fails. */
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { type Finished, runAny } from '../support/process.ts';

const script = (name: string): string => fileURLToPath(new URL(`../../scripts/${name}`, import.meta.url));

let directory: string;
beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vu-build-'));
});
afterEach(() => rmSync(directory, { recursive: true, force: true }));

function file(name: string, text: string): string {
  const path = join(directory, name);
  writeFileSync(path, text);
  chmodSync(path, 0o755);
  return path;
}
const lastLine = ({ stdout, stderr }: Finished): string => (stdout + stderr).trim().split('\n').at(-1) ?? '';

describe('what a whole test run makes of a build', () => {
  const tryBuild = (seconds: number, ...bodies: readonly string[]): Promise<Finished> =>
    runAny('bash', [script('try-build.sh'), `${seconds}`, ...bodies.map((body, index) => file(`${index}.sh`, body))]);

  it('all that is built is a success', async () => {
    expect(await tryBuild(60, 'echo one', 'echo two')).toMatchObject({ code: 0, stdout: 'one\ntwo\n' });
  });

  it('what this machine lacks has its exit code, its words last, and nothing is built after it', async () => {
    const finished = await tryBuild(60, `. ${script('lack.sh')}; lack cluster 'Go is missing'`, 'echo two');
    expect(finished).toMatchObject({ code: 75, stdout: '' });
    expect(lastLine(finished)).toBe('[cluster] Go is missing');
  });

  it('a build that takes too long is cut, and no fault', async () => {
    const finished = await tryBuild(0.2, 'sleep 60');
    expect(finished.code).toBe(75);
    expect(lastLine(finished)).toContain('not built within 0.2 s');
  });

  it.each([1, 2, 127])('a build that ends with %d is a failure', async (code) => {
    const finished = await tryBuild(60, `echo a.go:1: syntax error; exit ${code}`, 'echo two');
    expect(finished).toMatchObject({ code: 1, stdout: 'a.go:1: syntax error\n' });
    expect(lastLine(finished)).toContain(`failed to build (exit code ${code})`);
  });
});

describe('a build script', () => {
  /** Go as a machine may have it. */
  const withGo = (name: string, { version = 'go1.26.0', download = 0 } = {}): Promise<Finished> => {
    const answers = `version) echo ${version} ;; env) echo ${version} ;; mod) exit ${download} ;; *) exit 1 ;;`;
    file('go', `#!/bin/sh\ncase $1 in ${answers} esac\n`);
    const env = { ...process.env, PATH: `${directory}:${process.env['PATH'] ?? ''}` };
    return runAny('bash', [script(name)], { env });
  };

  it('tells modules that cannot be downloaded from what does not compile', async () => {
    expect(await withGo('build-multus.sh', { download: 1 })).toMatchObject({
      code: 75,
      stderr: expect.stringContaining('cannot be downloaded'),
    });
    expect(await withGo('build-multus.sh')).toMatchObject({
      code: 1,
      stderr: expect.stringContaining('does not build'),
    });
  });

  it('takes a Go that is too old for something that the machine lacks', async () => {
    expect(await withGo('build-cluster.sh', { version: 'go1.19.8' })).toMatchObject({
      code: 75,
      stderr: expect.stringContaining('Go is 1.19.8: install Go 1.24 or newer'),
    });
  });

  it.each([
    ['E: Failed to fetch http://mirror.example/x.deb  Connection refused', true],
    ["Temporary failure resolving 'mirror.example'", true],
    ['npm error code ENOTFOUND', true],
    ['E: Unable to locate package nonexistent', false],
    ["src/main.ts(1,1): error TS2304: Cannot find name 'x'", false],
    ['npm error code ELIFECYCLE', false],
  ])('of the log of an image, %j is a lack: %s', async (line, isLack) => {
    const log = file('build.log', `one\n${line}\ntwo\n`);
    const { code } = await runAny('bash', ['-c', `. ${script('lack.sh')}; download_failed ${log}`]);
    expect(code === 0).toBe(isLack);
  });
});
