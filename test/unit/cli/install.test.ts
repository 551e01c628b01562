import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { prepareDirectories } from '../../../src/agent/directories.ts';
import { exitCode } from '../../../src/cli/exit-code.ts';
import { runCommandLine } from '../../../src/cli/run.ts';

let directory: string;
let binDir: string;
let confDir: string;
let stateDir: string;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vu-install-'));
  binDir = join(directory, 'bin');
  confDir = join(directory, 'net.d');
  stateDir = join(directory, 'state');
});
afterEach(() => rmSync(directory, { recursive: true }));

/** A stand-in that answers VERSION as the executable does. */
function executable(name: string, answer = '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}'): string {
  const path = join(directory, name);
  writeFileSync(path, `#!/bin/sh\n[ "$CNI_COMMAND" = VERSION ] || exit 1\ncat >/dev/null\necho '${answer}'\n`);
  chmodSync(path, 0o755);
  return path;
}

function conf(name: string, text = '{"cniVersion":"1.0.0","name":"n","type":"virtio-user"}'): string {
  const path = join(directory, name);
  writeFileSync(path, text);
  return path;
}

async function run(...argv: string[]): Promise<{ code: number; out: string; err: string }> {
  let out = '';
  let err = '';
  const all = [...argv, `--cni-bin-dir=${binDir}`, `--cni-conf-dir=${confDir}`];
  const code = await runCommandLine(all, { out: (text) => (out += text), err: (text) => (err += text) });
  return { code, out, err };
}

describe('install', () => {
  it('puts the executable in place, ready to run, and leaves nothing beside it', async () => {
    const { code, out } = await run('install', `--executable=${executable('new')}`);
    expect(code).toBe(0);
    expect(out).toContain('0.4.0 1.0.0');
    expect(readdirSync(binDir)).toEqual(['virtio-user']);
    expect(statSync(join(binDir, 'virtio-user')).mode & 0o777).toBe(0o755);
    expect(existsSync(confDir)).toBe(false);
  });

  it('an identical file keeps its inode: runtimes watch the directory', async () => {
    const source = executable('new');
    await run('install', `--executable=${source}`);
    const before = statSync(join(binDir, 'virtio-user'));
    expect((await run('install', `--executable=${source}`)).out).toContain('unchanged');
    const after = statSync(join(binDir, 'virtio-user'));
    expect([after.ino, after.mtimeMs]).toEqual([before.ino, before.mtimeMs]);
  });

  it('replaces another version by rename: one that runs keeps its file', async () => {
    mkdirSync(binDir);
    writeFileSync(join(binDir, 'virtio-user'), 'old');
    const before = statSync(join(binDir, 'virtio-user')).ino;
    await run('install', `--executable=${executable('new')}`);
    expect(statSync(join(binDir, 'virtio-user')).ino).not.toBe(before);
  });

  it.each([
    ['prints something else', 'hello'],
    ['answers without versions', '{"cniVersion":"1.0.0"}'],
  ])('one that %s is refused, and the old one stays', async (_what, answer) => {
    mkdirSync(binDir);
    writeFileSync(join(binDir, 'virtio-user'), 'old');
    const { code, err } = await run('install', `--executable=${executable('bad', answer)}`);
    expect(code).toBe(exitCode.failure);
    expect(err).toContain('CNI_COMMAND=VERSION');
    expect(readFileSync(join(binDir, 'virtio-user'), 'utf8')).toBe('old');
    expect(readdirSync(binDir)).toEqual(['virtio-user']);
  });

  it('installs the configuration after the executable', async () => {
    const { out } = await run('install', `--executable=${executable('new')}`, `--conf=${conf('10-vu.conf')}`);
    expect(readdirSync(confDir)).toEqual(['10-vu.conf']);
    expect(out.indexOf('bin/virtio-user')).toBeLessThan(out.indexOf('10-vu.conf'));
    expect(statSync(join(confDir, '10-vu.conf')).mode & 0o777).toBe(0o644);
  });

  it('no configuration without an executable that works', async () => {
    await run('install', `--executable=${executable('bad', 'x')}`, `--conf=${conf('10-vu.conf')}`);
    expect(existsSync(confDir)).toBe(false);
  });

  it.each([
    ['10-vu.txt', '{}', 'no runtime loads'],
    ['10-vu.conf', '{not json', '--conf'],
  ])('a configuration %s with %s is refused', async (name, text, told) => {
    const ran = await run('install', `--executable=${executable('new')}`, `--conf=${conf(name, text)}`);
    expect(ran.code).toBe(exitCode.usage);
    expect(ran.err).toContain(told);
    expect(existsSync(confDir)).toBe(false);
  });
});

