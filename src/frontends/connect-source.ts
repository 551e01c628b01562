/**
 * Client mode: the switch listens and we connect, again after each of its restarts.
 *
 * Retries back off. The socket's directory is watched, so that a socket that appears is tried at once. What time alone
 * does not mend (no permission, not a socket, a symbolic link) is retried every 30 s, or when the file changes.
 */
import { watch } from 'node:fs';
import { basename, dirname } from 'node:path';
import { errnoOf, messageOf, VirtioUserError } from '../errors.ts';
import type { FrontendSource, OnConnection } from '../device/frontend.ts';
import { Backoff, settledMs } from './backoff.ts';
import { checkPathLength, type Connections, type VhostUserSourceOptions, type WatchDirectory } from './connections.ts';
import type { VhostUserFrontend } from './vhost-user.ts';

const permanentMs = 30_000;
/** bind() makes the file, listen() comes a moment later. */
const appearedMs = 5;

/** Errors that go away when the switch (re)starts or the node has room again. */
const transient: ReadonlySet<string> = new Set([
  'ENOENT',
  'ECONNREFUSED',
  'ECONNRESET',
  'EAGAIN',
  'EINTR',
  'EMFILE',
  'ENFILE',
  'ENOMEM',
  'ENOBUFS',
]);

export class ConnectSource implements FrontendSource {
  readonly #options: VhostUserSourceOptions;
  readonly #connections: Connections;
  readonly #backoff: Backoff;
  readonly #watchDirectory: WatchDirectory;
  #onConnection: OnConnection | null = null;
  #closed = false;
  #current: VhostUserFrontend | null = null;
  #cancelRetry: (() => void) | null = null;
  #stopWatching: (() => void) | null = null;
  /** The socket file changed since the last attempt. */
  #appeared = false;
  #failure: string | null = null;
  #situation: string;

  constructor(options: VhostUserSourceOptions, connections: Connections) {
    this.#options = options;
    this.#connections = connections;
    this.#backoff = new Backoff(options.random);
    this.#watchDirectory = options.watchDirectory ?? watchWithInotify;
    this.#situation = `connect ${connections.fullPath}: not tried yet`;
  }

  get situation(): string {
    return this.#situation;
  }

  open(onConnection: OnConnection): void {
    if (this.#onConnection !== null) throw new VirtioUserError('BUG', `${this.#connections.fullPath} opened twice`);
    checkPathLength(this.#connections.fullPath);
    this.#onConnection = onConnection;
    // Not on the caller's stack: a source in either mode offers its first connection later.
    this.#cancelRetry = this.#connections.timers.after(0, () => this.#attempt());
  }

  /** The file is the switch's. */
  clear(): void {}

  close(): void {
    this.#closed = true;
    this.#cancelRetry?.();
    this.#cancelRetry = null;
    this.#stopWatching?.();
    this.#stopWatching = null;
    this.#situation = `connect ${this.#connections.fullPath}: given up, the attachment is closed`;
  }

  #attempt(): void {
    this.#cancelRetry = null;
    // Watch first: a socket that appears between the attempt and the watch would be missed.
    this.#watch();
    this.#appeared = false;
    let frontend: VhostUserFrontend;
    try {
      const { binding, path } = this.#options;
      frontend = this.#connections.open((handlers) => binding.connectUnix(path, handlers));
    } catch (thrown) {
      this.#failed(thrown);
      return;
    }
    this.#failure = null;
    this.#situation = `connected to ${this.#connections.fullPath}`;
    this.#offer(frontend);
  }

  #offer(frontend: VhostUserFrontend): void {
    const since = this.#connections.timers.now();
    this.#current = frontend;
    this.#onConnection?.(frontend, () => {
      if (this.#current !== frontend) return;
      this.#current = null;
      if (this.#closed) return;
      if (this.#connections.timers.now() - since >= settledMs) this.#backoff.reset();
      this.#situation = `connect ${this.#connections.fullPath}: connection ended, retrying`;
      this.#retryIn(this.#appeared ? appearedMs : this.#backoff.nextMs());
    });
  }

  #failed(thrown: unknown): void {
    const path = this.#connections.fullPath;
    const errno = errnoOf(thrown);
    const passes = errno !== null && transient.has(errno);
    const delay = passes ? this.#backoff.nextMs() : this.#backoff.jittered(permanentMs);
    this.#situation = passes
      ? `connect ${path}: ${errno}, waiting for the backend`
      : `connect ${path}: ${errno ?? messageOf(thrown)}, does not mend by itself, next attempt within ${Math.ceil(delay / 1000)} s`;
    // One line per new reason, not per attempt.
    const failure = errno ?? messageOf(thrown);
    if (failure !== this.#failure) {
      const level = passes ? 'info' : 'warn';
      this.#options.logger[level]({ path, errno, error: thrown }, 'backend not reachable');
    }
    this.#failure = failure;
    this.#retryIn(delay);
  }

  #retryIn(delay: number): void {
    this.#cancelRetry?.();
    this.#cancelRetry = this.#connections.timers.after(delay, () => this.#attempt());
  }

  #watch(): void {
    // A watch follows its directory's inode: where the path led to nothing, the directory may be a new one.
    if (this.#failure === 'ENOENT') this.#stopWatching?.();
    else if (this.#stopWatching !== null) return;
    this.#stopWatching = null;
    const path = this.#connections.fullPath;
    try {
      this.#stopWatching = this.#watchDirectory(dirname(path), (name) => {
        if (name === null || name === basename(path)) this.#changed();
      });
    } catch {
      // No such directory yet, or no watches left: the back-off finds the socket, within a second.
    }
  }

  #changed(): void {
    // A burst of changes is one attempt, and a stream of them does not put it off.
    if (this.#closed || this.#appeared) return;
    this.#appeared = true;
    if (this.#current !== null) return;
    this.#backoff.reset();
    this.#retryIn(appearedMs);
  }
}

const watchWithInotify: WatchDirectory = (directory, onChange) => {
  const watcher = watch(directory, { persistent: false }, (_event, name) => onChange(name));
  watcher.on('error', () => watcher.close());
  return () => watcher.close();
};
