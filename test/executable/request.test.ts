import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { describe, expect, it } from '@jest/globals';
import {
  callEnvironment,
  errorOf,
  executablePath,
  netconf,
  Place,
  recordedCall,
  recordedCalls,
} from './support/call.ts';
import { answer } from './support/frame.ts';
import { ScriptedAgent } from './support/scripted-agent.ts';

const manifest = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8')) as {
  version: string;
};

describe('the request', () => {
  it.each(recordedCalls)('of the recorded call %s is the frame of docs/architecture.md', async (name) => {
    const recorded = recordedCall(name);
    const netns = recorded.env['CNI_COMMAND'] === 'ADD' ? '/proc/self/ns/net' : (recorded.env['CNI_NETNS'] ?? '');
    const env = { ...recorded.env, CNI_NETNS: netns };
    await using place = await Place.make();
    await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => socket.write(answer()));
    expect(await place.call({ ...env, LD_LIBRARY_PATH: '/opt/containerd/lib' }, recorded.stdin)).toMatchObject({
      code: 0,
    });
    const { request } = agent.only;
    const expected = ['CNI_COMMAND', 'CNI_CONTAINERID', 'CNI_NETNS', 'CNI_IFNAME', 'CNI_ARGS', 'CNI_PATH'].map(
      (variable) => `${variable}=${env[variable as keyof typeof env]}`,
    );
    expect(request.environment).toEqual(expected);
    expect(request.stdin.toString()).toBe(recorded.stdin);
    expect(request.verb).toBe(recorded.env['CNI_COMMAND'] === 'ADD' ? 1 : 2);
    // The namespace of the recorded DEL is gone by now, as it may be.
    expect(request.descriptors).toBe(recorded.env['CNI_COMMAND'] === 'ADD' ? 1 : 0);
    expect(request.roles).toEqual([recorded.env['CNI_COMMAND'] === 'ADD' ? 1 : 0, 0, 0]);
    const [major, minor, patch] = manifest.version.split('.').map(Number);
    expect(request.executableVersion).toBe(((major ?? 0) << 16) | ((minor ?? 0) << 8) | (patch ?? 0));
  });

  it.each([
    ['ADD', 1, 55_000],
    ['DEL', 2, 28_000],
    ['CHECK', 3, 4750],
    ['GC', 4, 24_000],
    ['STATUS', 5, 6900],
  ])('of %s has verb %i and at most %i ms, which ends before the caller gives up', async (verb, number, atMostMs) => {
    await using place = await Place.make();
    await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => socket.write(answer()));
    const { durationMs } = await place.call(callEnvironment(verb));
    const { request } = agent.only;
    expect(request.verb).toBe(number);
    expect(request.timeLeftMs).toBeLessThanOrEqual(atMostMs);
    expect(request.timeLeftMs).toBeGreaterThan(atMostMs - 1000 - durationMs);
  });

  it('has a new id each time', async () => {
    await using place = await Place.make();
    await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => socket.write(answer()));
    for (let i = 0; i < 3; i++) await place.call(callEnvironment('STATUS'));
    expect(new Set(agent.conversations.map(({ request }) => request.requestId)).size).toBe(3);
  });

  it.each([
    ['ADD', '/proc/self/ns/net'],
    ['CHECK', '/proc/self/ns/net'],
    ['DEL', '/proc/self/ns/net'],
  ])('of %s carries the namespace itself beside its first byte', async (verb, path) => {
    await using place = await Place.make();
    const receiver = spawn('python3', ['-c', descriptorReceiver, place.socket]);
    const lines = createInterface(receiver.stdout)[Symbol.asyncIterator]();
    expect((await lines.next()).value).toBe('listening');
    expect(await place.call({ ...callEnvironment(verb), CNI_NETNS: path })).toMatchObject({ code: 0 });
    expect(JSON.parse(String((await lines.next()).value))).toEqual({
      first: [statSync(path).ino],
      later: 0,
      roles: [1, 1, 0, 0],
    });
  });

  it('takes 4 MiB of stdin whole', async () => {
    const stdin = Buffer.alloc(4 << 20);
    for (let i = 0; i < stdin.length; i++) stdin[i] = (i * 2654435761) >>> 24;
    await using place = await Place.make();
    await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => socket.write(answer()));
    expect(await place.call(callEnvironment('STATUS'), stdin)).toMatchObject({ code: 0, stdout: '' });
    expect(agent.only.request.stdin.equals(stdin)).toBe(true);
    expect(await agent.only.rest).toBe('VUK1');
  });

  it('takes an empty stdin, which the agent judges', async () => {
    await using place = await Place.make();
    await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => socket.write(answer()));
    await place.call(callEnvironment('STATUS'), '');
    expect(agent.only.request.stdin.length).toBe(0);
  });
});

