/**
 * Tells when a watched namespace file is deleted. Open TAP descriptors keep a namespace alive by themselves, so that
 * somebody must let go of them when the runtime has removed its name.
 */
import { existsSync, type FSWatcher, watch } from 'node:fs';
import { basename, dirname } from 'node:path';

export class NetnsWatch {
  readonly #onGone: (path: string) => void;
  /** Directory → name → who watches it: the interfaces of one pod share a namespace. */
  readonly #paths = new Map<string, Map<string, Set<string>>>();
  readonly #watchers = new Map<string, FSWatcher>();

  constructor(onGone: (path: string) => void) {
    this.#onGone = onGone;
  }

  /** Until the same id lets go of it; once more is the same as once. */
  add(path: string, id: string): void {
    const directory = dirname(path);
    const names = this.#paths.get(directory) ?? new Map<string, Set<string>>();
    this.#paths.set(directory, names);
    const ids = names.get(basename(path)) ?? new Set<string>();
    names.set(basename(path), ids.add(id));
    if (!this.#watchers.has(directory)) this.#watch(directory);
    // What went before is told of by nobody. Without its directory a path proves nothing: it may lie out of our sight.
    if (existsSync(path) || !existsSync(directory)) return;
    queueMicrotask(() => {
      if (this.#paths.get(directory)?.get(basename(path))?.has(id) === true) this.#onGone(path);
    });
  }

  remove(path: string, id: string): void {
    const directory = dirname(path);
    const names = this.#paths.get(directory);
    const ids = names?.get(basename(path));
    ids?.delete(id);
    if (ids?.size === 0) names?.delete(basename(path));
    // The directory stays watched until another one is: a runtime keeps its namespaces in one, and the next pod is soon.
  }

  close(): void {
    for (const directory of [...this.#watchers.keys()]) this.#unwatch(directory);
  }

  #watch(directory: string): void {
    for (const [watched, { size }] of [...this.#paths]) if (size === 0) this.#unwatch(watched);
    try {
      const watcher = watch(directory, { persistent: false }, (_event, name) => {
        const watched = this.#paths.get(directory);
        for (const candidate of name === null ? [...(watched?.keys() ?? [])] : [name]) {
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

  #unwatch(directory: string): void {
    this.#watchers.get(directory)?.close();
    this.#watchers.delete(directory);
    if (this.#paths.get(directory)?.size === 0) this.#paths.delete(directory);
  }
}
