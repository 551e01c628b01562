/**
 * Records on disk, one JSON file per attachment. A write is temp file, fsync, rename, fsync of the directory: after it
 * returned, the record survives a power failure. A file that is no record is moved aside to `*.bad`; one that the disk does
 * not give now stays for the next start. The rest goes on.
 */
import { mkdir, readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, messageOf, VirtioUserError } from '../errors.ts';
import type { NativeBinding } from '../native/binding.ts';
import type { AttachmentRecord } from './record.ts';
import { parseRecord } from './record-schema.ts';

export interface CorruptRecord {
  /** As far as the file's name tells. */
  readonly id: string;
  /** Where it lies now. */
  readonly path: string;
  readonly reason: string;
}

export interface LoadedRecords {
  readonly records: readonly AttachmentRecord[];
  readonly corrupt: readonly CorruptRecord[];
}

interface ReadFault {
  /** false: the disk did not give it. */
  readonly isNoRecord: boolean;
  readonly reason: string;
}

/** A record holds a netconf of at most 4 MiB, escaped. */
const largestRecordBytes = 32 << 20;

/** The part that needs no addon. */
export const nodeFiles = { mkdir, readdir, readFile, rename, rm, stat };

/**
 * What the store asks of the file system; tests let it fail. What must be durable is the addon's: with `node:fs` a write
 * is eight steps of the thread pool instead of two, each of which wakes two threads, beside a plugin that wants the core.
 */
export type StoreFiles = typeof nodeFiles & Pick<NativeBinding, 'replaceFile' | 'syncDirectory'>;

export function diskFiles(binding: NativeBinding): StoreFiles {
  return {
    ...nodeFiles,
    replaceFile: (temporary, path, contents) => binding.replaceFile(temporary, path, contents),
    syncDirectory: (path) => binding.syncDirectory(path),
  };
}

export class RecordStore {
  readonly #directory: string;
  readonly #files: StoreFiles;
  readonly #records = new Map<string, AttachmentRecord>();
  readonly #setAside = new Set<string>();
  /** The directory's fsync that has not begun yet; whoever comes before it begins shares it. */
  #nextSync: Promise<void> | null = null;
  #lastSync: Promise<void> = Promise.resolve();
  #temporaries = 0;

  constructor(stateDir: string, files: StoreFiles) {
    this.#directory = join(stateDir, 'attachments');
    this.#files = files;
  }

  /** Reads everything once, at start. @throws STATE_WRITE when the directory cannot be used */
  async load(): Promise<LoadedRecords> {
    const corrupt: CorruptRecord[] = [];
    try {
      await this.#files.mkdir(this.#directory, { recursive: true, mode: 0o700 });
      for (const name of (await this.#files.readdir(this.#directory)).sort()) {
        const path = join(this.#directory, name);
        if (name.endsWith('.tmp')) await this.#files.rm(path, { force: true });
        else if (name.endsWith('.bad')) this.#setAside.add(name.split('.')[0] ?? '');
        else if (name.endsWith('.json')) {
          const fault = await this.#read(name, path);
          if (fault === null) continue;
          const id = name.slice(0, -'.json'.length);
          if (fault.isNoRecord) await this.#files.rename(path, `${path}.bad`);
          this.#setAside.add(id);
          corrupt.push({ id, path: fault.isNoRecord ? `${path}.bad` : path, reason: fault.reason });
        }
      }
    } catch (error) {
      throw this.#failed('read', error);
    }
    return { records: this.list(), corrupt };
  }

  get(id: string): AttachmentRecord | null {
    return this.#records.get(id) ?? null;
  }

  list(): readonly AttachmentRecord[] {
    return [...this.#records.values()];
  }

  /** Whether a record of this id lies aside, or was not read: what it names may still be in use. */
  isSetAside(id: string): boolean {
    return this.#setAside.has(id);
  }

  get setAside(): number {
    return this.#setAside.size;
  }

  /** @throws STATE_WRITE; then `get` tells which record is on disk, and a power failure may still leave the other one */
  async write(record: AttachmentRecord): Promise<void> {
    const path = join(this.#directory, `${record.id}.json`);
    this.#temporaries += 1;
    const temporary = `${path}.${this.#temporaries}.tmp`;
    try {
      await this.#files.replaceFile(temporary, path, JSON.stringify(record));
      // Before the sync: if that fails, the next agent reads this record, and so must whoever cleans up now.
      this.#records.set(record.id, record);
      await this.#syncDirectory();
    } catch (error) {
      throw this.#failed('write', error);
    }
  }

  /** The record as it should be on disk, where it cannot be written: for this process it is so. */
  assume(record: AttachmentRecord): void {
    this.#records.set(record.id, record);
  }

  /** Idempotent. @throws STATE_WRITE; then the record stays known, so that its removal is tried again */
  async remove(id: string): Promise<void> {
    try {
      await this.#files.rm(join(this.#directory, `${id}.json`), { force: true });
      await this.#syncDirectory();
    } catch (error) {
      throw this.#failed('remove', error);
    }
    this.#records.delete(id);
  }

  /** @returns why there is no record, or null */
  async #read(name: string, path: string): Promise<ReadFault | null> {
    const noRecord = (reason: string): ReadFault => ({ isNoRecord: true, reason });
    let text: string;
    try {
      const { size } = await this.#files.stat(path);
      if (size > largestRecordBytes) return noRecord(`${size} bytes are no record`);
      text = await this.#files.readFile(path, 'utf8');
    } catch (error) {
      return { isNoRecord: false, reason: `cannot be read: ${messageOf(error)}` };
    }
    const parsed = parseRecord(text);
    if ('reason' in parsed) return noRecord(parsed.reason);
    if (`${parsed.record.id}.json` !== name) {
      return noRecord(`the file is named ${name}, its record ${parsed.record.id}`);
    }
    this.#records.set(parsed.record.id, parsed.record);
    return null;
  }

  #syncDirectory(): Promise<void> {
    if (this.#nextSync !== null) return this.#nextSync;
    const sync = this.#lastSync
      .catch(() => undefined)
      .then(() => {
        this.#nextSync = null;
        return this.#files.syncDirectory(this.#directory);
      });
    this.#nextSync = sync;
    this.#lastSync = sync;
    return sync;
  }

  #failed(what: string, error: unknown): VirtioUserError {
    const errno = errnoOf(error) ?? messageOf(error);
    const full = errno === 'ENOSPC' || errno === 'EDQUOT';
    return new VirtioUserError('STATE_WRITE', `${what} records in ${this.#directory}: ${errno}`, {
      details: { errno },
      remedy: full
        ? `Free space on the file system of ${this.#directory}.`
        : `Make ${this.#directory} writable for the agent.`,
      cause: error,
    });
  }
}
