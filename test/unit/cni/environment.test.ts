import { describe, expect, it } from '@jest/globals';
import { parseArgs, parseEnvironment, podOf } from '../../../src/cni/environment.ts';
import type { Verb } from '../../../src/cni/frame.ts';
import { recordedCall } from '../../support/recorded-call.ts';

const good = {
  CNI_CONTAINERID: 'c1',
  CNI_NETNS: '/var/run/netns/n',
  CNI_IFNAME: 'eth0',
  CNI_PATH: '/opt/cni/bin',
  CNI_ARGS: 'IgnoreUnknown=1;K8S_POD_NAME=web-0;K8S_POD_NAMESPACE=shop;K8S_POD_UID=1-2',
};

function parse(
  verb: Verb,
  changes: Readonly<Record<string, string | undefined>> = {},
): ReturnType<typeof parseEnvironment> {
  const variables = new Map<string, string>(Object.entries(good));
  for (const [name, value] of Object.entries(changes)) {
    if (value === undefined) variables.delete(name);
    else variables.set(name, value);
  }
  return parseEnvironment(verb, variables);
}

describe('CNI variables', () => {
  it.each(['add', 'del', 'del-empty-netns', 'del-after-reboot'] as const)(
    'as containerd sent them (%s) are taken',
    (name) => {
      const { env } = recordedCall(name);
      const parsed = parseEnvironment(env['CNI_COMMAND'] as Verb, new Map(Object.entries(env)));
      expect(parsed).toEqual({
        containerId: env['CNI_CONTAINERID'],
        netnsPath: env['CNI_NETNS'],
        ifName: 'eth0',
        args: env['CNI_ARGS'],
        path: '/opt/cni/bin',
        netnsOverride: false,
      });
      expect(podOf(parseArgs(parsed.args))).toMatchObject({ namespace: 'w', name: 'life' });
    },
  );

  const missing: readonly (readonly [Verb, string])[] = [
    ['ADD', 'CNI_CONTAINERID'],
    ['ADD', 'CNI_NETNS'],
    ['ADD', 'CNI_IFNAME'],
    ['DEL', 'CNI_CONTAINERID'],
    ['DEL', 'CNI_IFNAME'],
    ['CHECK', 'CNI_CONTAINERID'],
    ['CHECK', 'CNI_NETNS'],
    ['CHECK', 'CNI_IFNAME'],
    ['GC', 'CNI_PATH'],
  ];
  it.each(missing)('%s without %s is refused by name, empty or absent', (verb, name) => {
    for (const value of ['', undefined]) {
      expect(() => parse(verb, { [name]: value })).toThrow(
        expect.objectContaining({ code: 'INPUT_ENVIRONMENT', message: expect.stringContaining(`${name} is missing`) }),
      );
    }
  });

  it('all that are wrong are named at once', () => {
    expect(() => parse('ADD', { CNI_CONTAINERID: '', CNI_IFNAME: 'a/b', CNI_ARGS: 'x' })).toThrow(
      /CNI_CONTAINERID is missing; CNI_IFNAME: "a\/b"; accepted: .*; CNI_ARGS: "x"; accepted: K=V/,
    );
  });

  it('are not asked for where a verb has no use for them', () => {
    const bare = { CNI_CONTAINERID: undefined, CNI_NETNS: undefined, CNI_IFNAME: undefined, CNI_ARGS: undefined };
    expect(parse('GC', bare)).toMatchObject({ containerId: '', path: '/opt/cni/bin' });
    expect(parse('STATUS', { ...bare, CNI_PATH: undefined })).toMatchObject({ path: '' });
    expect(parse('DEL', { CNI_NETNS: undefined, CNI_ARGS: undefined, CNI_PATH: undefined })).toMatchObject({
      netnsPath: '',
    });
  });

  it.each([
    ['CNI_CONTAINERID', '../x'],
    ['CNI_CONTAINERID', '-x'],
    ['CNI_CONTAINERID', 'a b'],
    ['CNI_CONTAINERID', 'x'.repeat(257)],
    ['CNI_IFNAME', 'a-name-of-sixteen'],
    ['CNI_IFNAME', 'ünterfäce-länge'],
    ['CNI_IFNAME', '.'],
    ['CNI_IFNAME', '..'],
    ['CNI_IFNAME', 'a:b'],
    ['CNI_IFNAME', 'a\tb'],
    ['CNI_IFNAME', 'eth%d'],
    ['CNI_NETNS', 'netns/x'],
    ['CNI_NETNS', `/${'x'.repeat(4096)}`],
    ['CNI_ARGS', '=v'],
    ['CNI_ARGS', 'a=b=c'],
    ['CNI_ARGS', 'K8S_POD_NAME=../../etc'],
    ['CNI_ARGS', 'K8S_POD_NAMESPACE=a b'],
    ['CNI_ARGS', 'K8S_POD_UID={}'],
  ])('ADD with %s = %s is refused', (name, value) => {
    expect(() => parse('ADD', { [name]: value })).toThrow(
      expect.objectContaining({ code: 'INPUT_ENVIRONMENT', message: expect.stringContaining(name) }),
    );
  });

  it('a message quotes only the beginning of a long value', () => {
    expect(() => parse('ADD', { CNI_CONTAINERID: `-${'x'.repeat(60_000)}` })).toThrow(/^.{1,300}$/);
  });

  it('DEL skips what it cannot use: malformed arguments, a path that is none', () => {
    const parsed = parse('DEL', { CNI_ARGS: 'x;=y;K8S_POD_NAME=web-0;a=b=c', CNI_NETNS: 'gone' });
    expect(parsed.netnsPath).toBe('');
    expect([...parseArgs(parsed.args)]).toEqual([['K8S_POD_NAME', 'web-0']]);
  });

  it('DEL takes a name that ADD refuses as a pattern: whoever asked for one must get rid of its pod', () => {
    expect(parse('DEL', { CNI_IFNAME: 'eth%d' }).ifName).toBe('eth%d');
    expect(() => parse('CHECK', { CNI_IFNAME: 'eth%d' })).toThrow(/"%"/);
  });

  it('CNI_NETNS_OVERRIDE is on with 1 and true', () => {
    const override = (value: string): boolean => parse('ADD', { CNI_NETNS_OVERRIDE: value }).netnsOverride;
    expect(['1', 'true', '0', 'yes', ''].map(override)).toEqual([true, true, false, false, false]);
  });
});

describe('the pod in CNI_ARGS', () => {
  it('has namespace, name and uid', () => {
    expect(podOf(parseArgs(good.CNI_ARGS))).toEqual({ namespace: 'shop', name: 'web-0', uid: '1-2' });
  });

  it('is none without a name that could be one', () => {
    for (const args of ['', 'IgnoreUnknown=1', 'K8S_POD_NAME=', 'K8S_POD_NAME=a/b', 'K8S_POD_NAMESPACE=w']) {
      expect(podOf(parseArgs(args))).toBeNull();
    }
  });
});
