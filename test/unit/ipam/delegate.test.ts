import {
  chmodSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  openSync,
  closeSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { execFileSync } from 'node:child_process';
import { watch, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { DelegatedIpam, type IpamTimeouts } from '../../../src/ipam/delegate.ts';
import type { IpamCall, IpamResult } from '../../../src/ipam/result.ts';
import { withoutDescriptors } from '../../support/descriptors.ts';
import { until } from '../../support/process.ts';

const pluginDir = '/usr/lib/cni';
const patient = new AbortController().signal;
const noRouteExtras = { mtu: null, advmss: null, priority: null, table: null, scope: null };

let directory: string;
let ipam: DelegatedIpam;

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vu-ipam-'));
  mkdirSync(join(directory, 'bin'));
  ipam = makeIpam();
});
afterEach(() => rmSync(directory, { recursive: true }));

function makeIpam(timeoutsMs: Partial<IpamTimeouts> = {}): DelegatedIpam {
  return new DelegatedIpam({ binDirs: [join(directory, 'bin')], timeoutsMs });
}

/** An ADD to the end of its plugin. */
async function added(call: IpamCall, signal: AbortSignal): Promise<IpamResult> {
  const { result, confirmed } = await ipam.add(call, signal);
  await confirmed;
  return result;
}

type Json = Readonly<Record<string, unknown>>;

function callOf(
  ipamConfig: Json & { readonly type: string },
  changes: Partial<IpamCall> & { cniVersion?: string } = {},
): IpamCall {
  const { cniVersion = '1.0.0', ...others } = changes;
  return {
    type: ipamConfig.type,
    netconf: JSON.stringify({ cniVersion, name: 'net', type: 'virtio-user', ipam: ipamConfig }),
    containerId: 'c1',
    netnsPath: '/var/run/netns/absent',
    ifName: 'eth0',
    cniArgs: 'IgnoreUnknown=1;K8S_POD_NAME=p',
    cniPath: pluginDir,
    ...others,
  };
}

/** host-local with its leases in the test's own directory. */
function hostLocal(changes: Parameters<typeof callOf>[1] = {}): IpamCall {
  return callOf(
    {
      type: 'host-local',
      dataDir: join(directory, 'leases'),
      ranges: [[{ subnet: '10.77.0.0/24' }], [{ subnet: 'fd00:77::/64' }]],
      routes: [{ dst: '0.0.0.0/0' }, { dst: '10.9.0.0/16', gw: '10.77.0.9' }],
      resolvConf: '/dev/null',
    },
    changes,
  );
}

function leases(): string[] {
  const path = join(directory, 'leases/net');
  return existsSync(path)
    ? readdirSync(path)
        .filter((name) => /^[\da-f][\d.a-f:]*$/.test(name))
        .sort()
    : [];
}

/** A plugin as a shell script. It keeps what it was given of every verb but VERSION under `seen/`. */
function plugin(name: string, onVerb: string, versions: readonly string[] | null = ['0.4.0', '1.0.0']): string {
  const path = join(directory, 'bin', name);
  const answer =
    versions === null
      ? 'exit 1'
      : `echo '${JSON.stringify({ cniVersion: '1.0.0', supportedVersions: versions })}'; exit 0`;
  mkdirSync(join(directory, 'seen'), { recursive: true });
  writeFileSync(
    path,
    `#!/bin/sh
if [ "$CNI_COMMAND" = VERSION ]; then /bin/cat >/dev/null; echo x >>${directory}/seen/VERSION; ${answer}; fi
/bin/cat >${directory}/seen/$CNI_COMMAND.stdin
/usr/bin/env >${directory}/seen/$CNI_COMMAND.env
${onVerb}
`,
    { mode: 0o755 },
  );
  return name;
}

function seen(file: string): string {
  return readFileSync(join(directory, 'seen', file), 'utf8');
}

function seenEnvironment(verb: string): Readonly<Record<string, string>> {
  return Object.fromEntries(
    seen(`${verb}.env`)
      .trim()
      .split('\n')
      .map((line): [string, string] => [line.slice(0, line.indexOf('=')), line.slice(line.indexOf('=') + 1)])
      // the shell's own
      .filter(([name]) => !['PWD', 'SHLVL', '_', 'OLDPWD'].includes(name)),
  );
}

