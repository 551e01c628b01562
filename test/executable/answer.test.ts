import { type ChildProcessWithoutNullStreams, execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, openSync, closeSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from '@jest/globals';
import { type Called, callEnvironment, errorOf, executablePath, netconf, Place } from './support/call.ts';
import { outputOf } from '../support/process.ts';
import { answer, type AnswerFields } from './support/frame.ts';
import { type Conversation, ScriptedAgent } from './support/scripted-agent.ts';

async function answered(verb: string, ...pieces: readonly Buffer[]): Promise<{ called: Called; rest: string }> {
  await using place = await Place.make();
  await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => {
    for (const piece of pieces) socket.write(piece);
  });
  const called = await place.call(callEnvironment(verb));
  return { called, rest: await agent.only.rest };
}

describe('an answer', () => {
  it('goes to stdout byte for byte, is confirmed, and sets the exit status', async () => {
    const body = '{"cniVersion":"1.0.0",\n\t"interfaces":[] }\0\xff';
    const { called, rest } = await answered('ADD', answer(body));
    expect(called).toMatchObject({ code: 0, stdout: body, stderr: '' });
    expect(rest).toBe('VUK1');
  });

  it.each(['ADD', 'DEL', 'CHECK', 'GC', 'STATUS'])('to %s without a body prints nothing', async (verb) => {
    const { called, rest } = await answered(verb, answer());
    expect(called).toMatchObject({ code: 0, stdout: '', stderr: '' });
    expect(rest).toBe('VUK1');
  });

  it.each(['ADD', 'DEL', 'STATUS'])('that is an error of %s is passed on as it is', async (verb) => {
    const body = '{"cniVersion":"1.0.0","code":7,"msg":"m"}';
    const { called, rest } = await answered(verb, answer(body, { exitCode: 3 }));
    expect(called).toMatchObject({ code: 3, stdout: body, stderr: '' });
    expect(rest).toBe('VUK1');
  });

  it.each([255, 256, 999, 65535])('with exit code %i never becomes a success', async (exitCode) => {
    const { called } = await answered('ADD', answer('{}', { exitCode }));
    expect(called.code).toBe(exitCode === 255 ? 255 : 1);
  });

  it('of 1 MiB arrives whole', async () => {
    const body = 'x'.repeat(1 << 20);
    const { called, rest } = await answered('ADD', answer(body));
    expect(called.code).toBe(0);
    expect(called.stdout).toBe(body);
    expect(rest).toBe('VUK1');
  });

  it('in single bytes arrives whole', async () => {
    await using place = await Place.make();
    const bytes = answer('{"ips":[]}');
    await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => {
      socket.setNoDelay(true);
      let at = 0;
      const next = (): void => {
        if (at < bytes.length) socket.write(bytes.subarray(at, ++at), () => setImmediate(next));
      };
      next();
    });
    expect(await place.call(callEnvironment('ADD'))).toMatchObject({ code: 0, stdout: '{"ips":[]}' });
    expect(await agent.only.rest).toBe('VUK1');
  });

  it('before the request is read to its end is taken, and not confirmed', async () => {
    const body = '{"code":6,"msg":"too large"}';
    await using place = await Place.make();
    const { promise: closed, resolve } = Promise.withResolvers<number>();
    const server = spawn('python3', ['-c', earlyAnswer, place.socket, answer(body, { exitCode: 1 }).toString('hex')]);
    server.once('exit', (code) => resolve(code ?? -1));
    await once(server.stdout, 'data');
    expect(await place.call(callEnvironment('ADD'), Buffer.alloc(4 << 20, ' '))).toMatchObject({
      code: 1,
      stdout: body,
    });
    expect(await closed).toBe(0);
  });
});

const earlyAnswer = `
import socket, sys
server = socket.socket(socket.AF_UNIX); server.bind(sys.argv[1]); server.listen()
print('listening', flush=True)
peer, _ = server.accept()
peer.sendall(bytes.fromhex(sys.argv[2]))
data = peer.recv(1000)
while True:
    more = peer.recv(1 << 20)
    if not more: break
    data = data[-8:] + more
sys.exit(data.endswith(b'VUK1'))
`;

