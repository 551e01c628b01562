import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { Introspection } from '../../../src/agent/introspect.ts';
import { version } from '../../../src/agent/version.ts';
import type { AttachmentView } from '../../../src/attachment/api.ts';
import { exitCode } from '../../../src/cli/exit-code.ts';
import { runCommandLine } from '../../../src/cli/run.ts';
import { VirtioUserError } from '../../../src/errors.ts';
import { silentLogger } from '../../../src/telemetry/log.ts';
import { featureNames } from '../../../src/virtio/feature.ts';
import { attachmentView } from '../agent/views.ts';

interface Ran {
  readonly code: number;
  readonly out: string;
  readonly err: string;
}

async function run(...argv: string[]): Promise<Ran> {
  let out = '';
  let err = '';
  const code = await runCommandLine(argv, { out: (text) => (out += text), err: (text) => (err += text) });
  return { code, out, err };
}

describe('the command line', () => {
  it('prints its version and its help', async () => {
    expect(await run('--version')).toEqual({ code: 0, out: `${version}\n`, err: '' });
    const help = await run('--help');
    expect(help.code).toBe(0);
    for (const command of ['agent', 'attachments', 'backend', 'features', 'doctor', 'gc', 'install', 'uninstall']) {
      expect(help.out).toContain(`virtio-user-cni ${command}`);
    }
  });

  it('the help lists every exit code', async () => {
    const { out } = await run('--help');
    const listed = [...out.slice(out.indexOf('exit codes:')).matchAll(/(\d+) \w/g)].map(([, code]) => Number(code));
    expect(listed).toEqual(Object.values(exitCode));
  });

  it('the help of agent names every option with its default and its variable', async () => {
    const { out } = await run('agent', '--help');
    const words = out.replace(/\s+/g, ' ');
    expect(words).toContain('--pump-threads');
    expect(words).toContain('VIRTIO_USER_PUMP_THREADS');
    expect(words).toContain('/var/lib/virtio-user');
  });

  it.each([
    [[], 'a command is missing'],
    [['attachments'], 'a command after "attachments" is missing'],
    [['nonsense'], 'nonsense'],
    [['features'], 'an argument is missing: got 0, need 1 (CONFIG_INVALID)\nremedy: virtio-user-cni features --help'],
    [
      ['attachments', 'show'],
      'an argument is missing: got 0, need 1 (CONFIG_INVALID)\nremedy: virtio-user-cni attachments show --help',
    ],
    [['attachments', 'frobnicate'], 'frobnicate (CONFIG_INVALID)\nremedy: virtio-user-cni attachments --help'],
    [['frob'], 'frob (CONFIG_INVALID)\nremedy: virtio-user-cni --help'],
    [['gc', 'show'], 'show (CONFIG_INVALID)\nremedy: virtio-user-cni gc --help'],
    [['attachments', 'set-queues', 'vu000000000000', 'x'], 'pairs: "x" is not an integer from 0 to 65535'],
    [['attachments', 'list', '--verbose'], 'verbose'],
    [['attachments', 'list', '-o', 'xml'], 'xml'],
    [['attachments', 'show', 'eth0'], '"eth0" is not "vu" and 12 hexadecimal digits'],
    [['features', 'NOT_A_FEATURE'], 'NOT_A_FEATURE'],
    [['agent', '--hold-ms', 'soon'], '--hold-ms: "soon" is not an integer'],
    [['agent', '--kubernetes', 'maybe'], '--kubernetes: "maybe" is not'],
    [['agent', '--hold-ms', '1', '--hold-ms', 'later'], '--hold-ms: "later" is not'],
  ])('%j is a usage error', async (argv, told) => {
    const ran = await run(...argv);
    expect(ran).toMatchObject({ code: exitCode.usage, out: '' });
    expect(ran.err).toContain(`error: `);
    expect(ran.err).toContain(told);
  });
});

describe('features', () => {
  it('names the bits of a mask, and which of them we acknowledge', async () => {
    expect(await run('features', '0x100040001')).toEqual({
      code: 0,
      err: '',
      out: [
        '0x100040001',
        'BIT  NAME       SUPPORTED  WHERE',
        '  0  CSUM       yes        native/core: the TAP header passes through; completed in software where absent',
        ' 18  CTRL_RX    own        device: net state; native/core: receive filter',
        ' 32  VERSION_1  yes        native/core: 12-byte header, little-endian rings',
        '',
      ].join('\n'),
    });
  });

  it('makes the mask of names; a mask of 64 bits keeps every digit', async () => {
    const { out } = await run('features', 'VERSION_1,CSUM', 'VIRTIO_NET_F_SPEED_DUPLEX', '-o', 'json');
    expect(JSON.parse(out)).toMatchObject({
      mask: '0x8000000100000001',
      features: [{ name: 'CSUM' }, { name: 'VERSION_1' }, { name: 'SPEED_DUPLEX', supported: false }],
    });
  });
});

