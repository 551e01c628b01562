/** The agent's directories with the modes that keep strangers out. DESIGN: run 0711, vhost 0750, state 0700. */
import {
  chmodSync,
  closeSync,
  constants,
  existsSync,
  fchownSync,
  mkdirSync,
  openSync,
  readFileSync,
  statSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { errnoOf, messageOf, VirtioUserError } from '../errors.ts';
import type { AgentOptions } from './options.ts';

export interface Directories {
  readonly vhost: string;
  readonly attachments: string;
  readonly deleteQueue: string;
  /** Group of the vhost sockets, or null. */
  readonly vhostGroupId: number | null;
}

/** Creates what is missing and sets owner and mode of what is there. @throws VirtioUserError SYSCALL_FAILED, CONFIG_INVALID */
export function prepareDirectories(
  options: Pick<AgentOptions, 'runDir' | 'stateDir' | 'socket' | 'vhostGroup'>,
): Directories {
  const directories = {
    vhost: join(options.runDir, 'vhost'),
    attachments: join(options.stateDir, 'attachments'),
    deleteQueue: join(options.stateDir, 'delete-queue'),
    vhostGroupId: options.vhostGroup === null ? null : groupId(options.vhostGroup),
  };
  prepare(options.runDir, 0o711, null);
  prepare(directories.vhost, 0o750, directories.vhostGroupId);
  prepare(options.stateDir, 0o700, null);
  prepare(directories.attachments, 0o700, null);
  prepare(directories.deleteQueue, 0o700, null);
  makeDirectory(dirname(options.socket), 0o711);
  return directories;
}

function prepare(path: string, mode: number, group: number | null): void {
  try {
    makeDirectory(path, mode);
    const found = statSync(path);
    if (!found.isDirectory()) throw new Error('it is not a directory');
    if (found.uid !== process.geteuid?.()) throw new Error(`it belongs to user ${found.uid}`);
    if (group !== null && found.gid !== group) giveTo(group, path, found.uid);
    if ((found.mode & 0o7777) !== mode) chmodSync(path, mode);
  } catch (error) {
    if (error instanceof VirtioUserError) throw error;
    throw new VirtioUserError('SYSCALL_FAILED', `prepare directory ${path}: ${messageOf(error)}`, {
      remedy: 'the agent needs this directory for itself, writable and owned by root',
      cause: error,
    });
  }
}

/** By descriptor: the seccomp profile of the manifests knows fchown, as the sockets need it, and no chown. */
function giveTo(group: number, path: string, owner: number): void {
  const directory = openSync(path, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fchownSync(directory, owner, group);
  } catch (error) {
    if (errnoOf(error) !== 'EPERM') throw error;
    throw new VirtioUserError('SYSCALL_FAILED', `give ${path} to group ${group}: ${messageOf(error)}`, {
      remedy: 'add the capability CHOWN to the container, or run without --vhost-group',
      cause: error,
    });
  } finally {
    closeSync(directory);
  }
}

/** Not `mkdir` with `recursive`: where the file system answers ENOENT for a parent that is there (/proc), it never ends. */
function makeDirectory(path: string, mode: number): void {
  try {
    mkdirSync(path, { mode });
  } catch (error) {
    if (errnoOf(error) === 'EEXIST') return;
    if (errnoOf(error) !== 'ENOENT' || existsSync(dirname(path))) throw error;
    makeDirectory(dirname(path), 0o755);
    mkdirSync(path, { mode });
  }
}

/** By number, or by name from /etc/group. */
function groupId(group: string): number {
  if (/^\d+$/.test(group)) return Number(group);
  const line = readFileSync('/etc/group', 'utf8')
    .split('\n')
    .find((candidate) => candidate.startsWith(`${group}:`));
  const id = line?.split(':')[2];
  if (id !== undefined && /^\d+$/.test(id)) return Number(id);
  throw new VirtioUserError('CONFIG_INVALID', `--vhost-group: there is no group "${group}" in /etc/group`, {
    remedy: 'give its number: a container has a group file of its own',
  });
}
