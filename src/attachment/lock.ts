/**
 * Locks by key, first come, first served: exclusive, or shared by those who only must not meet an exclusive holder.
 *
 * Who needs both a network's lock and a container's takes the network's first. ADD and DEL share the network's lock; GC
 * has it alone, since an IPAM plugin's GC would release the lease of an ADD that is under way.
 */
import { VirtioUserError } from '../errors.ts';

interface Waiter {
  readonly shared: boolean;
  readonly grant: () => void;
}

interface Entry {
  /** Shared holders, or -1 for an exclusive one. */
  holders: number;
  readonly queue: Waiter[];
}

export class KeyedLock {
  readonly #entries = new Map<string, Entry>();

  /**
   * Runs `work` alone under this key. An abort while waiting gives up the place in the queue; once begun, `work` is
   * what decides.
   * @throws VirtioUserError CANCELLED, and what `work` threw
   */
  exclusive<T>(key: string, signal: AbortSignal | null, work: () => Promise<T>): Promise<T> {
    return this.#run(key, false, signal, work);
  }

  /** Runs `work` beside other shared holders of this key. */
  shared<T>(key: string, signal: AbortSignal | null, work: () => Promise<T>): Promise<T> {
    return this.#run(key, true, signal, work);
  }

  async #run<T>(key: string, shared: boolean, signal: AbortSignal | null, work: () => Promise<T>): Promise<T> {
    await this.#acquire(key, shared, signal);
    try {
      return await work();
    } finally {
      this.#release(key);
    }
  }

  #acquire(key: string, shared: boolean, signal: AbortSignal | null): Promise<void> {
    if (signal?.aborted === true) return Promise.reject(cancelled(key));
    const entry = this.#entries.get(key) ?? { holders: 0, queue: [] };
    this.#entries.set(key, entry);
    if (entry.queue.length === 0 && mayEnter(entry, shared)) {
      enter(entry, shared);
      return Promise.resolve();
    }
    return new Promise((resolve, reject) => {
      const onAbort = (): void => {
        entry.queue.splice(entry.queue.indexOf(waiter), 1);
        this.#admit(key, entry);
        reject(cancelled(key));
      };
      const waiter: Waiter = {
        shared,
        grant: () => {
          signal?.removeEventListener('abort', onAbort);
          resolve();
        },
      };
      signal?.addEventListener('abort', onAbort, { once: true });
      entry.queue.push(waiter);
    });
  }

  #release(key: string): void {
    const entry = this.#entries.get(key);
    if (entry === undefined) return;
    entry.holders = entry.holders < 0 ? 0 : entry.holders - 1;
    this.#admit(key, entry);
  }

  #admit(key: string, entry: Entry): void {
    for (let next = entry.queue[0]; next !== undefined && mayEnter(entry, next.shared); next = entry.queue[0]) {
      entry.queue.shift();
      enter(entry, next.shared);
      next.grant();
    }
    if (entry.holders === 0 && entry.queue.length === 0) this.#entries.delete(key);
  }
}

function mayEnter(entry: Entry, shared: boolean): boolean {
  return shared ? entry.holders >= 0 : entry.holders === 0;
}

function enter(entry: Entry, shared: boolean): void {
  entry.holders = shared ? entry.holders + 1 : -1;
}

function cancelled(key: string): VirtioUserError {
  return new VirtioUserError('CANCELLED', `cancelled while waiting for the lock of ${key}`);
}