const goodResult = `echo '{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24","gateway":"10.1.2.1"}]}'`;

describe('the real host-local', () => {
  it('gives addresses of both families, routes, and takes them back, twice', async () => {
    const result = await added(hostLocal(), patient);
    expect(result).toMatchObject({
      ips: [
        { address: '10.77.0.2/24', gateway: '10.77.0.1' },
        { address: 'fd00:77::2/64', gateway: 'fd00:77::1' },
      ],
      routes: [
        { dst: '0.0.0.0/0', gw: null, ...noRouteExtras },
        { dst: '10.9.0.0/16', gw: '10.77.0.9', ...noRouteExtras },
      ],
    });
    expect(leases()).toEqual(['10.77.0.2', 'fd00:77::2']);
    await ipam.check(hostLocal(), { cniVersion: '1.0.0', ips: [] }, patient);
    await ipam.del(hostLocal({ netnsPath: '' }), patient);
    expect(leases()).toEqual([]);
    await ipam.del(hostLocal({ netnsPath: '' }), patient);
  });

  it.each(['0.3.0', '0.3.1', '0.4.0', '1.0.0', '1.1.0'])('serves a configuration of version %s', async (cniVersion) => {
    const result = await added(hostLocal({ cniVersion }), patient);
    expect(result.ips.map(({ address }) => address)).toEqual(['10.77.0.2/24', 'fd00:77::2/64']);
    await ipam.check(hostLocal({ cniVersion }), { cniVersion, ips: [] }, patient);
    await ipam.gc(hostLocal({ cniVersion }), [], patient);
    await ipam.status(hostLocal({ cniVersion }), patient);
  });

  it('gives different addresses to calls that run at once', async () => {
    const results = await Promise.all(
      Array.from({ length: 8 }, (_, index) => added(hostLocal({ containerId: `c${index}` }), patient)),
    );
    expect(new Set(results.map(({ ips }) => ips[0]?.address)).size).toBe(8);
  });

  it('says in its own words what is wrong', async () => {
    await added(hostLocal(), patient);
    await expect(added(hostLocal(), patient)).rejects.toMatchObject({
      code: 'IPAM_FAILED',
      message: expect.stringMatching(/^IPAM plugin host-local ADD: .*duplicate allocation is not allowed/),
    });
  });

  it('CHECK fails when the lease is gone', async () => {
    await expect(ipam.check(hostLocal(), { cniVersion: '1.0.0', ips: [] }, patient)).rejects.toMatchObject({
      code: 'IPAM_FAILED',
      message: expect.stringContaining('host-local CHECK'),
    });
  });

  it('that has no address left leaves none behind', async () => {
    const tiny = callOf({
      type: 'host-local',
      dataDir: join(directory, 'leases'),
      ranges: [
        [{ subnet: '10.77.0.0/24' }],
        [{ subnet: '10.78.0.0/30', rangeStart: '10.78.0.2', rangeEnd: '10.78.0.2' }],
      ],
    });
    await added({ ...tiny, containerId: 'first' }, patient);
    await expect(added({ ...tiny, containerId: 'second' }, patient)).rejects.toMatchObject({ code: 'IPAM_FAILED' });
    expect(leases()).toEqual(['10.77.0.2', '10.78.0.2']);
  });
});

describe('the real static', () => {
  it('gives what it was told', async () => {
    const call = callOf({
      type: 'static',
      addresses: [{ address: '10.10.0.1/24', gateway: '10.10.0.254' }, { address: '3ffe:ffff:0:01ff::1/64' }],
      routes: [{ dst: '192.168.0.0/16', gw: '10.10.5.1' }],
      dns: { nameservers: ['8.8.8.8'], domain: 'example.com', search: ['a.b'] },
    });
    const expected: IpamResult = {
      ips: [
        { address: '10.10.0.1/24', gateway: '10.10.0.254' },
        { address: '3ffe:ffff:0:1ff::1/64', gateway: null },
      ],
      routes: [{ dst: '192.168.0.0/16', gw: '10.10.5.1', ...noRouteExtras }],
      dns: { nameservers: ['8.8.8.8'], domain: 'example.com', search: ['a.b'], options: [] },
    };
    expect(await added(call, patient)).toEqual(expected);
    await ipam.del(call, patient);
  });

  it('without an address is a failure', async () => {
    await expect(added(callOf({ type: 'static', addresses: [] }), patient)).rejects.toMatchObject({
      code: 'IPAM_FAILED',
    });
  });
});

