/** Where backends' sockets may lie. */
import { relative } from 'node:path';
import { VirtioUserError } from '../errors.ts';
import type { SocketPath } from '../native/binding.ts';

/**
 * The path below the allowed directory that contains it: links in the directory's own path are the admin's, links below
 * are not followed. @throws VirtioUserError SOCKET_PATH
 */
export function allowedPath(path: string, backendDirs: readonly string[]): SocketPath {
  const [baseDirectory] = backendDirs
    .filter((directory) => path.startsWith(directory === '/' ? '/' : `${directory}/`))
    .sort((one, other) => other.length - one.length);
  if (baseDirectory !== undefined) return { baseDirectory, relativePath: relative(baseDirectory, path) };
  throw new VirtioUserError('SOCKET_PATH', `backend.path ${path} lies in none of ${backendDirs.join(', ')}`, {
    remedy: 'add its directory to --backend-dirs',
  });
}
