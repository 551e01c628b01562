/** Files on the host that others read while we replace them: written aside, synced, renamed. */
import { createHash } from 'node:crypto';
import { constants } from 'node:fs';
import { access, chmod, mkdir, open, readFile, rename, rm } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { errnoOf, messageOf, VirtioUserError } from '../errors.ts';
import { syncDirectory } from '../sync-directory.ts';

export type Installed = 'installed' | 'unchanged';

export interface InstallOptions {
  readonly target: string;
  readonly content: Buffer;
  readonly mode: number;
  /** Asked with the path of the new file before it takes its name; throws to refuse it. */
  readonly verify?: (path: string) => Promise<void>;
}

/**
 * An identical file is left alone: runtimes watch these directories and re-validate on every change (CRI-O). The file
 * under way is hidden and has no ending that a runtime would load.
 */
export async function installFile({ target, content, mode, verify }: InstallOptions): Promise<Installed> {
  const directory = dirname(target);
  const aside = join(directory, `.${basename(target)}.new`);
  try {
    await mkdir(directory, { recursive: true });
    const current = await readFile(target).catch(() => null);
    if (current !== null && digest(current) === digest(content)) {
      await chmod(target, mode);
      await verify?.(target);
      return 'unchanged';
    }
    await rm(aside, { force: true });
    const file = await open(aside, 'wx', mode);
    try {
      await file.writeFile(content);
      await file.chmod(mode);
      await file.sync();
    } finally {
      await file.close();
    }
    if (digest(await readFile(aside)) !== digest(content)) throw new Error('what was written reads back different');
    await verify?.(aside);
    await rename(aside, target);
    await syncDirectory(directory);
    return 'installed';
  } catch (error) {
    await rm(aside, { force: true }).catch(() => undefined);
    throw failure(`install ${target}`, error);
  }
}

/** false: it was not there. */
export async function removeFile(path: string): Promise<boolean> {
  try {
    await access(path, constants.F_OK);
    await rm(path);
    await syncDirectory(dirname(path));
    return true;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return false;
    throw failure(`remove ${path}`, error);
  }
}

function digest(content: Buffer): string {
  return createHash('sha256').update(content).digest('hex');
}

function failure(doing: string, error: unknown): VirtioUserError {
  if (error instanceof VirtioUserError) return error;
  const readOnly = errnoOf(error) === 'EROFS' || errnoOf(error) === 'EACCES';
  return new VirtioUserError('SYSCALL_FAILED', `${doing}: ${messageOf(error)}`, {
    cause: error,
    ...(readOnly ? { remedy: 'the directory is not writable here: give the one that the container runtime uses' } : {}),
  });
}