describe('what a plugin is given', () => {
  it('is the CNI variables and nothing else', async () => {
    await added(callOf({ type: plugin('ok', goodResult) }), patient);
    expect(seenEnvironment('ADD')).toEqual({
      CNI_COMMAND: 'ADD',
      CNI_CONTAINERID: 'c1',
      CNI_NETNS: '/var/run/netns/absent',
      CNI_IFNAME: 'eth0',
      CNI_ARGS: 'IgnoreUnknown=1;K8S_POD_NAME=p',
      CNI_PATH: `${pluginDir}:${directory}/bin`,
    });
  });

  it('is an empty namespace on DEL where there is none, and no container for GC and STATUS', async () => {
    const type = plugin('ok', '', ['1.0.0', '1.1.0']);
    await ipam.del(callOf({ type }, { netnsPath: '', cniArgs: '' }), patient);
    expect(seenEnvironment('DEL')).toMatchObject({ CNI_NETNS: '', CNI_CONTAINERID: 'c1' });
    expect(Object.keys(seenEnvironment('DEL'))).not.toContain('CNI_ARGS');
    await ipam.gc(callOf({ type }, { cniVersion: '1.1.0' }), [], patient);
    await ipam.status(callOf({ type }, { cniVersion: '1.1.0' }), patient);
    for (const verb of ['GC', 'STATUS']) {
      expect(seenEnvironment(verb)).toEqual({ CNI_COMMAND: verb, CNI_PATH: `${pluginDir}:${directory}/bin` });
    }
  });

  it.each([
    ['1.1.0', ['0.3.1', '0.4.0', '1.0.0'], '1.0.0'],
    ['1.0.0', ['0.3.1', '0.4.0'], '0.4.0'],
    ['1.0.0', ['0.4.0', '1.1.0', '0.3.1'], '0.4.0'],
    ['1.0.0', ['1.0.0', '1.1.0'], '1.0.0'],
    ['0.4.0', ['1.0.0'], '0.4.0'],
    ['1.1.0', null, '1.1.0'],
    ['1.1.0', [], '1.1.0'],
  ])('is the configuration, its version %s lowered to what %j allows', async (cniVersion, versions, expected) => {
    const call = callOf({ type: plugin('ok', goodResult, versions), special: { a: [1] } }, { cniVersion });
    await added(call, patient);
    expect(JSON.parse(seen('ADD.stdin'))).toEqual({ ...(JSON.parse(call.netconf) as Json), cniVersion: expected });
  });

  it('is prevResult on CHECK', async () => {
    const prevResult = { cniVersion: '1.0.0', ips: [] };
    await ipam.check(callOf({ type: plugin('ok', '') }), prevResult, patient);
    expect(JSON.parse(seen('CHECK.stdin'))).toMatchObject({ prevResult });
  });

  it('is on GC the list of what keeps its lease, whatever the configuration says', async () => {
    const type = plugin('ok', '', ['1.1.0']);
    const call = callOf({ type }, { cniVersion: '1.1.0' });
    const netconf = JSON.stringify({ ...(JSON.parse(call.netconf) as Json), 'cni.dev/valid-attachments': [] });
    await ipam.gc({ ...call, netconf }, [{ containerId: 'c1', ifName: 'eth0' }], patient);
    expect(JSON.parse(seen('GC.stdin'))).toMatchObject({
      'cni.dev/valid-attachments': [{ containerID: 'c1', ifname: 'eth0' }],
    });
  });

  it('is no verb that its version does not know', async () => {
    const type = plugin('ok', 'exit 1', ['0.3.1', '1.0.0']);
    await ipam.gc(callOf({ type }, { cniVersion: '1.1.0' }), [], patient);
    await ipam.status(callOf({ type }, { cniVersion: '1.1.0' }), patient);
    await ipam.check(callOf({ type }, { cniVersion: '0.3.1' }), {}, patient);
    expect(readdirSync(join(directory, 'seen'))).toEqual(['VERSION']);
  });

  it('may be a verb that it does not know all the same', async () => {
    const said = `echo '{"code":4,"msg":"unknown CNI_COMMAND: '$CNI_COMMAND'"}'; exit 1`;
    const type = plugin('old', said, ['1.1.0']);
    await ipam.status(callOf({ type }, { cniVersion: '1.1.0' }), patient);
    await expect(ipam.del(callOf({ type }), patient)).rejects.toMatchObject({ code: 'IPAM_FAILED' });
  });

  it('is VERSION once, also for many calls at once, and again when the file was replaced', async () => {
    const type = plugin('ok', goodResult);
    await Promise.all(Array.from({ length: 5 }, () => added(callOf({ type }), patient)));
    await added(callOf({ type }), patient);
    expect(seen('VERSION')).toBe('x\n');
    rmSync(join(directory, 'bin/ok'));
    plugin('ok', `${goodResult} # replaced`);
    await added(callOf({ type }), patient);
    expect(seen('VERSION')).toBe('x\nx\n');
  });

  it('is VERSION anew after it would not say', async () => {
    const type = plugin('mute', goodResult, null);
    await added(callOf({ type }), patient);
    await added(callOf({ type }), patient);
    expect(seen('VERSION')).toBe('x\nx\n');
  });
});

