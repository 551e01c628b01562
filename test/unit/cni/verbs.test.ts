import { beforeEach, describe, expect, it } from '@jest/globals';
import type { CallContext } from '../../../src/attachment/api.ts';
import type { Verb } from '../../../src/cni/frame.ts';
import { type Outcome, Verbs } from '../../../src/cni/verbs.ts';
import { VirtioUserError } from '../../../src/errors.ts';
import type { NativeFd } from '../../../src/native/binding.ts';
import { decodedFrame } from '../../support/cni-request.ts';
import { FdLedger, nativeFault } from '../../support/memory-socket.ts';
import { RecordingAttachments } from '../../support/recording-attachments.ts';
import { recordedCall } from '../../support/recorded-call.ts';

const environment = {
  CNI_CONTAINERID: 'c1',
  CNI_NETNS: '/var/run/netns/n',
  CNI_IFNAME: 'eth0',
  CNI_PATH: '/opt/cni/bin',
};
const context: CallContext = { requestId: 'r', signal: new AbortController().signal };
const key = { networkName: 'net', containerId: 'c1', ifName: 'eth0' };

let attachments: RecordingAttachments;
let ledger: FdLedger;
let own: NativeFd;
let netns: NativeFd;
let isNetns: boolean;
let verbs: Verbs;

beforeEach(() => {
  attachments = new RecordingAttachments();
  ledger = new FdLedger();
  own = ledger.make();
  netns = ledger.make();
  isNetns = true;
  verbs = new Verbs({
    attachments,
    binding: {
      ownNetns: () => ledger.duplicate(own),
      checkNetns: () => {
        if (!isNetns) throw nativeFault('EINVAL', 'ioctl');
      },
    },
    netconf: {
      nodeName: 'node-1',
      runDir: '/run/virtio-user',
      backendDirs: ['/run/virtio-user/vhost'],
      ovsSocketDir: '/run/openvswitch',
      deviceInfoDir: '/var/run/k8s.cni.cncf.io/devinfo/cni',
    },
  });
});

type Json = Readonly<Record<string, unknown>>;

interface Call {
  readonly netconf?: Json;
  readonly stdin?: string;
  readonly env?: Readonly<Record<string, string>>;
  readonly fds?: readonly NativeFd[];
}

function run(verb: Verb, { netconf, stdin, env, fds }: Call = {}): Promise<Outcome> {
  const text = stdin ?? JSON.stringify({ cniVersion: '1.1.0', name: 'net', ...netconf });
  return verbs.run(
    decodedFrame(verb, { ...environment, ...env }, text),
    fds ?? (verb === 'ADD' ? [netns] : []),
    context,
  );
}

function errorIn({ answer }: Outcome): Json {
  expect(answer.exitCode).toBe(1);
  return JSON.parse(answer.body) as Json;
}

