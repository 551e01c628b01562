/**
 * What a pod may be told of its device: a file of the NPWG Device Information Specification 1.1.0, at a path that Multus
 * names (runtimeConfig.CNIDeviceInfoFile), read by it into the pod's network-status, removed with the attachment.
 *
 * The path comes from stdin, which a NetworkAttachmentDefinition can shape: only a name inside one directory is taken,
 * nothing is followed, and the file appears complete or not at all.
 */
import { constants } from 'node:fs';
import { chmod, mkdir, open, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { errnoOf, messageOf, VirtioUserError } from '../errors.ts';
import { isJsonObject, type JsonObject } from '../json.ts';
import type { BackendSpec } from './spec.ts';

export const defaultDeviceInfoDir = '/var/run/k8s.cni.cncf.io/devinfo/cni';

/** Longer ones cannot be names of the kernel; the temporary name is shorter. */
const fileName = /^[A-Za-z0-9_][A-Za-z0-9._:@-]{0,254}$/;
const largestFileBytes = 64 * 1024;
const specificationVersion = '1.1.0';

export interface DeviceInfo {
  readonly type: 'vhost-user';
  readonly version: string;
  readonly 'vhost-user': {
    /** The role of the pod's side, which we play for it: `server` where the switch connects. */
    readonly mode: 'client' | 'server';
    /** As the host sees it: no container of an ordinary pod has the socket. */
    readonly path: string;
  };
}

export function deviceInfo({ server, path }: Pick<BackendSpec, 'server' | 'path'>): DeviceInfo {
  return {
    type: 'vhost-user',
    version: specificationVersion,
    'vhost-user': { mode: server ? 'server' : 'client', path },
  };
}

/** /var/run is a link to /run on every distribution; both spellings are in use. */
function canonical(path: string): string {
  return path.replace(/^\/var\/run\//, '/run/');
}

/** The name of the file when it lies right in the directory and is a harmless one, else null. */
export function deviceInfoName(path: string, directory: string): string | null {
  const name = basename(path);
  const inside = path === `${dirname(path)}/${name}` && canonical(dirname(path)) === canonical(directory);
  return inside && fileName.test(name) ? name : null;
}

export interface DeviceInfoFiles {
  /** @throws CONFIG_INVALID when the file says already that the device is another, SYSCALL_FAILED */
  write(path: string, id: string, info: DeviceInfo): Promise<void>;
  /** Idempotent; a half-made one of this attachment goes too. @throws SYSCALL_FAILED */
  remove(path: string, id: string): Promise<void>;
}

/** What is asked of the file system; tests let it fail. */
export const deviceInfoDisk = { mkdir, open, rename, rm };

export class DeviceInfoDirectory implements DeviceInfoFiles {
  readonly #directory: string;
  readonly #disk: typeof deviceInfoDisk;

  constructor(directory: string, disk: typeof deviceInfoDisk = deviceInfoDisk) {
    this.#directory = directory;
    this.#disk = disk;
  }

  async write(path: string, id: string, info: DeviceInfo): Promise<void> {
    const name = deviceInfoName(path, this.#directory);
    if (name === null) throw new VirtioUserError('CONFIG_INVALID', `${path} does not lie in ${this.#directory}`);
    const target = join(this.#directory, name);
    const temporary = this.#temporary(id);
    try {
      await this.#disk.mkdir(this.#directory, { recursive: true, mode: 0o755 });
      await this.#enter();
      const text = JSON.stringify(merged(await this.#read(target), info, path));
      await this.#disk.rm(temporary, { force: true });
      const file = await this.#disk.open(temporary, 'wx', 0o444);
      try {
        await file.writeFile(text);
      } finally {
        await file.close();
      }
      await this.#disk.rename(temporary, target);
    } catch (error) {
      throw this.#failed('write', path, error);
    }
  }

  async remove(path: string, id: string): Promise<void> {
    // Of a directory that was another agent's option: not ours to look into.
    const name = deviceInfoName(path, this.#directory);
    if (name === null) return;
    try {
      await this.#enter();
      for (const file of [join(this.#directory, name), this.#temporary(id)]) await this.#disk.rm(file, { force: true });
    } catch (error) {
      if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ENOTDIR') return;
      throw this.#failed('remove', path, error);
    }
  }

  /** Multus makes the directory with mode 0, which keeps out who has no CAP_DAC_OVERRIDE: root in our container. */
  async #enter(): Promise<void> {
    const ownerMay = 0o700;
    const { mode } = await stat(this.#directory);
    if ((mode & ownerMay) !== ownerMay) await chmod(this.#directory, 0o755);
  }

  /** Not a name that `deviceInfoName` lets pass. */
  #temporary(id: string): string {
    return join(this.#directory, `.${id}.tmp`);
  }

  /** What a device plugin has said (Multus copies it here before it calls us), or null: nothing that can be used. */
  async #read(path: string): Promise<JsonObject | null> {
    let file: Awaited<ReturnType<typeof open>>;
    try {
      file = await this.#disk.open(path, constants.O_RDONLY | constants.O_NOFOLLOW | constants.O_NONBLOCK);
    } catch (error) {
      if (errnoOf(error) === 'ENOENT' || errnoOf(error) === 'ELOOP') return null;
      throw error;
    }
    try {
      const found = await file.stat();
      if (!found.isFile() || found.size > largestFileBytes) return null;
      const value: unknown = JSON.parse(await file.readFile('utf8'));
      return isJsonObject(value) ? value : null;
    } catch (error) {
      if (error instanceof SyntaxError) return null;
      throw error;
    } finally {
      await file.close();
    }
  }

  #failed(what: string, path: string, error: unknown): VirtioUserError {
    if (error instanceof VirtioUserError) return error;
    return new VirtioUserError('SYSCALL_FAILED', `${what} device-info file ${path}: ${messageOf(error)}`, {
      details: { errno: errnoOf(error) },
      remedy: `make ${this.#directory} of the node writable for the agent (hostPaths.deviceInfoDir), or declare no capability CNIDeviceInfoFile`,
      cause: error,
    });
  }
}

/** What a device plugin said stays, what it left open is ours; that the device is another one is an error. */
function merged(existing: JsonObject | null, info: DeviceInfo, path: string): JsonObject {
  const own = info['vhost-user'];
  if (existing === null) return { ...info };
  const contradiction = (key: string, theirs: unknown, ours: string): VirtioUserError =>
    new VirtioUserError(
      'CONFIG_INVALID',
      `${path}: the device plugin says ${key} ${JSON.stringify(theirs).slice(0, 64)}, this network ${JSON.stringify(ours)}`,
      { details: { key: 'runtimeConfig.CNIDeviceInfoFile' }, remedy: 'name the resource of such devices, or none' },
    );
  const { type, 'vhost-user': theirs } = existing;
  if (type !== undefined && type !== info.type) throw contradiction('type', type, info.type);
  const said = isJsonObject(theirs) ? theirs : {};
  const { mode } = said;
  if (mode !== undefined && mode !== own.mode) throw contradiction('mode', mode, own.mode);
  return { ...info, ...existing, 'vhost-user': { ...own, ...said } };
}
