/** Where this package lies, whether its sources run or its bundle: the nearest directory above with package.json. */
import { existsSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { VirtioUserError } from '../errors.ts';

export function packageRoot(): string {
  const here = dirname(fileURLToPath(import.meta.url));
  for (let directory = here; ; directory = dirname(directory)) {
    if (existsSync(join(directory, 'package.json'))) return directory;
    if (directory === dirname(directory)) {
      throw new VirtioUserError('BUG', `no package.json above ${here}: the installation is incomplete`);
    }
  }
}

/** Of the CNI executable, wherever it lies; a netconf's `type`. */
export const executableName = 'virtio-user';

/** The CNI executable as built. */
export function shippedExecutable(): string {
  return join(packageRoot(), 'dist', 'cni', executableName);
}