function onAdd(script: string): string {
  return `if [ "$CNI_COMMAND" = ADD ]; then ${script}; fi`;
}

describe('a result that is printed before the plugin has ended', () => {
  /** The plugin ends when somebody writes into this. */
  function fifo(): string {
    const path = join(directory, 'fifo');
    execFileSync('mkfifo', [path]);
    return path;
  }

  it('is given at once, and confirmed at the end', async () => {
    const end = fifo();
    const type = plugin('slow', onAdd(`${goodResult}; read line <${end}`));
    const { result, confirmed } = await ipam.add(callOf({ type }), patient);
    expect(result.ips[0]?.address).toBe('10.1.2.3/24');
    const first = await Promise.race([confirmed, new Promise((resolve) => setTimeout(resolve, 100, 'waiting'))]);
    expect(first).toBe('waiting');
    await writeFile(end, '\n'); // waits for the plugin to open it
    await confirmed;
  });

  it.each([
    ['exit 3', 'exit 3'],
    ['kill -9 $$', 'killed by SIGKILL'],
    ['echo more', 'goes on after its end'],
  ])('does not count when then comes: %s', async (then, message) => {
    const end = fifo();
    const type = plugin('odd', onAdd(`${goodResult}; read line <${end}; ${then}`));
    const { confirmed } = await ipam.add(callOf({ type }), patient);
    await writeFile(end, '\n'); // waits for the plugin to open it
    await expect(confirmed).rejects.toMatchObject({
      code: 'IPAM_FAILED',
      message: expect.stringContaining(message),
    });
  });

  it('does not count when the plugin hangs, or its caller gives up', async () => {
    const type = plugin('hangs', onAdd(`${goodResult}; exec /bin/sleep 60`));
    ipam = makeIpam({ ADD: 3000 });
    await expect((await ipam.add(callOf({ type }), patient)).confirmed).rejects.toMatchObject({ code: 'IPAM_FAILED' });
    ipam = makeIpam();
    const caller = new AbortController();
    const { confirmed } = await ipam.add(callOf({ type }), caller.signal);
    caller.abort();
    await expect(confirmed).rejects.toMatchObject({ code: 'CANCELLED' });
  });

  it('is waited for when it comes in pieces that look whole', async () => {
    const end = fifo();
    const pieces = `printf '{"ips":[{"address":"10.1.2.3/24"}'; read line <${end}; echo ']}'`;
    const adding = added(callOf({ type: plugin('pieces', onAdd(pieces)) }), patient);
    await writeFile(end, '\n'); // waits for the plugin to open it
    expect((await adding).ips).toHaveLength(1);
  });

  it('is an error of the plugin where it says so', async () => {
    const error = `echo '{"code":11,"msg":"pool is busy"}'; exit 1`;
    await expect(ipam.add(callOf({ type: plugin('busy', onAdd(error)) }), patient)).rejects.toMatchObject({
      message: expect.stringContaining('pool is busy'),
    });
  });

  it('does not count before the permission', async () => {
    const path = join(directory, 'bin/hasty');
    writeFileSync(path, `#!/bin/sh\n${goodResult}\nexec /bin/sleep 60\n`, { mode: 0o755 });
    const refused = Promise.reject(new Error('no record'));
    await expect(ipam.add(callOf({ type: 'hasty' }), patient, refused)).rejects.toThrow('no record');
  });
});