describe('uninstall', () => {
  let runDir: string;
  const uninstall = (...more: string[]): ReturnType<typeof run> =>
    run('uninstall', `--state-dir=${stateDir}`, `--run-dir=${runDir}`, ...more);
  const files = (): string[] => [binDir, confDir].flatMap((where) => (existsSync(where) ? readdirSync(where) : []));

  beforeEach(async () => {
    runDir = join(directory, 'run');
    await run('install', `--executable=${executable('new')}`, `--conf=${conf('10-vu.conf')}`);
  });

  /** What an agent leaves when it ends. */
  function agentWasThere(): void {
    prepareDirectories({ stateDir, runDir, socket: join(runDir, 'agent.sock'), vhostGroup: null });
    for (const name of ['agent.lock', 'delete-queue/lock', 'attachments/vu000000000001.json.3.tmp'])
      writeFileSync(join(stateDir, name), '');
    const sockets = ['agent.sock', 'introspect.sock', 'vhost/vu000000000001.sock'].map((name) => join(runDir, name));
    const script = 'import socket, sys\nfor path in sys.argv[1:]: socket.socket(socket.AF_UNIX).bind(path)';
    execFileSync('python3', ['-c', script, ...sockets]);
  }

  it('removes the configuration, then the executable, and is content when they are gone', async () => {
    const { code, out } = await uninstall('--conf-name=10-vu.conf');
    expect(code).toBe(0);
    expect(out.indexOf('10-vu.conf')).toBeLessThan(out.indexOf('bin/virtio-user'));
    expect(files()).toEqual([]);
    expect((await uninstall()).out).toContain('was not there');
  });

  it('refuses while pods are attached, unless it is forced', async () => {
    mkdirSync(join(stateDir, 'attachments'), { recursive: true });
    writeFileSync(join(stateDir, 'attachments', 'vu000000000001.json'), '{}');
    const refused = await uninstall();
    expect(refused.code).toBe(exitCode.failure);
    expect(refused.err).toContain('1 pod interface is attached');
    expect(refused.err).toContain('apply the manifests again, delete the pods');
    expect(files()).toEqual(['virtio-user', '10-vu.conf']);
    expect((await uninstall('--force')).code).toBe(0);
    expect(files()).toEqual(['10-vu.conf']);
    expect(existsSync(join(stateDir, 'attachments', 'vu000000000001.json'))).toBe(true);
  });

  it('removes what an agent left, and repeated deletes of what is gone', async () => {
    agentWasThere();
    writeFileSync(join(stateDir, 'delete-queue', '1764100000.000000001-77.req'), 'a DEL');
    const { code, out } = await uninstall();
    expect(code).toBe(0);
    expect(out).toMatch(new RegExp(`${stateDir}: +removed`));
    expect(out).toMatch(new RegExp(`${runDir}: +removed`));
    expect([stateDir, runDir].filter((path) => existsSync(path))).toEqual([]);
    expect((await uninstall()).out).toMatch(new RegExp(`${stateDir}: +was not there`));
  });

  it('waits for a DEL that queues itself while everything goes', async () => {
    agentWasThere();
    const path = join(binDir, 'virtio-user');
    copyFileSync('/bin/sh', path);
    // A call of the runtime under way: it queues itself when the state is gone, or after a while.
    const queue = join(stateDir, 'delete-queue');
    const script = `echo begun; i=0; while [ -e ${stateDir} ] && [ $i -lt 200000 ]; do i=$((i + 1)); done
      mkdir -p ${queue}; echo a DEL > ${queue}/1764100000.000000001-77.req`;
    const call = spawn(path, ['-c', script]);
    await once(call.stdout, 'data');
    const uninstalled = uninstall();
    expect((await uninstalled).code).toBe(0);
    if (call.exitCode === null) await once(call, 'close');
    expect(existsSync(stateDir)).toBe(false);
  });

  it('refuses while an agent runs, and touches nothing of it by force either', async () => {
    agentWasThere();
    const held = spawn('flock', [join(stateDir, 'agent.lock'), 'sh', '-c', 'echo held; exec cat']);
    await once(held.stdout, 'data');
    const refused = await uninstall();
    expect(refused.code).toBe(exitCode.failure);
    expect(refused.err).toContain('an agent runs');
    expect(refused.err).toContain('delete daemonset');
    expect(files()).toEqual(['virtio-user', '10-vu.conf']);
    expect((await uninstall('--force')).code).toBe(0);
    expect(files()).toEqual(['10-vu.conf']);
    for (const path of [join(stateDir, 'attachments'), join(runDir, 'agent.sock')]) expect(existsSync(path)).toBe(true);
    held.stdin.end();
    await once(held, 'close');
    expect((await uninstall()).out).toMatch(new RegExp(`${stateDir}: +removed`));
  });

  it.each([
    ['a record that was set aside', 'attachments/vu000000000001.json.bad'],
    ['a file of somebody else', 'notes.txt'],
    ['a delete that was set aside', 'delete-queue/1764100000.000000001-77.req.bad'],
  ])('keeps a directory with %s whole, and says so', async (_what, name) => {
    agentWasThere();
    writeFileSync(join(stateDir, name), '');
    const { code, out } = await uninstall();
    expect(code).toBe(0);
    expect(out).toContain(`kept: it holds ${name}`);
    expect(existsSync(join(stateDir, 'delete-queue', 'lock'))).toBe(true);
    expect(existsSync(runDir)).toBe(false);
  });

  it('follows no link', async () => {
    agentWasThere();
    const elsewhere = join(directory, 'elsewhere');
    mkdirSync(elsewhere);
    writeFileSync(join(elsewhere, 'vu000000000002.sock'), '');
    rmSync(join(runDir, 'vhost'), { recursive: true });
    symlinkSync(elsewhere, join(runDir, 'vhost'));
    renameSync(stateDir, `${stateDir}-moved`);
    symlinkSync(`${stateDir}-moved`, stateDir);
    const { out } = await uninstall();
    expect(out).toContain('kept: it is a symbolic link');
    expect(out).toContain('kept: it holds vhost');
    expect(readdirSync(elsewhere)).toEqual(['vu000000000002.sock']);
    expect(readdirSync(`${stateDir}-moved`).sort()).toEqual(['agent.lock', 'attachments', 'delete-queue']);
  });

  it('removes the seccomp profile where it is told, and no other', async () => {
    const seccompDir = join(directory, 'seccomp');
    mkdirSync(seccompDir);
    for (const name of ['virtio-user.json', 'other.json']) writeFileSync(join(seccompDir, name), '{}');
    await uninstall();
    expect(readdirSync(seccompDir)).toHaveLength(2);
    await uninstall(`--seccomp-dir=${seccompDir}`);
    expect(readdirSync(seccompDir)).toEqual(['other.json']);
  });
});
