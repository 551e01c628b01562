/**
 * DELs that the executable left on disk while no agent answered: `{seconds}.{nanoseconds}-{pid}.req`, each holding one
 * request frame. Worked off under the exclusive lock at start (before the socket opens, so that none slips between),
 * and again later for those that failed.
 *
 * An entry is removed only after its work is done. What cannot be decoded is set aside as `….bad`, once.
 */
import { readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { attachmentId } from '../attachment/key.ts';
import type { RemoveRequest } from '../attachment/api.ts';
import { limited } from '../attachment/limited.ts';
import type { QueuedDelete } from '../cni/queued-delete.ts';
import { errnoOf, messageOf } from '../errors.ts';
import type { NativeFd } from '../native/binding.ts';
import { syncDirectory } from '../sync-directory.ts';
import type { Logger } from '../telemetry/log.ts';

/** Header, environment and stdin at their limits (docs/architecture.md). */
const maximumEntryBytes = 48 + 65_536 + (4 << 20);

/** IPAM plugins run for each entry: bounded, but not one by one. */
const concurrency = 4;

export interface DeleteQueueParts {
  readonly directory: string;
  /** Takes the lock file exclusively, or null when a writer holds it. */
  readonly tryLock: (path: string) => NativeFd | null;
  readonly decode: (name: string, content: Buffer) => QueuedDelete;
  readonly remove: (request: RemoveRequest) => Promise<void>;
  readonly onEntry: (result: 'done' | 'failed' | 'corrupt') => void;
  readonly log: Logger;
}

interface Entry {
  readonly name: string;
  readonly request: RemoveRequest;
}

export class DeleteQueue {
  readonly #parts: DeleteQueueParts;
  #length = 0;

  constructor(parts: DeleteQueueParts) {
    this.#parts = parts;
  }

  /** Entries that wait, as of the last look. */
  get length(): number {
    return this.#length;
  }

  /** null: a writer is at work, come back. Writers hold the lock for as long as one fsync takes. */
  tryLock(): NativeFd | null {
    return this.#parts.tryLock(join(this.#parts.directory, 'lock'));
  }

  /** Works off every entry once; the caller holds the lock. @returns how many remain */
  async drain(): Promise<number> {
    const { directory, log } = this.#parts;
    const names = await readdir(directory);
    // Under the exclusive lock nobody writes: what has not got its name yet is the remains of a writer that died.
    for (const name of names.filter((candidate) => candidate.endsWith('.tmp')))
      await rm(join(directory, name), { force: true });
    const waiting = names.filter((name) => name.endsWith('.req')).sort();
    const byAttachment = new Map<string, Entry[]>();
    for (const name of waiting) {
      const request = await this.#read(name);
      if (request === null) continue;
      const id = attachmentId(request.key);
      byAttachment.set(id, [...(byAttachment.get(id) ?? []), { name, request }]);
    }
    let remaining = 0;
    await limited([...byAttachment], concurrency, async ([id, entries]) => {
      if (!(await this.#workOff(id, entries))) remaining += entries.length;
    });
    if (waiting.length > 0) {
      await syncDirectory(directory);
      log.info({ entries: waiting.length, remaining }, 'queued deletes worked off');
    }
    this.#length = remaining;
    return remaining;
  }

  /** Repeats of one DEL (the runtime calls it several times) are one removal: the latest, which says the most. */
  async #workOff(id: string, entries: readonly Entry[]): Promise<boolean> {
    const { directory, remove, onEntry, log } = this.#parts;
    const latest = entries.at(-1);
    if (latest === undefined) return true;
    try {
      await remove(latest.request);
    } catch (error) {
      onEntry('failed');
      log.warn(
        { error, id, containerId: latest.request.key.containerId },
        'queued delete failed; kept for another try',
      );
      return false;
    }
    for (const { name } of entries) {
      await rm(join(directory, name), { force: true });
      onEntry('done');
    }
    return true;
  }

  async #read(name: string): Promise<RemoveRequest | null> {
    const { directory, decode } = this.#parts;
    const path = join(directory, name);
    try {
      const { size } = await stat(path);
      const decoded: QueuedDelete =
        size > maximumEntryBytes
          ? { kind: 'corrupt', reason: `${size} bytes are more than any request has` }
          : decode(name, await readFile(path));
      if (decoded.kind === 'delete') return decoded.request;
      return await this.#setAside(path, decoded.reason);
    } catch (error) {
      return errnoOf(error) === 'ENOENT' ? null : this.#setAside(path, messageOf(error));
    }
  }

  async #setAside(path: string, reason: string): Promise<null> {
    const { onEntry, log } = this.#parts;
    await rename(path, `${path}.bad`).catch((error: unknown) => log.error({ error, path }, 'cannot set aside'));
    onEntry('corrupt');
    log.error({ path: `${path}.bad`, reason }, 'a queued delete cannot be read and was set aside');
    return null;
  }
}
