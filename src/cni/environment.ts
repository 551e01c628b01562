/** The CNI variables (CNI 1.1.0, "Parameters"), checked again: the executable may be another version. */
import type { PodIdentity } from '../attachment/spec.ts';
import { VirtioUserError } from '../errors.ts';
import type { Verb } from './frame.ts';

export interface CniEnvironment {
  readonly containerId: string;
  readonly netnsPath: string;
  readonly ifName: string;
  readonly args: string;
  readonly path: string;
  readonly netnsOverride: boolean;
}

interface Rule {
  readonly name: string;
  readonly requiredFor: readonly Verb[];
  /** A value that DEL cannot use counts as none: nothing keeps a pod from going away. */
  readonly lenientDel?: boolean;
  readonly valid: (value: string, verb: Verb) => boolean;
  readonly accepted: string;
}

const attached: readonly Verb[] = ['ADD', 'DEL', 'CHECK'];

const rules: readonly Rule[] = [
  {
    name: 'CNI_CONTAINERID',
    requiredFor: attached,
    valid: (value) => /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,255}$/.test(value),
    accepted: 'letters, digits, ".", "_", "-", at most 256, starting with a letter or digit',
  },
  {
    name: 'CNI_IFNAME',
    requiredFor: attached,
    // libcni lets "%" pass, which starts a pattern for the kernel: no interface has such a name, and its DEL succeeds.
    valid: (value, verb) =>
      Buffer.byteLength(value) <= 15 &&
      value !== '.' &&
      value !== '..' &&
      !(verb === 'DEL' ? /[/:\s]/ : /[/:%\s]/).test(value),
    accepted: 'at most 15 bytes without "/", ":", "%" or blanks',
  },
  {
    name: 'CNI_NETNS',
    requiredFor: ['ADD', 'CHECK'],
    lenientDel: true,
    valid: (value) => value.startsWith('/') && value.length <= 4096,
    accepted: 'an absolute path',
  },
  {
    name: 'CNI_PATH',
    requiredFor: ['GC'],
    valid: (value) => value.length <= 65_536,
    accepted: 'a list of directories',
  },
];

/** @throws INPUT_ENVIRONMENT naming every variable that is missing or wrong */
export function parseEnvironment(verb: Verb, environment: ReadonlyMap<string, string>): CniEnvironment {
  const values = new Map<string, string>();
  const faults = rules.flatMap(({ name, requiredFor, lenientDel, valid, accepted }) => {
    const value = environment.get(name) ?? '';
    if (value === '') return requiredFor.includes(verb) ? [`${name} is missing`] : [];
    if (valid(value, verb)) values.set(name, value);
    else if (verb !== 'DEL' || lenientDel !== true) return [`${name}: ${quoted(value)}; accepted: ${accepted}`];
    return [];
  });
  const args = environment.get('CNI_ARGS') ?? '';
  if (verb === 'ADD') faults.push(...argsFaults(args));
  if (faults.length > 0) {
    throw new VirtioUserError('INPUT_ENVIRONMENT', `${verb}: ${faults.join('; ')}`, {
      details: { faults: faults.length },
    });
  }
  return {
    containerId: values.get('CNI_CONTAINERID') ?? '',
    netnsPath: values.get('CNI_NETNS') ?? '',
    ifName: values.get('CNI_IFNAME') ?? '',
    args,
    path: values.get('CNI_PATH') ?? '',
    netnsOverride: ['1', 'true'].includes(environment.get('CNI_NETNS_OVERRIDE') ?? ''),
  };
}

function quoted(value: string): string {
  return JSON.stringify(value.length <= 64 ? value : `${value.slice(0, 64)}…`);
}

function pairs(args: string): string[] {
  return args.split(';').filter((pair) => pair !== '');
}

/** What ADD refuses: a pair that is none, and a pod that cannot be one of Kubernetes. */
function argsFaults(args: string): string[] {
  const malformed = pairs(args).filter((pair) => !/^[^=]+=[^=]*$/.test(pair));
  const faults = malformed.slice(0, 3).map((pair) => `CNI_ARGS: ${quoted(pair)}; accepted: K=V;K=V`);
  for (const [key, value] of parseArgs(args)) {
    const rule = podRules.get(key);
    if (rule !== undefined && value !== '' && !rule.test(value))
      faults.push(`CNI_ARGS ${key}: ${quoted(value)}; accepted: what Kubernetes takes for it`);
  }
  return faults;
}

/** CNI_ARGS as a map; malformed pairs are skipped, unknown keys kept. */
export function parseArgs(args: string): ReadonlyMap<string, string> {
  return new Map(
    pairs(args).flatMap((pair) => {
      const equals = pair.indexOf('=');
      const malformed = equals < 1 || equals !== pair.lastIndexOf('=');
      return malformed ? [] : [[pair.slice(0, equals), pair.slice(equals + 1)] as const];
    }),
  );
}

/** Name rules of Kubernetes (RFC 1123), a little wider: static pods and other orchestrators have their own ways. */
const podRules: ReadonlyMap<string, RegExp> = new Map([
  ['K8S_POD_NAMESPACE', /^[a-zA-Z0-9]([a-zA-Z0-9-]{0,61}[a-zA-Z0-9])?$/],
  ['K8S_POD_NAME', /^[a-zA-Z0-9][a-zA-Z0-9_.-]{0,252}$/],
  ['K8S_POD_UID', /^[a-zA-Z0-9-]{1,128}$/],
]);

/** null without a pod, or when what is said of it cannot be one's. */
export function podOf(args: ReadonlyMap<string, string>): PodIdentity | null {
  const value = (key: string): string => {
    const given = args.get(key) ?? '';
    return podRules.get(key)?.test(given) === true ? given : '';
  };
  const name = value('K8S_POD_NAME');
  return name === '' ? null : { namespace: value('K8S_POD_NAMESPACE'), name, uid: value('K8S_POD_UID') };
}
