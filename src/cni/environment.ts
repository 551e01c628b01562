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
  readonly valid: (value: string) => boolean;
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
    valid: (value) => Buffer.byteLength(value) <= 15 && value !== '.' && value !== '..' && !/[/:\s]/.test(value),
    accepted: 'at most 15 bytes without "/", ":" or blanks',
  },
  {
    name: 'CNI_NETNS',
    requiredFor: ['ADD', 'CHECK'],
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
  const faults = rules.flatMap(({ name, requiredFor, valid, accepted }) => {
    const value = environment.get(name) ?? '';
    if (value === '') return requiredFor.includes(verb) ? [`${name} is missing`] : [];
    return valid(value) ? [] : [`${name}=${value.slice(0, 64)}: accepted is ${accepted}`];
  });
  const args = environment.get('CNI_ARGS') ?? '';
  if (verb === 'ADD') {
    const malformed = malformedArgs(args);
    if (malformed.length > 0) faults.push(`CNI_ARGS: ${malformed.slice(0, 3).join(', ')}: accepted is K=V;K=V`);
  }
  if (faults.length > 0) {
    throw new VirtioUserError('INPUT_ENVIRONMENT', `${verb}: ${faults.join('; ')}`, {
      details: { faults: faults.length },
    });
  }
  return {
    containerId: environment.get('CNI_CONTAINERID') ?? '',
    netnsPath: environment.get('CNI_NETNS') ?? '',
    ifName: environment.get('CNI_IFNAME') ?? '',
    args,
    path: environment.get('CNI_PATH') ?? '',
    netnsOverride: ['1', 'true'].includes(environment.get('CNI_NETNS_OVERRIDE') ?? ''),
  };
}

function pairs(args: string): string[] {
  return args.split(';').filter((pair) => pair !== '');
}

function malformedArgs(args: string): string[] {
  return pairs(args).filter((pair) => !/^[^=]+=[^=]*$/.test(pair));
}

/** CNI_ARGS as a map; malformed pairs are skipped, unknown keys kept. */
export function parseArgs(args: string): ReadonlyMap<string, string> {
  return new Map(
    pairs(args).flatMap((pair) => {
      const equals = pair.indexOf('=');
      return equals < 1 ? [] : [[pair.slice(0, equals), pair.slice(equals + 1)] as const];
    }),
  );
}

export function podOf(args: ReadonlyMap<string, string>): PodIdentity | null {
  const name = args.get('K8S_POD_NAME');
  if (name === undefined || name === '') return null;
  return { namespace: args.get('K8S_POD_NAMESPACE') ?? '', name, uid: args.get('K8S_POD_UID') ?? '' };
}
