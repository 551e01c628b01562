/** What the node and this process may do: kernel, rights, devices, directories, limits. */
import { accessSync, closeSync, constants, existsSync, openSync, readFileSync } from 'node:fs';
import { release } from 'node:os';
import { dirname } from 'node:path';
import type { AgentOptions } from '../../agent/options.ts';
import { comfortableOpenFiles, openFilesLimit } from '../../agent/limits.ts';
import { errnoOf, messageOf } from '../../errors.ts';
import { attempt, fail, type Finding, info, ok, warn } from './finding.ts';

/** 5.6: openat2 (RESOLVE_NO_SYMLINKS), without which socket paths cannot be opened safely. */
const oldestKernel = [5, 6] as const;

/** Bits of linux/capability.h that the agent uses, by name. */
const neededCapabilities = { CAP_NET_ADMIN: 12, CAP_SYS_ADMIN: 21 } as const;

export async function nodeFindings(options: AgentOptions): Promise<readonly Finding[]> {
  const procRemedy = 'mount /proc';
  const procText = (path: string): string => readFileSync(path, 'utf8');
  return [
    kernel(release()),
    await attempt('rights', procRemedy, () => rights(procText('/proc/self/status'))),
    tunDevice(),
    namespaces(),
    writable('run directory', options.runDir),
    writable('state directory', options.stateDir),
    await attempt('open files', procRemedy, () => openFiles(openFilesLimit())),
    await attempt('hugepages', procRemedy, () => hugepages(procText('/proc/meminfo'))),
  ];
}

export function kernel(text: string): Finding {
  const [, major, minor] = /^(\d+)\.(\d+)/.exec(text) ?? [];
  const older =
    Number(major) < oldestKernel[0] || (Number(major) === oldestKernel[0] && Number(minor) < oldestKernel[1]);
  return older || major === undefined
    ? fail('kernel', `${text} is older than ${oldestKernel.join('.')}`, 'boot a newer kernel: openat2 is needed')
    : ok('kernel', text);
}

/** @param status text of /proc/self/status */
export function rights(status: string): Finding {
  const uid = /^Uid:\s+\d+\s+(\d+)/m.exec(status)?.[1];
  const effective = BigInt(`0x${/^CapEff:\s+([0-9a-f]+)/m.exec(status)?.[1] ?? '0'}`);
  const missing = Object.entries(neededCapabilities)
    .filter(([, bit]) => ((effective >> BigInt(bit)) & 1n) === 0n)
    .map(([name]) => name);
  if (uid !== '0') return fail('rights', `effective user ${uid ?? 'unknown'}`, 'run as root');
  if (missing.length > 0)
    return fail('rights', `without ${missing.join(', ')}`, `add ${missing.join(', ')} to the container`);
  return ok('rights', `root with ${Object.keys(neededCapabilities).join(', ')}`);
}

function tunDevice(): Finding {
  const path = '/dev/net/tun';
  try {
    closeSync(openSync(path, constants.O_RDWR));
    return ok('tun device', path);
  } catch (error) {
    const remedy =
      errnoOf(error) === 'EPERM'
        ? "allow character device 10:200 in the container's device cgroup"
        : 'modprobe tun, and mount /dev/net/tun into the container';
    return fail('tun device', messageOf(error), remedy);
  }
}

function namespaces(): Finding {
  return existsSync('/proc/self/ns/net')
    ? ok('network namespaces', '/proc/self/ns/net')
    : fail('network namespaces', '/proc/self/ns/net is missing', 'use a kernel with CONFIG_NET_NS, and mount /proc');
}

/** The directory, or where it will be made. */
export function writable(check: string, path: string): Finding {
  let nearest = path;
  while (!existsSync(nearest) && nearest !== '/') nearest = dirname(nearest);
  try {
    // The dot: nothing can be made in a file, whatever its mode.
    accessSync(`${nearest}/.`, constants.W_OK | constants.X_OK);
    return ok(check, nearest === path ? path : `${path} (will be made in ${nearest})`);
  } catch (error) {
    return fail(check, messageOf(error), `mount ${path} writable, or choose another directory`);
  }
}

export function openFiles(limit: number | null): Finding {
  const wanted = comfortableOpenFiles;
  if (limit !== null && limit < wanted) {
    const remedy = `raise it to ${wanted} or more (LimitNOFILE=, --ulimit nofile=): an attachment needs about a dozen`;
    return warn('open files', `at most ${limit}`, remedy);
  }
  return ok('open files', limit === null ? 'unlimited' : `at most ${limit}`);
}

/** Needed by the switch and by `device.memory: hugetlb`, not by us. @param memory text of /proc/meminfo */
export function hugepages(memory: string): Finding {
  const value = (name: string): string => new RegExp(`^${name}:\\s+(\\d+)`, 'm').exec(memory)?.[1] ?? '0';
  return info(
    'hugepages',
    `${value('HugePages_Free')} of ${value('HugePages_Total')} free, ${value('Hugepagesize')} kB each (the switch needs them, pods do not)`,
  );
}