describe('ADD', () => {
  it('attaches what the netconf says and prints the result in the version asked for', async () => {
    const outcome = await run('ADD', { netconf: { cniVersion: '0.4.0' } });
    expect(outcome).toMatchObject({ error: null, answer: { exitCode: 0 } });
    expect(JSON.parse(outcome.answer.body)).toMatchObject({ cniVersion: '0.4.0', interfaces: [{ name: 'eth0' }] });
    expect(attachments.added).toMatchObject([{ spec: { key }, netns, context }]);
  });

  it('as containerd calls it works', async () => {
    const { env, stdin } = recordedCall('add');
    expect(await run('ADD', { env, stdin })).toMatchObject({ error: null, answer: { exitCode: 0 } });
  });

  it('can be taken back, whatever the clock says then', async () => {
    const outcome = await run('ADD');
    await outcome.undo?.();
    expect(attachments.removed).toMatchObject([
      { key, netnsPath: '/var/run/netns/n', askedAtMs: Number.MAX_SAFE_INTEGER },
    ]);
  });

  it('after other plugins of the list answers with what they made, too', async () => {
    const prevResult = {
      cniVersion: '1.0.0',
      interfaces: [{ name: 'first0', sandbox: '/ns' }],
      ips: [{ address: '10.1.1.2/24', interface: 0 }],
      dns: { nameservers: ['1.1.1.1'] },
    };
    const { answer } = await run('ADD', { netconf: { cniVersion: '1.0.0', prevResult } });
    expect(JSON.parse(answer.body)).toMatchObject({
      ...prevResult,
      interfaces: [{ name: 'first0', sandbox: '/ns' }, { name: 'eth0' }],
    });
  });

  it('that failed has nothing to take back and answers in the version asked for', async () => {
    attachments.failWith = new VirtioUserError('BACKEND_ABSENT', 'connect /x: ENOENT');
    const outcome = await run('ADD', { netconf: { cniVersion: '0.3.1' } });
    expect(errorIn(outcome)).toMatchObject({ cniVersion: '0.3.1', code: 11, msg: 'connect /x: ENOENT' });
    expect(outcome).toMatchObject({ undo: null, error: { code: 'BACKEND_ABSENT' } });
  });

  it('without a descriptor of the namespace is refused', async () => {
    expect(errorIn(await run('ADD', { fds: [] }))).toMatchObject({ code: 107 });
    expect(attachments.added).toEqual([]);
  });

  it('with a descriptor that is no network namespace is refused with code 8', async () => {
    isNetns = false;
    expect(errorIn(await run('ADD'))).toMatchObject({ code: 8, msg: expect.stringContaining('/var/run/netns/n') });
    expect(attachments.added).toEqual([]);
  });

  it('with the host’s own namespace is refused with code 8, unless overridden', async () => {
    const before = ledger.open;
    const fds = [ledger.duplicate(own)];
    expect(errorIn(await run('ADD', { fds }))).toMatchObject({
      code: 8,
      msg: expect.stringContaining('CNI_NETNS_OVERRIDE'),
    });
    expect(attachments.added).toEqual([]);
    expect(await run('ADD', { fds, env: { CNI_NETNS_OVERRIDE: '1' } })).toMatchObject({ error: null });
    expect(ledger.open).toBe(before + 1);
  });

  it.each([
    [1, { cniVersion: '9.9.9' }],
    [2, { device: { queues: 999 } }],
    [7, { name: '' }],
    [7, { ipam: { type: 'a/b' } }],
    [7, { prevResult: { ips: [{ address: '10.1.1.2/24', interface: 0 }] } }],
  ])('with a mistake gets code %i before anything is touched', async (code, netconf) => {
    expect(errorIn(await run('ADD', { netconf }))).toMatchObject({ code });
    expect(attachments.added).toEqual([]);
  });

  it('with bad variables gets 4, without JSON 6', async () => {
    expect(errorIn(await run('ADD', { env: { CNI_IFNAME: '' } }))).toMatchObject({ code: 4 });
    expect(errorIn(await run('ADD', { stdin: 'oops' }))).toMatchObject({ code: 6, cniVersion: '1.0.0' });
  });

  it('that stumbles over a bug of ours is an error like any other', async () => {
    attachments.failWith = new TypeError('x is not a function');
    expect(errorIn(await run('ADD'))).toMatchObject({ code: 111, details: 'code=BUG' });
  });
});

describe('DEL', () => {
  it.each(['del', 'del-empty-netns', 'del-after-reboot'] as const)(
    'as containerd calls it (%s) prints nothing',
    async (name) => {
      const { env, stdin } = recordedCall(name);
      expect(await run('DEL', { env, stdin })).toEqual({ answer: { exitCode: 0, body: '' }, error: null, undo: null });
      expect(attachments.removed).toEqual([
        {
          key: { networkName: 'dpdk-net', containerId: env['CNI_CONTAINERID'], ifName: 'eth0' },
          netnsPath: env['CNI_NETNS'],
          cniArgs: env['CNI_ARGS'],
          cniPath: '/opt/cni/bin',
          ipam: { type: 'host-local', netconf: stdin },
          askedAtMs: Number.MAX_SAFE_INTEGER,
        },
      ]);
    },
  );

  it.each([
    ['garbage in prevResult', { prevResult: 'x' }],
    ['strangers in prevResult', { prevResult: { interfaces: [{ name: 'a' }], ips: [{ interface: 9 }] } }],
    ['null in prevResult', { prevResult: null }],
    ['keys of ours that are wrong', { device: { queues: 999 }, backend: 5, ovs: null, pod: [] }],
    ['an unknown version', { cniVersion: '9.9.9' }],
    ['no version', { cniVersion: undefined }],
    ['an IPAM that is none', { ipam: { type: '../x' } }],
    ['an IPAM that is text', { ipam: 'x' }],
    ['a bad MAC', { runtimeConfig: { mac: 'x' } }],
  ])('with %s succeeds', async (_title, netconf) => {
    expect(await run('DEL', { netconf })).toMatchObject({ error: null });
    expect(attachments.removed).toMatchObject([{ key, ipam: null }]);
  });

  it('without a namespace, arguments or path succeeds', async () => {
    const env = { CNI_NETNS: '', CNI_ARGS: 'x;=', CNI_PATH: '' };
    expect(await run('DEL', { env })).toMatchObject({ error: null });
    expect(attachments.removed).toMatchObject([{ key, netnsPath: '', cniPath: '' }]);
  });

  it('that fails never says that something was not found', async () => {
    attachments.failWith = new VirtioUserError('IPAM_FAILED', 'IPAM plugin x DEL: lease not found');
    expect(errorIn(await run('DEL'))).toMatchObject({ msg: 'IPAM plugin x DEL: lease absent' });
  });
});

