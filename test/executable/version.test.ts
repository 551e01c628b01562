import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { chmodSync, copyFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from '@jest/globals';
import { executablePath as builtExecutable } from '../support/runtime.ts';
import { errorOf, executablePath, Place } from './support/call.ts';

const supportedVersions = ['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'];

async function versionFor(stdin: string | Buffer, env: Readonly<Record<string, string>> = {}): Promise<unknown> {
  await using place = await Place.make();
  const called = await place.call({ CNI_COMMAND: 'VERSION', ...env }, stdin);
  expect(called).toMatchObject({ code: 0, stderr: '' });
  const reply = JSON.parse(called.stdout) as Record<string, unknown>;
  expect(Object.keys(reply)).toEqual(['cniVersion', 'supportedVersions']);
  expect(reply['supportedVersions']).toEqual(supportedVersions);
  return reply['cniVersion'];
}

describe('VERSION', () => {
  it.each(supportedVersions)('echoes %s', async (version) => {
    expect(await versionFor(JSON.stringify({ cniVersion: version }))).toBe(version);
  });

  it.each([
    ['echoes a version that is not supported', '{"cniVersion":"9.9.9"}', '9.9.9'],
    ['finds the version behind other keys', '{"a":[{"cniVersion":"9"}],"b":"\\"}","cniVersion":"0.4.0"}', '0.4.0'],
    ['reads escapes', '{"\\u0063niVersion":"1\\u002e0.0"}', '1.0.0'],
    ['takes the last of two', '{"cniVersion":"0.3.0","cniVersion":"0.3.1"}', '0.3.1'],
    ['takes white space for nothing', ' \r\n\t{ "cniVersion" \n: "0.3.1" }', '0.3.1'],
    ['finds a version of 32 bytes', `{"cniVersion":"${'1'.repeat(32)}"}`, '1'.repeat(32)],
    ['has a default for an empty stdin', '', '1.0.0'],
    ['has a default for an object without a version', '{}', '1.0.0'],
    ['has a default for a version that is a number', '{"cniVersion":1}', '1.0.0'],
    ['has a default for an empty version', '{"cniVersion":""}', '1.0.0'],
    ['has a default when a second version is no text', '{"cniVersion":"0.3.0","cniVersion":null}', '1.0.0'],
    ['has a default for a version that would break out', '{"cniVersion":"1\\",\\"x\\":\\""}', '1.0.0'],
    ['has a default for a version of 33 bytes', `{"cniVersion":"${'1'.repeat(33)}"}`, '1.0.0'],
    ['has a default for an array', '[{"cniVersion":"0.3.0"}]', '1.0.0'],
    ['has a default for bytes that are no JSON', Buffer.from([0xff, 0x00, 0x7b, 0x22]), '1.0.0'],
    ['has a default for nesting without end', `{"a":${'['.repeat(100_000)}`, '1.0.0'],
  ])('%s', async (_title, stdin, version) => {
    expect(await versionFor(stdin)).toBe(version);
  });

  it('agrees with JSON.parse on texts made at random', async () => {
    let seed = 20251124;
    const random = (below: number): number => {
      seed = (Math.imul(seed, 1103515245) + 12345) >>> 0;
      return (seed >>> 16) % below;
    };
    const strings = ['cniVersion', '0.3.1', '1.1.0', '', '"', '\\', '{"cniVersion":"9"}', ',', ']}', 'ü', '\n', 'name'];
    const string = (): string => strings[random(strings.length)] ?? '';
    const value = (depth: number): unknown => {
      const kind = random(depth > 3 ? 4 : 6);
      if (kind < 2) return string();
      if (kind < 4) return [null, true, -1.5e3, 0][random(4)];
      const count = random(4);
      if (kind === 4) return Array.from({ length: count }, () => value(depth + 1));
      return Object.fromEntries(Array.from({ length: count }, () => [string(), value(depth + 1)]));
    };
    const texts = Array.from({ length: 150 }, () => {
      const body = Object.fromEntries(Array.from({ length: 1 + random(5) }, () => [string(), value(0)]));
      const text = JSON.stringify(body, null, random(3));
      return random(2) === 0
        ? text
        : text.replace(/[a-z.]/g, (c) => `\\u${c.charCodeAt(0).toString(16).padStart(4, '0')}`);
    });
    const valid = texts.filter((text) => {
      try {
        JSON.parse(text);
        return true;
      } catch {
        return false; // escaping hit a literal or an escape
      }
    });
    expect(valid.length).toBeGreaterThan(75);
    for (const text of valid) {
      const version = (JSON.parse(text) as Record<string, unknown>)['cniVersion'];
      const acceptable = typeof version === 'string' && /^[0-9A-Za-z.+-]{1,32}$/.test(version);
      expect([text, await versionFor(text)]).toEqual([text, acceptable ? version : '1.0.0']);
    }
  });

  it('looks at no other variable', async () => {
    const env = { CNI_IFNAME: '../..', CNI_CONTAINERID: ' ', CNI_NETNS: 'x', VIRTIO_USER_AGENT_SOCKET: 'relative' };
    expect(await versionFor('{"cniVersion":"1.0.0"}', env)).toBe('1.0.0');
  });

  it('answers as soon as the object is complete, though stdin stays open', async () => {
    const child = spawn(executablePath, [], { env: { CNI_COMMAND: 'VERSION' } });
    child.stdin.write('{"cniVersion":"0.3.1"}');
    const [reply] = (await once(child.stdout, 'data')) as [Buffer];
    expect(JSON.parse(reply.toString())).toEqual({ cniVersion: '0.3.1', supportedVersions });
    child.stdin.destroy();
  });

  it('answers within a second or so when stdin stays open and says nothing', async () => {
    const child = spawn(executablePath, [], { env: { CNI_COMMAND: 'VERSION' } });
    const startedMs = performance.now();
    const [reply] = (await once(child.stdout, 'data')) as [Buffer];
    expect(performance.now() - startedMs).toBeLessThan(15_000);
    expect(JSON.parse(reply.toString())).toEqual({ cniVersion: '1.0.0', supportedVersions });
    child.stdin.destroy();
  });

  it('does not read from a terminal', async () => {
    // To read costs a second every time, a busy machine not three times.
    const script = `
import os, subprocess, sys, time
a, b = os.openpty()
def call():
    began = time.monotonic()
    out = subprocess.run([sys.argv[1]], stdin=b, capture_output=True, env={"CNI_COMMAND": "VERSION"}).stdout.decode()
    return time.monotonic() - began, out
fastest, out = min(call() for _ in range(3))
sys.stdout.write(out)
sys.exit(fastest > 0.9)
`;
    const { stdout } = await promisify(execFile)('python3', ['-c', script, executablePath]);
    expect(JSON.parse(stdout)).toEqual({ cniVersion: '1.0.0', supportedVersions });
  });

  it('needs no file but itself', async () => {
    await using place = await Place.make();
    copyFileSync(builtExecutable, join(place.directory, 'alone'));
    chmodSync(place.directory, 0o555);
    const ran = promisify(execFile)('chroot', [place.directory, '/alone'], {
      env: { ...process.env, CNI_COMMAND: 'VERSION' },
    });
    ran.child.stdin?.end('{"cniVersion":"1.1.0"}');
    expect(JSON.parse((await ran).stdout)).toEqual({ cniVersion: '1.1.0', supportedVersions });
    chmodSync(place.directory, 0o755);
  });
});

describe('without CNI_COMMAND', () => {
  it('it says on stderr what it is, and succeeds', async () => {
    await using place = await Place.make();
    const called = await place.call({ CNI_IFNAME: 'eth0' });
    expect(called).toMatchObject({ code: 0, stdout: '' });
    expect(called.stderr).toMatch(/^virtio-user \d+\.\d+\.\d+: CNI plugin/);
    for (const version of supportedVersions) expect(called.stderr).toContain(version);
  });

  it.each(['', 'add', 'FOO', 'ADD '])('but with %j it names the command and gets code 4', async (command) => {
    await using place = await Place.make();
    const error = errorOf(await place.call({ CNI_COMMAND: command }, '{"cniVersion":"0.4.0"}'));
    expect(error).toMatchObject({ cniVersion: '0.4.0', code: 4 });
    expect(error.msg).toContain(`CNI_COMMAND '${command}'`);
  });
});
