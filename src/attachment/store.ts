/**
 * Records on disk, one JSON file per attachment. A write is temp file, fsync, rename, fsync of the directory: after it
 * returned, the record survives a power failure. A file that cannot be read as a record is moved aside to `*.bad`.
 */
import { mkdir, open, readdir, readFile, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { errnoOf, messageOf, VirtioUserError } from '../errors.ts';
import type { AttachmentRecord } from './record.ts';
import { parseRecord } from './record-schema.ts';

export interface CorruptRecord {
  /** Where it lies now. */
  readonly path: string;
  readonly reason: string;
}

export interface LoadedRecords {
  readonly records: readonly AttachmentRecord[];
  readonly corrupt: readonly CorruptRecord[];
}

export class RecordStore {
  readonly #directory: string;
  readonly #records = new Map<string, AttachmentRecord>();

  constructor(stateDir: string) {
    this.#directory = join(stateDir, 'attachments');
  }

  /** Reads everything once, at start. @throws STATE_WRITE when the directory cannot be used */
  async load(): Promise<LoadedRecords> {
    const corrupt: CorruptRecord[] = [];
    try {
      await mkdir(this.#directory, { recursive: true, mode: 0o700 });
      for (const name of await readdir(this.#directory)) {
        const path = join(this.#directory, name);
        if (name.endsWith('.tmp')) await rm(path, { force: true });
        if (!name.endsWith('.json')) continue;
        const parsed = parseRecord(await readFile(path, 'utf8'));
        if ('record' in parsed && `${parsed.record.id}.json` === name) {
          this.#records.set(parsed.record.id, parsed.record);
          continue;
        }
        const reason = 'reason' in parsed ? parsed.reason : `the file is named ${name}, its record ${parsed.record.id}`;
        await rename(path, `${path}.bad`);
        corrupt.push({ path: `${path}.bad`, reason });
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

  /** @throws STATE_WRITE; the old record, if any, is still the one on disk */
  async write(record: AttachmentRecord): Promise<void> {
    const path = join(this.#directory, `${record.id}.json`);
    const temporary = `${path}.tmp`;
    try {
      const file = await open(temporary, 'w', 0o600);
      try {
        await file.writeFile(JSON.stringify(record));
        await file.datasync();
      } finally {
        await file.close();
      }
      await rename(temporary, path);
      await this.#syncDirectory();
    } catch (error) {
      await rm(temporary, { force: true }).catch(() => undefined);
      throw this.#failed('write', error);
    }
    this.#records.set(record.id, record);
  }

  /** Idempotent. @throws STATE_WRITE */
  async remove(id: string): Promise<void> {
    try {
      await rm(join(this.#directory, `${id}.json`), { force: true });
      await this.#syncDirectory();
    } catch (error) {
      throw this.#failed('remove', error);
    }
    this.#records.delete(id);
  }

  async #syncDirectory(): Promise<void> {
    const directory = await open(this.#directory, 'r');
    try {
      await directory.sync();
    } finally {
      await directory.close();
    }
  }

  #failed(what: string, error: unknown): VirtioUserError {
    const errno = errnoOf(error) ?? messageOf(error);
    return new VirtioUserError('STATE_WRITE', `${what} records in ${this.#directory}: ${errno}`, {
      details: { errno },
      remedy:
        errno === 'ENOSPC'
          ? `free space on the file system of ${this.#directory}`
          : `make ${this.#directory} writable for the agent`,
      cause: error,
    });
  }
}
