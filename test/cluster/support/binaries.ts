/** Where `scripts/build-cluster.sh` put what the cluster runs. */
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const bin = fileURLToPath(new URL('../../../build/cluster/bin', import.meta.url));

export function binary(name: string): string {
  return join(bin, name);
}

/**
 * Which containerd a node runs: Debian's 1.6, which knows `cniVersion` alone (CNI 1.0.0), or 2.x from its Go module, which
 * takes the highest of `cniVersions` (CNI 1.1.0, STATUS).
 */
export type ContainerdVersion = '1.6' | '2.1';

export function containerdPaths(version: ContainerdVersion): {
  readonly containerd: string;
  readonly shimDirectory: string;
  readonly ctr: string;
} {
  if (version === '1.6') return { containerd: '/usr/bin/containerd', shimDirectory: '/usr/bin', ctr: '/usr/bin/ctr' };
  const directory = join(bin, 'containerd2');
  return { containerd: join(directory, 'containerd'), shimDirectory: directory, ctr: join(directory, 'ctr') };
}