describe('an ADD that the agent takes back', () => {
  const result = '{"cniVersion":"1.0.0","interfaces":[{"name":"eth0"}]}';

  function spawnAdd(place: Place): ChildProcessWithoutNullStreams {
    const child = spawn(executablePath, [], { env: { ...place.environment, ...callEnvironment('ADD') } });
    child.stdin.end(netconf);
    return child;
  }

  it('while the executable stands still is a failure with code 11, and no result', async () => {
    await using place = await Place.make();
    const child = spawnAdd(place);
    const output = outputOf(child);
    await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => {
      child.kill('SIGSTOP');
      socket.once('close', () => child.kill('SIGCONT'));
      socket.end(answer(result), () => socket.destroy());
    });
    expect(errorOf(await output)).toMatchObject({ code: 11, msg: expect.stringContaining('took the ADD back') });
    expect(await agent.only.rest).toBe('');
  });

  it.each([
    ['with its word', Buffer.from('VUW1')],
    ['with a word of a later version', Buffer.from('?')],
  ])('%s, although the confirmation was sent, is a failure', async (_how, word) => {
    await using place = await Place.make();
    await using agent = await ScriptedAgent.listen(
      place.socket,
      ({ socket }) => socket.write(answer(result)),
      (socket) => socket.end(word),
    );
    const { code, stdout } = await place.call(callEnvironment('ADD'));
    expect(code).toBe(1);
    expect(stdout.startsWith(result)).toBe(true);
    expect(JSON.parse(stdout.slice(result.length))).toMatchObject({ code: 11 });
    expect(await agent.only.rest).toBe('VUK1');
  });

  it('by hanging up while the result is being printed is a failure', async () => {
    const body = 'x'.repeat(1 << 20);
    await using place = await Place.make();
    const child = spawnAdd(place);
    await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => socket.write(answer(body)));
    await once(child.stdout, 'readable'); // it has begun to print, and nobody reads on
    agent.only.socket.destroy();
    await agent.only.rest;
    const { code, stdout } = await outputOf(child);
    expect(code).toBe(1);
    expect(JSON.parse(stdout.slice(body.length))).toMatchObject({ code: 11 });
  });
});

describe('an answer that is none', () => {
  const garbled: readonly (readonly [string, Buffer, AnswerFields | null, string])[] = [
    ['a wrong magic', Buffer.alloc(0), { magic: 'HTTP' }, 'does not start as an answer'],
    ['a body that is announced too large', Buffer.alloc(0), { bodyBytes: (1 << 20) + 1 }, '1048577 bytes'],
    ['an absurd size', Buffer.alloc(0), { bodyBytes: 0xffffffff }, '4294967295 bytes'],
    ['an end within the header', Buffer.from('VUA1\x01'), null, '5 of at least 16 bytes'],
    ['an end within the body', Buffer.from('{"ips"'), { bodyBytes: 20 }, '22 of at least 36 bytes'],
  ];
  const cases = ['ADD', 'CHECK', 'GC', 'STATUS'].flatMap((verb) => garbled.map((row) => [verb, ...row] as const));
  it.each(cases)('fails %s: %s', async (verb, _title, body, fields, said) => {
    await using place = await Place.make();
    await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => {
      socket.end(fields === null ? body : answer(body, fields));
    });
    const error = errorOf(await place.call(callEnvironment(verb)));
    expect(error.code).toBe(verb === 'STATUS' ? 50 : 11);
    expect(error.msg).toContain(said);
    expect(await agent.only.rest).toBe('');
  });

  it.each(['ADD', 'DEL', 'CHECK', 'GC', 'STATUS'])('of another protocol fails %s with 107', async (verb) => {
    const { called, rest } = await answered(verb, answer('{}', { protocol: 7 }));
    const error = errorOf(called);
    expect(error.code).toBe(107);
    expect(error.msg).toMatch(/protocol 7.*speaks 1/);
    expect(rest).toBe('');
  });
});

