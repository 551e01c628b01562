/** The real executable, the real socket of the addon, the real server and verbs; only the life cycle is a recording. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import { CniServer } from '../../src/cni/server.ts';
import { Verbs } from '../../src/cni/verbs.ts';
import { loadNative } from '../../src/native/load.ts';
import { silentLogger } from '../../src/telemetry/log.ts';
import { Cleanup } from '../support/cleanup.ts';
import { Netns } from '../support/netns.ts';
import { descriptorsBackTo, openDescriptors } from '../support/open-descriptors.ts';
import { type Finished, outputOf, runAny, until } from '../support/process.ts';
import { recordedCall } from '../support/recorded-call.ts';
import { RecordingAttachments } from '../support/recording-attachments.ts';
import { errorOf, executablePath } from './support/call.ts';

const binding = loadNative();
const cleanup = new Cleanup();
let pod: Netns;
let directory: string;
let attachments: RecordingAttachments;
let server: CniServer;
let start: (confirmMs: number) => void;
/** Waited for by every ADD. */
let hold: Promise<unknown>;

beforeAll(async () => {
  pod = await Netns.create(`vu-served-${process.pid}`, cleanup);
});
afterAll(async () => {
  expect(await cleanup.run()).toEqual([]);
});

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vu-served-'));
  attachments = new RecordingAttachments();
  hold = Promise.resolve();
  const verbs = new Verbs({
    attachments,
    binding,
    netconf: {
      nodeName: 'node',
      runDir: directory,
      backendDirs: [join(directory, 'vhost')],
      ovsSocketDir: directory,
      deviceInfoDir: join(directory, 'devinfo'),
    },
  });
  start = (confirmMs) => {
    server = new CniServer({
      binding,
      path: { baseDirectory: directory, relativePath: 'agent.sock' },
      run: async (frame, fds, context) => {
        const outcome = await verbs.run(frame, fds, context);
        if (frame.verb === 'ADD') await hold;
        return outcome;
      },
      log: silentLogger,
      times: { confirmMs },
    });
    server.listen();
  };
  start(5_000);
});
afterEach(async () => {
  await server.close(1_000);
  expect(server.inFlight).toBe(0);
  expect(existsSync(join(directory, 'agent.sock'))).toBe(false);
  rmSync(directory, { recursive: true });
});

function environment(changes: Readonly<Record<string, string>> = {}): Record<string, string> {
  return {
    VIRTIO_USER_AGENT_SOCKET: join(directory, 'agent.sock'),
    VIRTIO_USER_STATE_DIR: join(directory, 'state'),
    ...recordedCall('add').env,
    CNI_NETNS: pod.path,
    ...changes,
  };
}

function call(changes: Readonly<Record<string, string>> = {}, stdin = recordedCall('add').stdin): Promise<Finished> {
  return runAny(executablePath, [], { env: environment(changes), stdin });
}