describe('a plugin is found', () => {
  it('in CNI_PATH first, then in the agent’s directories; what is no executable file is passed over', async () => {
    const [first, second] = [join(directory, 'first'), join(directory, 'second')];
    for (const made of [first, second]) mkdirSync(made);
    mkdirSync(join(first, 'ok'));
    writeFileSync(join(second, 'ok'), '#!/bin/sh\nexit 1\n', { mode: 0o644 });
    const type = plugin('ok', goodResult);
    expect(await added(callOf({ type }, { cniPath: `relative:${first}::${second}` }), patient)).toMatchObject({
      ips: [{ address: '10.1.2.3/24' }],
    });
    chmodSync(join(second, 'ok'), 0o755);
    await expect(added(callOf({ type }, { cniPath: second }), patient)).rejects.toMatchObject({
      message: expect.stringContaining('exit 1'),
    });
  });

  it('through a symbolic link', async () => {
    plugin('ok', goodResult);
    symlinkSync(join(directory, 'bin/ok'), join(directory, 'bin/linked'));
    expect((await added(callOf({ type: 'linked' }), patient)).ips).toHaveLength(1);
  });

  it('or its absence is said, with the places looked at', async () => {
    await expect(added(callOf({ type: 'no-such-ipam' }), patient)).rejects.toMatchObject({
      code: 'IPAM_FAILED',
      message: `IPAM plugin no-such-ipam is in none of ${pluginDir}, ${directory}/bin`,
      details: { plugin: 'no-such-ipam', missing: true },
      remedy: expect.stringContaining('install'),
    });
  });

  it.each(['', '.', '..', '../bin/ok', '/bin/sh', 'a/b', 'a\0b', '-x'])('never under the name %j', async (type) => {
    await expect(ipam.del(callOf({ type }), patient)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
  });
});

describe('a plugin that misbehaves', () => {
  const undone = (): boolean => existsSync(join(directory, 'seen/DEL.env'));

  it.each([
    ['an error', `echo '{"code":100,"msg":"dry","details":"pool 7"}'; exit 1`, 'dry; pool 7 (code 100)'],
    ['an error without words', `echo '{"code":100}'; exit 1`, 'no message (code 100)'],
    ['text on stderr', 'echo boom >&2; exit 3', 'exit 3: boom'],
    ['nothing', 'exit 2', 'exit 2, nothing printed'],
  ])('failing with %s: ADD fails with its words, and DEL is run', async (_title, script, words) => {
    await expect(added(callOf({ type: plugin('bad', onAdd(script)) }), patient)).rejects.toMatchObject({
      code: 'IPAM_FAILED',
      message: `IPAM plugin bad ADD: ${words}`,
    });
    expect(undone()).toBe(true);
  });

  it.each([
    ['nothing', 'true'],
    ['text', 'echo hello'],
    ['a list', 'echo "[]"'],
    ['an empty object', 'echo "{}"'],
    ['no address', `echo '{"ips":[]}'`],
    ['an address without a prefix', `echo '{"ips":[{"address":"10.1.2.3"}]}'`],
    ['an octal address', `echo '{"ips":[{"address":"010.0.0.1/8"}]}'`],
    ['an address that is none', `echo '{"ips":[{"address":"999.1.2.3/24"}]}'`],
    ['a prefix too long', `echo '{"ips":[{"address":"10.1.2.3/33"}]}'`],
    ['a zone', `echo '{"ips":[{"address":"fe80::1%eth0/64"}]}'`],
    ['a gateway that is none', `echo '{"ips":[{"address":"10.1.2.3/24","gateway":"x"}]}'`],
    ['a route that is none', `echo '{"ips":[{"address":"10.1.2.3/24"}],"routes":[{"dst":"default"}]}'`],
    [
      'a route with a negative MTU',
      `echo '{"ips":[{"address":"10.1.2.3/24"}],"routes":[{"dst":"0.0.0.0/0","mtu":-1}]}'`,
    ],
    ['a gateway of the other family', `echo '{"ips":[{"address":"10.1.2.3/24","gateway":"fd00::1"}]}'`],
  ])('printing %s: ADD fails, and DEL is run', async (_title, script) => {
    await expect(added(callOf({ type: plugin('bad', onAdd(script)) }), patient)).rejects.toMatchObject({
      code: 'IPAM_FAILED',
      message: expect.stringContaining('it printed no usable result'),
    });
    expect(undone()).toBe(true);
  });

  it.each([
    ['0.0.0.0/0', 'fd00::1'],
    ['fd00:9::/64', '10.1.2.1'],
  ])('printing a route to %s via %s, of the other family: the message names it', async (dst, gw) => {
    const printed = JSON.stringify({
      ips: [{ address: '10.1.2.3/24' }],
      routes: [{ dst: '10.9.0.0/16' }, { dst, gw }],
    });
    await expect(added(callOf({ type: plugin('bad', onAdd(`echo '${printed}'`)) }), patient)).rejects.toMatchObject({
      code: 'IPAM_FAILED',
      message: expect.stringContaining(`the gateway ${gw} of ${dst} is of another family → at routes[1].gw`),
    });
    expect(undone()).toBe(true);
  });

  it.each(['stdout', 'stderr'])('printing 10 MB to %s is killed', async (stream) => {
    const flood = `/usr/bin/head -c 10000000 /dev/zero ${stream === 'stderr' ? '>&2' : ''}`;
    await expect(added(callOf({ type: plugin('bad', onAdd(flood)) }), patient)).rejects.toMatchObject({
      code: 'IPAM_FAILED',
      message: expect.stringContaining('more than 1048576 bytes'),
    });
    expect(undone()).toBe(true);
  });

  it('dying by a signal is named with it', async () => {
    await expect(added(callOf({ type: plugin('bad', onAdd('kill -SEGV $$')) }), patient)).rejects.toMatchObject({
      message: 'IPAM plugin bad ADD: killed by SIGSEGV',
    });
    expect(undone()).toBe(true);
  });

  it('hanging is killed with its children, and DEL is run', async () => {
    const hang = `/bin/sleep 300 & echo $! >${directory}/seen/child; wait`;
    const hasty = makeIpam({ ADD: 3000 });
    await expect(hasty.add(callOf({ type: plugin('bad', onAdd(hang)) }), patient)).rejects.toMatchObject({
      code: 'IPAM_FAILED',
      message: 'IPAM plugin bad ADD: no answer within 3000 ms, killed',
    });
    await until('the end of its child', () => !isRunning(Number(seen('child'))));
    expect(undone()).toBe(true);
  });

  it('hanging in the undo too ends all the same, and says that a lease may be left', async () => {
    const hasty = makeIpam({ ADD: 200, undo: 200 });
    await expect(hasty.add(callOf({ type: plugin('bad', 'exec /bin/sleep 300') }), patient)).rejects.toMatchObject({
      code: 'IPAM_FAILED',
      message: 'IPAM plugin bad ADD: no answer within 200 ms, killed',
      details: { undone: false },
    });
  });

  it('failing in ADD and in the undo says that a lease may be left; with a good undo it does not', async () => {
    const failed = (script: string): Promise<unknown> =>
      added(callOf({ type: plugin('bad', script) }), patient).catch((error: unknown) => error);
    expect(await failed('exit 1')).toMatchObject({ code: 'IPAM_FAILED', details: { undone: false } });
    expect(await failed(onAdd('exit 1'))).not.toHaveProperty('details.undone');
  });

  it('is killed when the caller gives up', async () => {
    const controller = new AbortController();
    const type = plugin('bad', onAdd('echo x >$0.started; exec /bin/sleep 300'));
    const adding = added(callOf({ type }), controller.signal);
    await appears(join(directory, 'bin'), 'bad.started');
    controller.abort();
    await expect(adding).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(undone()).toBe(true);
  });

  it('is not started for a caller that has given up', async () => {
    await expect(ipam.del(callOf({ type: plugin('ok', '') }), AbortSignal.abort())).rejects.toMatchObject({
      code: 'CANCELLED',
    });
    expect(existsSync(join(directory, 'seen/DEL.env'))).toBe(false);
  });

  it('leaving a daemon that holds its pipes open has answered when it exits', async () => {
    const daemon = `/usr/bin/setsid /bin/sleep 300 & echo $! >${directory}/seen/daemon; ${goodResult}`;
    try {
      expect(await added(callOf({ type: plugin('daemon', onAdd(daemon)) }), patient)).toMatchObject({
        ips: [{ address: '10.1.2.3/24' }],
      });
    } finally {
      process.kill(Number(seen('daemon')), 'SIGKILL');
    }
  });

  it('that does not read its stdin is no trouble', async () => {
    const path = join(directory, 'bin/deaf');
    writeFileSync(path, `#!/bin/sh\n${goodResult}\n`, { mode: 0o755 });
    const call = callOf({ type: 'deaf', filler: 'x'.repeat(1 << 20) });
    expect((await added(call, patient)).ips).toHaveLength(1);
  });

  it('without its interpreter is told apart from one that is not there', async () => {
    writeFileSync(join(directory, 'bin/orphan'), '#!/no/such/interpreter\n', { mode: 0o755 });
    await expect(ipam.del(callOf({ type: 'orphan' }), patient)).rejects.toMatchObject({
      code: 'IPAM_FAILED',
      message: expect.stringContaining('its interpreter does not'),
      remedy: expect.stringContaining('glibc'),
    });
  });

  it('for which no descriptor is left is a matter of trying again, not of the plugin', async () => {
    const call = callOf({ type: plugin('starved', 'exit 0') });
    await ipam.del(call, patient);
    const failure = await withoutDescriptors(() => ipam.del(call, patient).catch((error: unknown) => error));
    expect(failure).toMatchObject({ code: 'RESOURCE_EXHAUSTED', message: expect.stringContaining('EMFILE') });
    await ipam.del(call, patient);
  });

  it('being written right now is tried again until it can be run', async () => {
    const name = plugin('busy', goodResult);
    await added(callOf({ type: name }), patient);
    const writer = openSync(join(directory, 'bin/busy'), 'r+');
    const adding = added(callOf({ type: name }), patient);
    setTimeout(() => closeSync(writer), 100);
    expect((await adding).ips).toHaveLength(1);
  });
});

describe('what a plugin may print', () => {
  it.each([
    [
      '0.3.1',
      `{"cniVersion":"0.3.1","ips":[{"version":"4","address":"10.1.2.3/24","gateway":""}],"routes":[],"dns":{}}`,
    ],
    ['0.4.0', `{"cniVersion":"0.4.0","interfaces":[],"ips":[{"version":"4","address":"10.1.2.3/24","interface":0}]}`],
    ['1.0.0', `{"cniVersion":"1.0.0","ips":[{"address":"10.1.2.3/24"}],"routes":null,"dns":null}`],
  ])('a result of version %s', async (_version, printed) => {
    expect(await added(callOf({ type: plugin('ok', `echo '${printed}'`) }), patient)).toMatchObject({
      ips: [{ address: '10.1.2.3/24', gateway: null }],
      routes: [],
    });
  });

  it('a route with everything that 1.1.0 knows', async () => {
    const route = { dst: 'fd00::/8', gw: 'fd00::1', mtu: 1400, advmss: 1340, priority: 5, table: 100, scope: 253 };
    const printed = JSON.stringify({ ips: [{ address: 'FD00:0::2/64' }], routes: [route] });
    expect(await added(callOf({ type: plugin('ok', `echo '${printed}'`) }), patient)).toEqual({
      ips: [{ address: 'fd00::2/64', gateway: null }],
      routes: [route],
      dns: null,
    });
  });
});

function isRunning(pid: number): boolean {
  try {
    return !/^\d+ \(.*\) Z/.test(readFileSync(`/proc/${pid}/stat`, 'utf8'));
  } catch {
    return false;
  }
}

async function appears(directory: string, name: string): Promise<void> {
  const stop = new AbortController();
  const changes = watch(directory, { signal: stop.signal });
  try {
    if (existsSync(join(directory, name))) return;
    for await (const { filename } of changes) if (filename === name) return;
  } finally {
    stop.abort();
  }
}