describe('commands that ask the agent', () => {
  let runDir: string;
  let introspection: Introspection | null;
  let reconnected: string[];
  let reconcile: () => Promise<unknown>;
  let setQueuePairs: (id: string, pairs: number) => Promise<void>;

  beforeEach(() => {
    runDir = mkdtempSync(join(tmpdir(), 'vu-cli-'));
    introspection = null;
    reconnected = [];
    reconcile = async () => ({ removed: ['port vu1'], unfinished: [], unknown: [] });
    setQueuePairs = async (id, pairs) => void reconnected.push(`${id} ${pairs}`);
  });
  afterEach(() => {
    introspection?.close();
    rmSync(runDir, { recursive: true, force: true });
  });

  async function agentWith(...views: readonly AttachmentView[]): Promise<void> {
    introspection = new Introspection({
      attachments: {
        list: () => views,
        reconnect: async (id) => void reconnected.push(id),
        setQueuePairs: (id, pairs) => setQueuePairs(id, pairs),
      },
      reconcile: () => reconcile(),
      featureNames,
      log: silentLogger,
    });
    await introspection.open(runDir);
  }

  const ask = (...argv: string[]): Promise<Ran> => run(...argv, `--run-dir=${runDir}`);

  it('attachments list is an aligned table', async () => {
    await agentWith(
      attachmentView(),
      attachmentView({
        id: 'vu00000000000b',
        pod: null,
        state: 'waiting',
        carrier: false,
        addresses: [],
        counters: null,
        reason: 'listening on /run/x.sock',
      }),
    );
    expect((await ask('attachments', 'list')).out).toBe(
      [
        'ID              POD          INTERFACE  NETWORK   STATE    CARRIER  ADDRESSES                RX FRAMES             TX FRAMES  DROPS  REASON',
        'vu000000000001  default/one  eth0       dpdk-net  running  on       10.77.0.2/24,fd77::2/64          5  18446744073709551615      3  -',
        'vu00000000000b  -            eth0       dpdk-net  waiting  off      -                                -                     -      -  listening on /run/x.sock',
        '',
      ].join('\n'),
    );
  });

  it.each<[string, (config: string) => Record<string, string>]>([
    ['in the environment', () => ({ VIRTIO_USER_RUN_DIR: runDir })],
    ['in the file that the environment names', (config) => ({ VIRTIO_USER_CONFIG: config })],
  ])('the agent is found by the run directory %s', async (_where, variables) => {
    await agentWith(attachmentView());
    const config = join(runDir, 'agent.yaml');
    writeFileSync(config, `run-dir: ${runDir}\n`);
    const set = variables(config);
    try {
      Object.assign(process.env, set);
      expect(await run('attachments', 'list')).toMatchObject({ code: 0, out: expect.stringContaining('default/one') });
    } finally {
      for (const name of Object.keys(set)) Reflect.deleteProperty(process.env, name);
    }
  });

  it('attachments show tells state, features by name and what happened', async () => {
    await agentWith(attachmentView({ ackedFeatures: (1n << 32n) | 1n }));
    const { code, out } = await ask('attachments', 'show', 'vu000000000001');
    expect(code).toBe(0);
    expect(out).toMatch(/^state: +running$/m);
    expect(out).toMatch(/^status: +ACKNOWLEDGE DRIVER DRIVER_OK FEATURES_OK$/m);
    expect(out).toMatch(/^acknowledged: +CSUM\n +VERSION_1$/m);
    expect(out).toMatch(/^events: +calls 9$/m);
    expect(out).toMatch(/^last outage: +340 ms$/m);
    const { out: json } = await ask('attachments', 'show', 'vu000000000001', '-o', 'json');
    expect(JSON.parse(json)).toMatchObject({
      ackedFeatures: { mask: '0x100000001', names: ['CSUM', 'VERSION_1'] },
      counters: { txFrames: '18446744073709551615' },
    });
  });

  it('attachments show tells the four masks apart, each by name', async () => {
    await agentWith(
      attachmentView({
        offeredFeatures: (1n << 32n) | (1n << 24n) | 1n,
        ackedFeatures: 1n << 32n,
        localFeatures: 1n << 5n,
        unsupportedFeatures: 1n << 24n,
      }),
    );
    const { out } = await ask('attachments', 'show', 'vu000000000001');
    expect(out).toMatch(/^offered: +CSUM\n +NOTIFY_ON_EMPTY\n +VERSION_1$/m);
    expect(out).toMatch(/^acknowledged: +VERSION_1$/m);
    expect(out).toMatch(/^frontend's own: +MAC$/m);
    expect(out).toMatch(/^unsupported: +NOTIFY_ON_EMPTY$/m);
  });

  it.each([
    [{}, '1 of 1'],
    [{ activePairs: 2, queuePairs: 2, configuredPairs: 4 }, '2 of 2, 4 configured'],
    [{ activePairs: 2, queuePairs: 2, configuredPairs: 4, wantedPairs: 3 }, '2 of 2, 4 configured, 3 asked for'],
    [{ activePairs: 3, queuePairs: 4, configuredPairs: 4, wantedPairs: 3 }, '3 of 4, 3 asked for'],
  ])('[F28] attachments show tells pairs in use, there, configured and asked for: %j', async (pairs, told) => {
    await agentWith(attachmentView(pairs));
    const { out } = await ask('attachments', 'show', 'vu000000000001');
    expect(/^queue pairs: +(.*)$/m.exec(out)?.[1]).toBe(told);
  });

  it('an attachment that is not there has an exit code of its own', async () => {
    await agentWith();
    expect(await ask('attachments', 'show', 'vu00000000000f')).toMatchObject({
      code: exitCode.notFound,
      err: 'error: there is no attachment vu00000000000f (ATTACHMENT_UNKNOWN)\n',
    });
  });

  it('attachments reconnect reaches the agent', async () => {
    await agentWith(attachmentView());
    expect((await ask('attachments', 'reconnect', 'vu000000000001')).code).toBe(0);
    expect(reconnected).toEqual(['vu000000000001']);
  });

  it('attachments set-queues reaches the agent, unless it is no number of pairs', async () => {
    await agentWith(attachmentView());
    expect(await ask('attachments', 'set-queues', 'vu000000000001', '2')).toMatchObject({
      code: 0,
      out: 'vu000000000001 uses 2 queue pairs\n',
    });
    expect(reconnected).toEqual(['vu000000000001 2']);
    for (const pairs of ['x', '1.5', '-1', '70000']) {
      expect((await ask('attachments', 'set-queues', 'vu000000000001', pairs)).code).not.toBe(0);
    }
    expect(reconnected).toHaveLength(1);
  });

  it.each([
    [
      'DEVICE_NOT_RUNNING',
      'control command queue-pairs: the device does not run',
      'Wait until it runs.',
      exitCode.failure,
    ],
    ['NOT_NEGOTIATED', 'the device has no control queue', 'Set "cq": true.', exitCode.failure],
    ['CONTROL_REFUSED', 'the device refused queue-pairs 5', null, exitCode.failure],
    ['STATE_WRITE', 'write records in /s: ENOSPC', 'Free space.', exitCode.failure],
    ['ATTACHMENT_UNKNOWN', 'queue pairs: no attachment runs here', null, exitCode.notFound],
  ] as const)('a failure of the agent is told as %s, with its remedy', async (code, message, remedy, exit) => {
    await agentWith(attachmentView());
    setQueuePairs = () => Promise.reject(new VirtioUserError(code, message, remedy === null ? {} : { remedy }));
    expect(await ask('attachments', 'set-queues', 'vu000000000001', '2')).toEqual({
      code: exit,
      out: '',
      err: `error: ${message} (${code})\n${remedy === null ? '' : `remedy: ${remedy}\n`}`,
    });
  });

  it('a failure of the agent that nobody foresaw has a code of ours', async () => {
    await agentWith();
    reconcile = () => Promise.reject(Object.assign(new Error('too many'), { code: 'EMFILE' }));
    expect(await ask('gc')).toMatchObject({ code: exitCode.failure, err: 'error: too many (SYSCALL_FAILED)\n' });
  });

  it('gc tells what was removed', async () => {
    await agentWith();
    expect(await ask('gc')).toEqual({
      code: 0,
      err: '',
      out: 'removed:    port vu1\nunfinished: -\nunknown:    -\n',
    });
    expect(JSON.parse((await ask('gc', '-o', 'json')).out)).toMatchObject({ removed: ['port vu1'] });
  });

  it("the agent's failure comes with its remedy", async () => {
    await agentWith();
    reconcile = () =>
      Promise.reject(new VirtioUserError('OVS_UNAVAILABLE', 'connect /db: ENOENT', { remedy: 'start it' }));
    expect(await ask('gc')).toEqual({
      code: exitCode.failure,
      out: '',
      err: 'error: connect /db: ENOENT (OVS_UNAVAILABLE)\nremedy: start it\n',
    });
  });

  it.each([['attachments', 'list'], ['attachments', 'show', 'vu000000000001'], ['gc']])(
    'without an agent %s %s says so',
    async (...argv) => {
      const ran = await ask(...argv);
      expect(ran.code).toBe(exitCode.agentUnreachable);
      expect(ran.err).toContain(runDir);
      expect(ran.err).toContain('remedy: start the agent');
    },
  );
});