describe('the executable, served by the agent', () => {
  it('ADD hands over the namespace itself, and prints the result', async () => {
    const before = openDescriptors();
    expect(statSync(join(directory, 'agent.sock')).mode & 0o777).toBe(0o600);
    const identities: unknown[] = [];
    const add = attachments.add.bind(attachments);
    attachments.add = (spec, netns, context) => {
      identities.push(netns.identity().inode);
      return add(spec, netns, context);
    };
    const { code, stdout, stderr } = await call();
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    expect(JSON.parse(stdout)).toMatchObject({
      cniVersion: '1.0.0',
      interfaces: [{ name: 'eth0', sandbox: pod.path }],
    });
    expect(identities).toEqual([statSync(pod.path, { bigint: true }).ino]);
    expect(attachments.added).toMatchObject([{ spec: { pod: { namespace: 'w', name: 'life' } } }]);
    await descriptorsBackTo(before);
    expect(attachments.removed).toEqual([]);
  });

  it.each(['del', 'del-empty-netns', 'del-after-reboot'] as const)('%s as containerd calls it', async (name) => {
    const { env, stdin } = recordedCall(name);
    expect(await call({ ...env }, stdin)).toMatchObject({ code: 0, stdout: '', stderr: '' });
    expect(attachments.removed).toMatchObject([{ netnsPath: env['CNI_NETNS'], ipam: { netconf: stdin } }]);
  });

  it('4 MiB of stdin arrive whole', async () => {
    const head = '{"cniVersion":"1.0.0","name":"net","ipam":{"type":"x"},"filler":"';
    const stdin = `${head}${'x'.repeat((4 << 20) - head.length - 2)}"}`;
    expect(await call({ CNI_COMMAND: 'DEL' }, stdin)).toMatchObject({ code: 0 });
    expect(attachments.removed[0]?.ipam?.netconf === stdin).toBe(true);
  });

  it('a namespace that is none, or the host’s own, gets code 8', async () => {
    const file = join(directory, 'file');
    writeFileSync(file, '');
    for (const path of [file, '/proc/self/ns/mnt', '/proc/self/ns/net']) {
      const { code, stdout } = await call({ CNI_NETNS: path });
      expect([path, code, (JSON.parse(stdout) as { code: number }).code]).toEqual([path, 1, 8]);
    }
    expect(attachments.added).toEqual([]);
    expect(await call({ CNI_NETNS: '/proc/self/ns/net', CNI_NETNS_OVERRIDE: 'true' })).toMatchObject({ code: 0 });
  });

  it('40 at once are all served, and no descriptor stays', async () => {
    const before = openDescriptors();
    const containers = Array.from({ length: 40 }, (_, index) => `c${index}`);
    const calls = await Promise.all(containers.map((CNI_CONTAINERID) => call({ CNI_CONTAINERID })));
    expect(calls.map(({ code }) => code)).toEqual(containers.map(() => 0));
    expect(attachments.added.map(({ spec }) => spec.key.containerId).sort()).toEqual(containers.sort());
    await descriptorsBackTo(before);
    expect(attachments.removed).toEqual([]);
  });

  it('killed while ADD runs: the ADD is taken back', async () => {
    const { promise, resolve } = Promise.withResolvers<undefined>();
    hold = promise;
    const child = spawn(executablePath, [], { env: environment(), stdio: ['pipe', 'ignore', 'ignore'] });
    child.stdin.end(recordedCall('add').stdin);
    await until('ADD runs', () => attachments.added.length === 1);
    expect(attachments.added[0]?.context.signal.aborted).toBe(false);
    child.kill('SIGKILL');
    await once(child, 'close');
    await until('the call is told', () => attachments.added[0]?.context.signal.aborted === true);
    resolve(undefined);
    await until('it is taken back', () => attachments.removed.length === 1);
    expect(attachments.removed[0]?.key).toEqual(attachments.added[0]?.spec.key);
  });

  it('whose stdout nobody reads any more: the ADD is taken back', async () => {
    const { promise, resolve } = Promise.withResolvers<undefined>();
    hold = promise;
    const child = spawn(executablePath, [], { env: environment(), stdio: ['pipe', 'pipe', 'ignore'] });
    child.stdin.end(recordedCall('add').stdin);
    await until('ADD runs', () => attachments.added.length === 1);
    child.stdout.destroy();
    resolve(undefined);
    await once(child, 'close');
    await until('it is taken back', () => attachments.removed.length === 1);
  });

  it('stopped until the ADD is being taken back: it fails with code 11, though that has not ended yet', async () => {
    await server.close(0);
    start(10);
    const answering = Promise.withResolvers<undefined>();
    hold = answering.promise;
    const undone = Promise.withResolvers<undefined>();
    const remove = attachments.remove.bind(attachments);
    attachments.remove = async (request) => {
      await remove(request);
      await undone.promise;
    };
    const child = spawn(executablePath, [], { env: environment() });
    child.stdin.end(recordedCall('add').stdin);
    const output = outputOf(child);
    await until('ADD runs', () => attachments.added.length === 1);
    child.kill('SIGSTOP');
    answering.resolve(undefined);
    await until('it is being taken back', () => attachments.removed.length === 1);
    child.kill('SIGCONT');
    expect(errorOf(await output)).toMatchObject({ code: 11, msg: expect.stringContaining('took the ADD back') });
    undone.resolve(undefined);
  });

  it('a second server on the same path is refused while the first lives', () => {
    const second = new CniServer({
      binding,
      path: { baseDirectory: directory, relativePath: 'agent.sock' },
      run: () => Promise.reject(new Error('unused')),
      log: silentLogger,
    });
    expect(() => second.listen()).toThrow(expect.objectContaining({ code: 'CONFLICT_SOCKET' }));
  });
});
