/** What the container runtime and the IPAM delegates need in their directories. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { confNames, namesPlugin } from '../../agent/network-conf.ts';
import { executableName } from '../../agent/package-root.ts';
import { errnoOf, messageOf } from '../../errors.ts';
import { supportedCniVersions } from '../executable-probe.ts';
import { attempt, fail, type Finding, info, ok, warn } from './finding.ts';

const ipamPlugins = ['host-local', 'static', 'dhcp', 'whereabouts'] as const;

export async function cniFindings(binDir: string, confDir: string): Promise<readonly Finding[]> {
  const readable = (option: string): string => `make it a directory that root may read, or name another with ${option}`;
  return [
    await executable(join(binDir, executableName)),
    await attempt('IPAM plugins', readable('--cni-bin-dir'), () => ipam(binDir)),
    await attempt('network configuration', readable('--cni-conf-dir'), () => configuration(confDir)),
  ];
}

function executable(path: string): Promise<Finding> {
  return attempt('CNI executable', 'virtio-user-cni install', async () =>
    ok('CNI executable', `${path}: CNI ${(await supportedCniVersions(path)).join(', ')}`),
  );
}

async function ipam(binDir: string): Promise<Finding> {
  const present = names(binDir).filter((name) => ipamPlugins.some((plugin) => plugin === name));
  const first = present[0];
  if (first === undefined) {
    const remedy =
      'install the CNI plugins there, or name their directory with --cni-bin-dir; without "ipam" pods get no address';
    return warn('IPAM plugins', `none in ${binDir}`, remedy);
  }
  try {
    await supportedCniVersions(join(binDir, first));
    return ok('IPAM plugins', `${present.join(', ')} in ${binDir}`);
  } catch (error) {
    // ENOENT for a file that is there: its ELF interpreter is not, as in an image without glibc.
    const remedy = 'use static builds of the plugins, or an image with the C library that they are linked to';
    return fail('IPAM plugins', `${first} is there and does not run: ${messageOf(error)}`, remedy);
  }
}

/** Multus users need none; the runtime takes the first file by name. */
function configuration(confDir: string): Finding {
  const files = confNames(confDir);
  const ours: string[] = [];
  for (const name of files) {
    try {
      if (namesPlugin(join(confDir, name))) ours.push(name);
    } catch (error) {
      const remedy = `make it a file that root may read, or remove it from ${confDir}`;
      return warn('network configuration', `${name}: ${messageOf(error)}`, remedy);
    }
  }
  if (files.length === 0) return info('network configuration', `none in ${confDir}: no network is configured`);
  if (ours.length === 0) {
    return info('network configuration', `the runtime takes ${String(files[0])}; none in ${confDir} names virtio-user`);
  }
  const taken = ours[0] === files[0] ? 'the runtime takes it' : `the runtime takes ${String(files[0])} before it`;
  return info('network configuration', `${ours.join(', ')} in ${confDir}; ${taken}`);
}

function names(directory: string): readonly string[] {
  try {
    return readdirSync(directory);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    throw error;
  }
}