describe('a caller that does not take the answer', () => {
  const body = 'x'.repeat(1 << 20);

  async function killedMidway(
    verb: string,
    conversation: (agent: ScriptedAgent) => Promise<void>,
  ): Promise<Conversation> {
    await using place = await Place.make();
    await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => socket.write(answer(body)));
    const child = spawn(executablePath, [], { env: { ...place.environment, ...callEnvironment(verb) } });
    child.stdin.end(netconf);
    await once(child.stdout, 'readable'); // the answer has begun to come; nobody reads on
    await conversation(agent);
    child.kill('SIGTERM');
    expect(await once(child, 'exit')).toEqual([null, 'SIGTERM']);
    await agent.only.rest;
    return agent.only;
  }

  it('gets it unconfirmed, and SIGTERM ends the executable', async () => {
    const conversation = await killedMidway('ADD', () => Promise.resolve());
    expect(await conversation.rest).toBe('');
  });

  it('because its pipe is closed makes the call fail, unconfirmed', async () => {
    await using place = await Place.make();
    const { promise: mayAnswer, resolve: answerNow } = Promise.withResolvers<void>();
    await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => {
      void mayAnswer.then(() => socket.write(answer('{}')));
    });
    const child = spawn(executablePath, [], { env: { ...place.environment, ...callEnvironment('ADD') } });
    child.stdin.end(netconf);
    child.stdout.destroy();
    await once(child.stdout, 'close');
    answerNow();
    expect(await once(child, 'exit')).toEqual([1, null]);
    expect(await agent.only.rest).toBe('');
  });

  it('because it never had a stdout does not get it on the socket instead', async () => {
    await using place = await Place.make();
    await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => socket.write(answer('{}')));
    const env = { ...place.environment, ...callEnvironment('STATUS') };
    const ran = promisify(execFile)('sh', ['-c', 'exec "$0" >&- 2>&- </dev/null', executablePath], { env });
    expect(await ran.catch((error: unknown) => error)).toMatchObject({ code: 1 });
    expect(await agent.only.rest).toBe('');
  });

  it('because the disk behind stdout is full makes the call fail, unconfirmed', async () => {
    await using place = await Place.make();
    await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => socket.write(answer('{}')));
    const full = openSync('/dev/full', 'w');
    const child = spawn(executablePath, [], {
      env: { ...place.environment, ...callEnvironment('ADD') },
      stdio: ['ignore', full, 'ignore'],
    });
    closeSync(full);
    expect(await once(child, 'exit')).toEqual([1, null]);
    expect(await agent.only.rest).toBe('');
  });
});

describe('a socket that is not root’s', () => {
  it('gets nothing, and the message says whose it is', async () => {
    await using place = await Place.make();
    chmodSync(place.directory, 0o777);
    const script =
      'import os, socket, sys; os.setuid(65534); s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen()\n' +
      'print("listening", flush=True)\n' +
      'for _ in range(2): print(len(s.accept()[0].recv(1)), flush=True)';
    const impostor = spawn('python3', ['-c', script, place.socket]);
    let received = '';
    impostor.stdout.on('data', (chunk: Buffer) => (received += chunk.toString()));
    // Asked for before the calls: an executable that ends slowly (sanitizers) ends after it.
    const closed = once(impostor, 'close');
    await once(impostor.stdout, 'data');
    for (const [verb, code] of [
      ['ADD', 11],
      ['STATUS', 50],
    ] as const) {
      const error = errorOf(await place.call(callEnvironment(verb)));
      expect(error.code).toBe(code);
      expect(error.msg).toContain('uid 65534');
      expect(error.msg).toContain(place.socket);
    }
    await closed;
    expect(received).toBe('listening\n0\n0\n');
  });
});

describe('the frame document', () => {
  it('names the magic numbers that are spoken here', () => {
    const text = readFileSync(join(import.meta.dirname, '../../docs/architecture.md'), 'utf8');
    for (const magic of ['VUQ1', 'VUA1', 'VUK1', 'VUW1']) {
      expect(text).toContain(`0x${Buffer.from(magic).readUInt32LE(0).toString(16)} ("${magic}")`);
    }
  });
});
