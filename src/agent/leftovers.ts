/**
 * What agents leave on a node when no pod is attached any more: their directories, with locks, sockets and temporary
 * files. Removed by name: whatever else lies there keeps the directory, and no link is followed.
 *
 * Queued deletes go too. A record is written before an ADD makes anything and removed after everything is given back, so
 * without records they ask for what is gone already: runtimes repeat the DEL of a dead sandbox after minutes.
 */
import { lstat, readdir, rmdir, unlink } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, messageOf, VirtioUserError } from '../errors.ts';
import { introspectionSocketName } from './http-client.ts';

/** In the state directory; an agent that runs holds it. */
export const agentLockName = 'agent.lock';

interface KnownDirectory {
  /** Files and sockets. */
  readonly names: (name: string) => boolean;
  readonly directories?: Readonly<Record<string, KnownDirectory>>;
}

export const stateDirectory: KnownDirectory = {
  names: (name) => name === agentLockName,
  directories: {
    attachments: { names: (name) => /^vu[0-9a-f]{12}\.json\.\d+\.tmp$/.test(name) },
    'delete-queue': { names: (name) => name === 'lock' || /^\d+\.\d+-\d+\.(req|tmp)$/.test(name) },
  },
};

export const runDirectory: KnownDirectory = {
  names: (name) => name === 'agent.sock' || name === introspectionSocketName,
  directories: { vhost: { names: (name) => /^vu[0-9a-f]{12}\.sock$/.test(name) } },
};

const mostNamed = 5;

/** @returns what became of it, for people. @throws VirtioUserError SYSCALL_FAILED */
export async function removeLeftovers(path: string, known: KnownDirectory): Promise<string> {
  try {
    const about = await lstat(path);
    if (about.isSymbolicLink()) return 'kept: it is a symbolic link';
    if (!about.isDirectory()) return 'kept: it is not a directory';
    const strange = await strangers(path, known, '');
    if (strange.length > 0) {
      const more = strange.length > mostNamed ? ` and ${strange.length - mostNamed} more` : '';
      return `kept: it holds ${strange.slice(0, mostNamed).join(', ')}${more}`;
    }
    await empty(path, known);
    return await removeDirectory(path);
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return 'was not there';
    throw new VirtioUserError('SYSCALL_FAILED', `remove ${path}: ${messageOf(error)}`, { cause: error });
  }
}

/** What is not ours, by its path below the directory. */
async function strangers(directory: string, known: KnownDirectory, prefix: string): Promise<readonly string[]> {
  const found: string[] = [];
  for (const entry of await readdir(directory, { withFileTypes: true })) {
    const inner = known.directories?.[entry.name];
    if (inner !== undefined && entry.isDirectory())
      found.push(...(await strangers(join(directory, entry.name), inner, `${prefix}${entry.name}/`)));
    else if (!(known.names(entry.name) && (entry.isFile() || entry.isSocket()))) found.push(prefix + entry.name);
  }
  return found;
}

async function empty(directory: string, known: KnownDirectory): Promise<void> {
  for (const [name, inner] of Object.entries(known.directories ?? {})) {
    const path = join(directory, name);
    try {
      await empty(path, inner);
      await rmdir(path);
    } catch (error) {
      if (errnoOf(error) !== 'ENOENT') throw error;
    }
  }
  for (const name of (await readdir(directory)).filter((one) => known.names(one))) await unlink(join(directory, name));
}

/** A directory that something is mounted on is the one who mounted it's. */
async function removeDirectory(path: string): Promise<string> {
  try {
    await rmdir(path);
    return 'removed';
  } catch (error) {
    if (errnoOf(error) === 'EBUSY') return 'emptied; it is a mount point';
    throw error;
  }
}
