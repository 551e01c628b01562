/** Loads the addon: from the build tree when run from source, from beside the bundle when installed. */
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { fileURLToPath } from 'node:url';
import { messageOf, VirtioUserError } from '../errors.ts';
import type { NativeBinding } from './binding.ts';

/** Seen from `dist/`, from `dist/chunks/`, from `src/native/`. */
const candidates = ['./native/virtio_user.node', '../native/virtio_user.node', '../../build/native/virtio_user.node'];

let loaded: NativeBinding | null = null;

/** @throws VirtioUserError BUG naming what was tried and how to build it */
export function loadNative(): NativeBinding {
  if (loaded !== null) return loaded;
  const paths = candidates.map((candidate) => fileURLToPath(new URL(candidate, import.meta.url)));
  const path = paths.find((candidate) => existsSync(candidate));
  if (path === undefined) {
    throw new VirtioUserError('BUG', `the native addon is in none of ${paths.join(', ')}`, {
      remedy: 'build it with: npm run build',
    });
  }
  try {
    const binding = createRequire(import.meta.url)(path) as NativeBinding;
    // Cleanup hooks of an addon do not run on process.exit(): threads end and socket files go here.
    process.once('exit', () => binding.shutdown());
    loaded = binding;
    return binding;
  } catch (error) {
    throw new VirtioUserError('BUG', `the native addon ${path} does not load: ${messageOf(error)}`, {
      remedy: 'build it again with: npm run build; it needs Debian 12 or newer on x86-64',
      cause: error,
    });
  }
}
