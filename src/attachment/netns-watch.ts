/**
 * Tells when a watched namespace file is deleted. Open TAP descriptors keep a namespace alive by themselves, so that
 * somebody must let go of them when the runtime has removed its name.
 */
import { existsSync, type FSWatcher, watch } from 'node:fs';
import { basename, dirname } from 'node:path';

export class NetnsWatch {
  readonly #onGone: (path: string) => void;
  readonly #paths = new Map<string, Set<string>>();
  readonly #watchers = new Map<string, FSWatcher>();

  constructor(onGone: (path: string) => void) {
    this.#onGone = onGone;
  }

  add(path: string): void {
    const directory = dirname(path);
    const names = this.#paths.get(directory) ?? new Set<string>();
    this.#paths.set(directory, names);
    names.add(basename(path));
    if (this.#watchers.has(directory)) return;
    try {
      const watcher = watch(directory, { persistent: false }, (_event, name) => {
        const watched = this.#paths.get(directory);
        for (const candidate of name === null ? [...(watched ?? [])] : [name]) {
          const full = `${directory}/${candidate}`;
          if (watched?.has(candidate) === true && !existsSync(full)) this.#onGone(full);
        }
      });
      watcher.on('error', () => this.#unwatch(directory));
      this.#watchers.set(directory, watcher);
    } catch {
      // no such directory, or no inotify watches left: reconciliation looks at every path anyway
    }
  }

  remove(path: string): void {
    const directory = dirname(path);
    const names = this.#paths.get(directory);
    names?.delete(basename(path));
    if (names?.size === 0) this.#unwatch(directory);
  }

  close(): void {
    for (const directory of [...this.#watchers.keys()]) this.#unwatch(directory);
  }

  #unwatch(directory: string): void {
    this.#watchers.get(directory)?.close();
    this.#watchers.delete(directory);
    if (this.#paths.get(directory)?.size === 0) this.#paths.delete(directory);
  }
}
