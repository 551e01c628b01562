/** The agent as a process: what a supervisor, an admin with a typing error and a second agent see of it. */
import { mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, truncateSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { once } from 'node:events';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { allowedCores } from '../../src/agent/limits.ts';
import { Agent } from '../support/agent.ts';
import { Cleanup } from '../support/cleanup.ts';
import { OvsdbServer } from '../support/ovsdb-server.ts';
import { Daemon, type Finished, run, runAny, until } from '../support/process.ts';
import { threadCores, type ThreadCores } from '../support/thread-cores.ts';
import { type CniOutcome, newContainerId, Runtime } from '../support/runtime.ts';

const mainPath = fileURLToPath(new URL('../../dist/main.js', import.meta.url));

let directory: string;
let cleanup: Cleanup;

beforeEach(() => {
  cleanup = new Cleanup();
  directory = mkdtempSync('/run/vu-process-');
  cleanup.add('directory', () => rmSync(directory, { recursive: true, force: true }));
});
afterEach(async () => {
  expect(await cleanup.run()).toEqual([]);
});

const start = (): Promise<Agent> => Agent.start(join(directory, 'agent'), {}, cleanup);

/** A second agent that is expected to end by itself. */
function runAgent(...args: string[]): Promise<Finished> {
  const own = [`--run-dir=${join(directory, 'other')}`, `--state-dir=${join(directory, 'other-state')}`];
  const rest = ['--metrics-address=127.0.0.1:0', '--node-name=test-node', '--kubernetes=off'];
  return runAny(process.execPath, [mainPath, 'agent', ...own, ...rest, ...args], { timeoutMs: 10_000 });
}

describe('the agent process', () => {
  it('keeps strangers out of its directories and sockets', async () => {
    const agent = await start();
    const mode = (path: string): string => (statSync(path).mode & 0o777).toString(8);
    expect(mode(agent.runDir)).toBe('711');
    expect(mode(join(agent.runDir, 'vhost'))).toBe('750');
    expect(mode(agent.stateDir)).toBe('700');
    expect(mode(agent.socketPath)).toBe('600');
    expect(mode(join(agent.runDir, 'introspect.sock'))).toBe('600');
  });

  it('refuses a second agent on its state directory, and goes on', async () => {
    const agent = await start();
    const second = await runAgent(`--state-dir=${agent.stateDir}`);
    expect(second.code).toBe(1);
    expect(second.stderr).toContain('another agent runs on this state directory');
    expect((await agent.get('/readyz'))?.ok).toBe(true);
  });

  it('a killed agent leaves nothing that keeps the next one from starting', async () => {
    const agent = await start();
    await agent.kill();
    expect(readdirSync(agent.runDir)).toContain('agent.sock');
    await agent.start();
    expect((await agent.get('/readyz?verbose'))?.body).toContain('[+] cni-socket-open');
  });

  it('SIGTERM ends it with exit code 0; SIGHUP does not', async () => {
    const runDir = join(directory, 'run');
    const args = [`--run-dir=${runDir}`, `--state-dir=${join(directory, 'state')}`, '--metrics-address=127.0.0.1:0'];
    const daemon = new Daemon('agent', process.execPath, [mainPath, 'agent', ...args], join(directory, 'log'));
    cleanup.add('agent', () => daemon.stop('SIGKILL'));
    await until('the agent to be ready', () => daemon.logTail(100).includes('"ready"'));
    process.kill(daemon.pid, 'SIGHUP');
    await until('the log line', () => daemon.logTail(100).includes('SIGHUP is ignored'));
    await daemon.stop('SIGTERM');
    expect(daemon.exit).toBe('exit 0');
    expect(daemon.logTail(1)).toContain('"stopped"');
    expect(readdirSync(runDir)).toEqual(['vhost']);
  });

  it.each([
    ['--pump-threads=none', 2, '--pump-threads: "none" is not an integer from 1 to 64'],
    ['--kubernetes=on', 1, 'no credentials: KUBERNETES_SERVICE_HOST is not set'],
    ['--state-dir=/proc/nowhere', 1, '/proc/nowhere'],
  ])('%s ends it with exit code %d', async (flag, code, told) => {
    const finished = await runAgent(flag);
    expect(finished).toMatchObject({ code });
    expect(finished.stderr).toContain(told);
  });

  it('a port that is taken ends it, naming the port', async () => {
    const other = createServer().listen(0, '127.0.0.1');
    await once(other, 'listening');
    cleanup.add('port', () => other.close());
    const address = other.address();
    const port = typeof address === 'object' ? (address?.port ?? 0) : 0;
    const finished = await runAgent(`--metrics-address=127.0.0.1:${port}`);
    expect(finished.code).toBe(1);
    expect(finished.stderr).toContain(`port ${port}`);
  });

  it('queued deletes whose IPAM plugin hangs keep it from serving for some seconds, not for as long as they hang', async () => {
    const bin = join(directory, 'bin');
    mkdirSync(bin);
    const says = `[ "$CNI_COMMAND" = VERSION ] && exec echo '{"supportedVersions":["1.0.0"]}'`;
    writeFileSync(join(bin, 'hanging'), `#!/bin/sh\n${says}\nexec /bin/sleep 60\n`, { mode: 0o755 });
    const netconf = { cniVersion: '1.0.0', name: 'net', type: 'virtio-user', ipam: { type: 'hanging' } };
    const runtime = new Runtime({
      VIRTIO_USER_AGENT_SOCKET: join(directory, 'agent/run/agent.sock'),
      VIRTIO_USER_STATE_DIR: join(directory, 'agent/state'),
    });
    const del = (): Promise<CniOutcome> =>
      runtime.call('DEL', netconf, { containerId: newContainerId(), netnsPath: '' }, {}, { CNI_PATH: bin });
    for (const outcome of await Promise.all(Array.from({ length: 9 }, del))) expect(outcome.ok).toBe(true);
    const startedMs = performance.now();
    const starting = start();
    // One more, while the agent works on the others: it is queued, too.
    expect((await del()).ok).toBe(true);
    const agent = await starting;
    expect(performance.now() - startedMs).toBeLessThan(30_000);
    const { ok } = await runtime.call('STATUS', { ...netconf, ipam: undefined }, null);
    expect(ok).toBe(true);
    expect((await agent.get('/metrics'))?.body).toMatch(/^virtio_user_delete_queue_entries (9|10)$/m);
    await agent.stop();
    expect(readdirSync(join(agent.stateDir, 'delete-queue')).filter((name) => name.endsWith('.req'))).toHaveLength(10);
  }, 60_000);

  it('a queued delete that is garbage is set aside and does not keep it from starting', async () => {
    const queue = join(directory, 'agent', 'state', 'delete-queue');
    mkdirSync(queue, { recursive: true });
    writeFileSync(join(queue, '1700000000.000000000-1.req'), 'garbage');
    const agent = await start();
    expect(readdirSync(queue)).toContain('1700000000.000000000-1.req.bad');
    expect((await agent.get('/metrics'))?.body).toContain(
      'virtio_user_delete_queue_processed_total{result="corrupt"} 1',
    );
  });
});

describe('a full disk under the log', () => {
  const disk = (): string => join(directory, 'disk');
  const logPath = (): string => join(disk(), 'agent.log');
  const status = async (agent: Agent, times: number): Promise<void> => {
    const netconf = { cniVersion: '1.0.0', name: 'net', type: 'virtio-user' };
    for (let call = 0; call < times; call += 1)
      expect((await agent.runtime.call('STATUS', netconf, null)).ok).toBe(true);
  };
  const lost = async (agent: Agent): Promise<number> => {
    const body = (await agent.get('/metrics'))?.body ?? '';
    return Number(/^virtio_user_log_lines_lost_total (\d+)$/m.exec(body)?.[1] ?? NaN);
  };

  beforeEach(async () => {
    mkdirSync(disk());
    await run('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'log', disk()]);
    cleanup.add('disk', () => run('umount', [disk()]));
  });

  it('costs lines, which are counted, and not the agent; with space the log goes on', async () => {
    const agent = await Agent.start(join(directory, 'agent'), { logPath: logPath() }, cleanup);
    expect(await lost(agent)).toBe(0);
    writeFileSync(logPath(), 'x'.repeat(64 << 10), { flag: 'w' });
    await status(agent, 5);
    expect([agent.alive, await lost(agent)]).toEqual([true, 5]);
    truncateSync(logPath());
    await status(agent, 1);
    expect(JSON.parse(agent.log)).toMatchObject({ verb: 'STATUS', message: 'served' });
    await agent.stop();
  }, 30_000);

  it('does not keep the agent from starting, nor from stopping in order', async () => {
    writeFileSync(logPath(), 'x'.repeat(64 << 10));
    const agent = await Agent.start(join(directory, 'agent'), { logPath: logPath() }, cleanup);
    await status(agent, 1);
    expect(await lost(agent)).toBeGreaterThan(0);
    await agent.stop();
    expect(agent.exit).toBe('exit 0');
  }, 30_000);
});

describe('beside a switch that polls a core', () => {
  const allowed = allowedCores();
  const polling = allowed.at(-1) ?? 0;

  const isPump = ({ name }: ThreadCores): boolean => name.startsWith('vu-pump');

  it('all threads of the agent but the pumps keep off; with --polling-cores=none they stay', async () => {
    const server = new OvsdbServer();
    cleanup.add('ovsdb-server', () => server.destroy());
    await server.start();
    server.vsctl('init');
    const mask = (1n << BigInt(polling)).toString(16);
    server.vsctl('set', 'Open_vSwitch', '.', 'dpdk_initialized=true', `other_config:pmd-cpu-mask=0x${mask}`);
    const poller = new Daemon(
      'poller',
      'timeout',
      ['60', 'taskset', '-c', String(polling), 'sh', '-c', 'while :; do :; done'],
      join(directory, 'poller.log'),
    );
    cleanup.add('poller', () => poller.stop('SIGTERM'));
    const ovsdb = `unix:${server.socketPath}`;
    const extraArgs = ['--polling-cores=none'];
    const staying = await Agent.start(join(directory, 'staying'), { ovsdb, extraArgs }, cleanup);
    const agent = await Agent.start(join(directory, 'agent'), { ovsdb }, cleanup);
    const others = (): readonly ThreadCores[] => threadCores(agent.pid).filter((thread) => !isPump(thread));
    await until('the threads to keep off', () => others().every(({ cores }) => !cores.includes(polling)));
    expect(new Set(others().map(({ cores }) => cores.join()))).toEqual(new Set([allowed.slice(0, -1).join()]));
    expect(threadCores(agent.pid).filter(isPump)).toEqual([{ name: 'vu-pump-0', cores: allowed }]);
    expect(threadCores(staying.pid).filter(({ cores }) => cores.length !== allowed.length)).toEqual([]);
  });
});

describe('commands beside a running agent', () => {
  it('doctor finds the agent ready and the addon working', async () => {
    const agent = await start();
    const finished = await runAny(process.execPath, [
      mainPath,
      'doctor',
      '-o',
      'json',
      `--run-dir=${agent.runDir}`,
      `--state-dir=${agent.stateDir}`,
      `--metrics-address=${agent.metricsAddress}`,
      '--cni-bin-dir=/usr/lib/cni',
    ]);
    const findings = JSON.parse(finished.stdout) as { check: string; level: string; detail: string }[];
    const level = (check: string): string | undefined => findings.find((finding) => finding.check === check)?.level;
    for (const check of ['kernel', 'rights', 'tun device', 'native addon', 'agent', 'attachments', 'IPAM plugins']) {
      expect([check, level(check)]).toEqual([check, 'ok']);
    }
  });

  it('gc and attachments list answer on an empty node', async () => {
    const agent = await start();
    expect(await agent.cli('attachments', 'list', '-o', 'json')).toBe('[]\n');
    expect(await agent.cli('gc')).toMatch(/^removed: +-$/m);
  });
});