describe('stdin', () => {
  it.each([
    ['one byte over 4 MiB', (4 << 20) + 1],
    ['100 MB', 100_000_000],
  ])('of %s gets code 6, without the agent', async (_title, size) => {
    const stdin = Buffer.alloc(size, ' ');
    stdin.write('{"cniVersion":"1.1.0",');
    await using place = await Place.make();
    await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => socket.write(answer()));
    expect(errorOf(await place.call(callEnvironment('ADD'), stdin))).toMatchObject({ cniVersion: '1.1.0', code: 6 });
    expect(agent.connections).toBe(0);
  });

  it('that is closed gets code 5', async () => {
    await using place = await Place.make();
    const env = { ...place.environment, ...callEnvironment('DEL') };
    const ran = promisify(execFile)('sh', ['-c', 'exec "$0" <&-', executablePath], { env });
    const failure = (await ran.catch((error: unknown) => error)) as { code: number; stdout: string };
    expect(failure.code).toBe(1);
    expect(JSON.parse(failure.stdout)).toMatchObject({ code: 5 });
  });

  it('that does not end gets code 5 when the time of the verb is over', async () => {
    await using place = await Place.make();
    const child = spawn(executablePath, [], { env: { ...place.environment, ...callEnvironment('STATUS') } });
    child.stdin.write(netconf);
    const [stdout] = (await once(child.stdout, 'data')) as [Buffer];
    expect(JSON.parse(stdout.toString())).toMatchObject({ cniVersion: '1.0.0', code: 5 });
    child.stdin.destroy();
  });
});

describe('a namespace that cannot be opened', () => {
  it.each(['ADD', 'CHECK'])('gets code 8 from %s, naming path and reason', async (verb) => {
    await using place = await Place.make();
    const path = join(place.directory, 'absent');
    const error = errorOf(await place.call({ ...callEnvironment(verb), CNI_NETNS: path }));
    expect(error.code).toBe(8);
    expect(error.msg).toContain(path);
    expect(error.msg).toContain('No such file or directory');
  });

  it('does not stop a DEL', async () => {
    await using place = await Place.make();
    await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => socket.write(answer()));
    const path = join(place.directory, 'absent');
    expect(await place.call({ ...callEnvironment('DEL'), CNI_NETNS: path })).toMatchObject({ code: 0, stdout: '' });
    expect(agent.only.request.descriptors).toBe(0);
    expect(agent.only.request.environment).toContain(`CNI_NETNS=${path}`);
  });

  it('does not hang when it is a FIFO: the agent judges it', async () => {
    await using place = await Place.make();
    await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => socket.write(answer()));
    const path = join(place.directory, 'fifo');
    await promisify(execFile)('mkfifo', [path]);
    expect(await place.call({ ...callEnvironment('ADD'), CNI_NETNS: path })).toMatchObject({ code: 0 });
    expect(agent.only.request.descriptors).toBe(1);
  });
});

/** Accepts one request, tells which descriptors came with its first byte and how many later, and answers. */
const descriptorReceiver = `
import array, json, os, socket, sys
server = socket.socket(socket.AF_UNIX); server.bind(sys.argv[1]); server.listen()
print('listening', flush=True)
peer, _ = server.accept()
def take(size):
    data, control, _, _ = peer.recvmsg(size, 256)
    fds = array.array('i')
    for level, kind, payload in control:
        assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        fds.frombytes(payload)
    return data, [os.fstat(fd).st_ino for fd in fds]
data, first = take(1)
later = 0
def size(d): return 48 + int.from_bytes(d[32:36], 'little') + int.from_bytes(d[36:40], 'little')
while len(data) < 48 or len(data) < size(data):
    more, fds = take(65536)
    data += more; later += len(fds)
peer.sendall(b'VUA1' + bytes([1, 0]) + bytes(10))
print(json.dumps({'first': first, 'later': later, 'roles': list(data[12:16])}), flush=True)
peer.recv(4)
`;