describe('CHECK', () => {
  const prevResult = { cniVersion: '1.1.0', interfaces: [] };

  it('hands what is expected to the life cycle and prints nothing', async () => {
    expect(await run('CHECK', { netconf: { prevResult } })).toMatchObject({
      error: null,
      answer: { exitCode: 0, body: '' },
    });
    expect(attachments.checked).toMatchObject([{ spec: { key }, prevResult }]);
  });

  it('of a list takes the result of all its plugins, whatever the others say there', async () => {
    const { answer } = await run('ADD', { netconf: { prevResult: { interfaces: [{ name: 'first0' }] } } });
    const merged: unknown = JSON.parse(answer.body);
    for (const given of [merged, { ...prevResult, ips: [{ address: 'theirs', interface: 9 }] }])
      expect(await run('CHECK', { netconf: { prevResult: given } })).toMatchObject({ error: null });
    expect(attachments.checked).toMatchObject([{ prevResult: merged }, {}]);
  });

  it('without prevResult gets code 7', async () => {
    for (const netconf of [{}, { prevResult: null }]) {
      expect(errorIn(await run('CHECK', { netconf }))).toMatchObject({
        code: 7,
        msg: expect.stringContaining('prevResult'),
      });
    }
    expect(attachments.checked).toEqual([]);
  });

  it('of what is not there gets code 3', async () => {
    attachments.failWith = new VirtioUserError('ATTACHMENT_UNKNOWN', 'x');
    expect(errorIn(await run('CHECK', { netconf: { prevResult } }))).toMatchObject({ code: 3 });
  });
});

describe('GC', () => {
  const list = [{ containerID: 'c1', ifname: 'eth0', more: 1 }];

  it('hands on what is valid in its network', async () => {
    expect(
      await run('GC', { netconf: { 'cni.dev/valid-attachments': list, 'cni.dev/attachments': [] } }),
    ).toMatchObject({
      error: null,
      answer: { exitCode: 0, body: '' },
    });
    expect(attachments.collected).toEqual([
      { networkName: 'net', valid: [{ containerId: 'c1', ifName: 'eth0' }], ipam: null, cniPath: '/opt/cni/bin' },
    ]);
  });

  it('takes an empty list for "nothing is valid"', async () => {
    await run('GC', { netconf: { 'cni.dev/valid-attachments': [] } });
    expect(attachments.collected).toMatchObject([{ networkName: 'net', valid: [] }]);
  });

  it.each([undefined, null, {}, 'x', [5], [{}], [{ containerID: 'c1' }], [{ containerID: 'c1', ifname: 5 }]])(
    'with %j as its list gets code 7 and nothing is removed',
    async (valid) => {
      const netconf = { 'cni.dev/valid-attachments': valid, 'cni.dev/attachments': list };
      expect(errorIn(await run('GC', { netconf }))).toMatchObject({
        code: 7,
        msg: expect.stringContaining('nothing was removed'),
      });
      expect(attachments.collected).toEqual([]);
    },
  );
});

describe('STATUS', () => {
  it('asks about IPAM and prints nothing', async () => {
    const stdin = '{"cniVersion":"1.1.0","name":"net","ipam":{"type":"host-local"}}';
    expect(await run('STATUS', { stdin })).toMatchObject({ error: null, answer: { exitCode: 0, body: '' } });
    expect(attachments.asked).toEqual([{ ipam: { type: 'host-local', netconf: stdin }, cniPath: '/opt/cni/bin' }]);
  });

  it('is 50 when ADD could not work now', async () => {
    attachments.failWith = new VirtioUserError('IPAM_FAILED', 'x');
    expect(errorIn(await run('STATUS'))).toMatchObject({ code: 50 });
  });
});
