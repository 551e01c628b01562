/**
 * DELs that the executable left on disk while no agent answered: `{seconds}.{nanoseconds}-{pid}.req`, each holding one
 * request frame. Worked off at start and again later: what failed, and what has come since.
 *
 * The lock keeps writers out only while the directory is read. A writer tries the agent once more under it, so whoever
 * reads the queue after the socket has opened finds every DEL that did not find the socket. The work itself is done under
 * the attachments' own locks.
 *
 * An entry is removed only after its work is done. What cannot be decoded is set aside as `….bad`, once.
 */
import { readdir, readFile, rename, rm, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { attachmentId } from '../attachment/key.ts';
import type { RemoveRequest } from '../attachment/api.ts';
import { limited } from '../attachment/limited.ts';
import type { QueuedDelete } from '../cni/queued-delete.ts';
import { errnoOf, isExhaustion, messageOf } from '../errors.ts';
import type { NativeFd } from '../native/binding.ts';
import { syncDirectory } from '../sync-directory.ts';
import type { Logger } from '../telemetry/log.ts';

/** Header, environment and stdin at their limits (docs/architecture.md). */
const maximumEntryBytes = 48 + 65_536 + (4 << 20);

/** No writer takes that long: what has no name of its own by then is the remains of one that died. */
const abandonedAfterMs = 60_000;

/** IPAM plugins run for each entry: bounded, but not one by one. */
const concurrency = 4;

export interface DeleteQueueParts {
  readonly directory: string;
  /** Takes the lock file exclusively, or null when a writer holds it. */
  readonly tryLock: (path: string) => NativeFd | null;
  readonly decode: (name: string, content: Buffer) => QueuedDelete;
  readonly remove: (request: RemoveRequest, signal: AbortSignal) => Promise<void>;
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

  /** Entries that wait, of those seen so far. */
  get length(): number {
    return this.#length;
  }

  /** null: a writer is at work, come back. Writers hold the lock for one try of the agent and one fsync. */
  tryLock(): NativeFd | null {
    return this.#parts.tryLock(join(this.#parts.directory, 'lock'));
  }

  /** The entries there are, the oldest first; the caller holds the lock. */
  async list(): Promise<readonly string[]> {
    const { directory } = this.#parts;
    const names = await readdir(directory);
    for (const name of names.filter((candidate) => candidate.endsWith('.tmp'))) {
      const path = join(directory, name);
      const about = await stat(path).catch(() => null); // of a writer without the lock, and finished by now
      if (about !== null && Date.now() - about.mtimeMs > abandonedAfterMs) await rm(path, { force: true });
    }
    const waiting = names.filter((name) => name.endsWith('.req')).sort();
    this.#length = waiting.length;
    return waiting;
  }

  /** Works off these entries once, without the lock; an abort begins no other. @returns how many remain */
  async workOff(names: readonly string[], signal: AbortSignal): Promise<number> {
    const { directory, log } = this.#parts;
    const byAttachment = new Map<string, Entry[]>();
    for (const name of names) {
      const request = await this.#read(name);
      if (request === 'unread') continue;
      if (request === null) {
        this.#length -= 1;
        continue;
      }
      const id = attachmentId(request.key);
      byAttachment.set(id, [...(byAttachment.get(id) ?? []), { name, request }]);
    }
    await limited([...byAttachment], concurrency, async ([id, entries]) => {
      if (!signal.aborted) await this.#removeOne(id, entries, signal);
    });
    if (names.length > 0) {
      await syncDirectory(directory);
      log.info({ entries: names.length, remaining: this.#length }, 'queued deletes worked off');
    }
    return this.#length;
  }

  /** Repeats of one DEL (the runtime calls it several times) are one removal: the latest, which says the most. */
  async #removeOne(id: string, entries: readonly Entry[], signal: AbortSignal): Promise<void> {
    const { directory, remove, onEntry, log } = this.#parts;
    const latest = entries.at(-1);
    if (latest === undefined) return;
    try {
      await remove(latest.request, signal);
    } catch (error) {
      onEntry('failed');
      log.warn(
        { error, id, containerId: latest.request.key.containerId },
        'queued delete failed; kept for another try',
      );
      return;
    }
    for (const { name } of entries) {
      await rm(join(directory, name), { force: true });
      this.#length -= 1;
      onEntry('done');
    }
  }

  /** @returns null: it is gone, or was set aside; `unread`: the disk does not give it now */
  async #read(name: string): Promise<RemoveRequest | 'unread' | null> {
    const { directory, decode, onEntry, log } = this.#parts;
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
      const errno = errnoOf(error);
      if (errno === 'ENOENT') return null;
      if (errno !== 'EIO' && !isExhaustion(errno)) return this.#setAside(path, messageOf(error));
      onEntry('failed');
      log.warn({ error, path }, 'a queued delete cannot be read now; kept for another try');
      return 'unread';
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
