/**
 * Server mode: we listen and the switch connects, again after each of its restarts.
 *
 * One connection is served at a time. A second one is held without an answer: when the first has ended it takes its
 * place (DPDK ≥ 25.03 reconnects before it has closed the old socket); when the first lives on for two seconds it is
 * refused, as a second switch on the same path. After a connection that ended before it had settled the next one is held
 * for the back-off too: a switch that connects and leaves in a loop costs a handshake a second, not a core.
 *
 * A socket whose file is gone is open to nobody, and nothing says so. While there is no connection we look, and listen
 * again; somebody who answers at that name keeps it.
 */
import { lstatSync } from 'node:fs';
import { errnoOf, isExhaustion, messageOf, VirtioUserError } from '../errors.ts';
import type { FrontendSource, OnConnection } from '../device/frontend.ts';
import type { IncomingSocket, Listener, NativeFault } from '../native/binding.ts';
import { Backoff, settledMs } from './backoff.ts';
import { checkPathLength, type Connections, type VhostUserSourceOptions } from './connections.ts';
import type { VhostUserFrontend } from './vhost-user.ts';

export const holdMs = 2000;
/** Between two looks at the file. A watch would tell every attachment of every change in the directory they share. */
export const lookMs = 5000;
const longestLookMs = 60_000;

export class ListenSource implements FrontendSource {
  readonly #options: VhostUserSourceOptions;
  readonly #connections: Connections;
  readonly #backoff: Backoff;
  #listener: Listener | null = null;
  #onConnection: OnConnection | null = null;
  /** Offered and not released yet. */
  #current: VhostUserFrontend | null = null;
  #held: { readonly frontend: VhostUserFrontend; readonly cancelTimer: () => void } | null = null;
  /** Set during the back-off. */
  #cancelPause: (() => void) | null = null;
  #fault: NativeFault | null = null;
  /** Of the listener; null: it cannot be looked at. */
  #file: string | null = null;
  #cancelLook: (() => void) | null = null;
  /** Why it could not listen again, and how often in a row. */
  #unreachable: { readonly error: VirtioUserError; readonly tries: number } | null = null;

  constructor(options: VhostUserSourceOptions, connections: Connections) {
    this.#options = options;
    this.#connections = connections;
    this.#backoff = new Backoff(options.random);
  }

  get situation(): string {
    const path = this.#connections.fullPath;
    if (this.#listener === null) return `not listening on ${path}`;
    if (this.#current !== null) {
      return `backend ${this.#current.backendPid === null ? '' : `(pid ${this.#current.backendPid}) `}connected to ${path}`;
    }
    if (this.#cancelPause !== null) {
      return `listening on ${path}: the last connection ended soon, the next is served in about a second at most`;
    }
    if (this.#unreachable !== null) {
      return `nobody can connect to ${path}, its file is gone: ${this.#unreachable.error.message}`;
    }
    return `listening on ${path}${this.#fault === null ? '' : `: ${this.#fault.message}`}`;
  }

  open(onConnection: OnConnection): void {
    if (this.#onConnection !== null) throw new VirtioUserError('BUG', `${this.#connections.fullPath} opened twice`);
    checkPathLength(this.#connections.fullPath);
    this.#listener = this.#listen();
    this.#onConnection = onConnection;
    this.#file = this.#fileNow() ?? null;
    this.#lookIn(lookMs);
  }

  close(): void {
    this.#listener?.close();
    this.#listener = null;
    this.#cancelPause?.();
    this.#cancelPause = null;
    this.#stopLooking();
    this.#dropHeld();
  }

  /** Listening clears the name; with nothing there no switch shall find us for that moment. */
  clear(): void {
    if (this.#fileNow() !== null) this.#listen().close();
  }

  #listen(): Listener {
    const { binding, path, mode, groupId } = this.#options;
    try {
      return binding.listenUnix(
        { path, mode, groupId, backlog: 4 },
        { onConnection: (incoming) => this.#accept(incoming), onFault: (fault) => this.#faulted(fault) },
      );
    } catch (thrown) {
      throw listenFailure(this.#connections.fullPath, thrown);
    }
  }

  #lookIn(delay: number): void {
    this.#stopLooking();
    if (this.#file === null) return;
    this.#cancelLook = this.#connections.timers.after(this.#backoff.jittered(delay), () => this.#look());
  }

  #stopLooking(): void {
    this.#cancelLook?.();
    this.#cancelLook = null;
  }

  #look(): void {
    const file = this.#fileNow();
    if (file === this.#file) this.#unreachable = null;
    else if (file !== undefined) this.#listenAgain();
    this.#lookIn(Math.min(lookMs * 2 ** (this.#unreachable?.tries ?? 0), longestLookMs));
  }

  /** undefined: not to be known now. */
  #fileNow(): string | null | undefined {
    try {
      return (this.#options.fileAt ?? fileAt)(this.#connections.fullPath);
    } catch {
      return undefined;
    }
  }

  #listenAgain(): void {
    const path = this.#connections.fullPath;
    const old = this.#listener;
    try {
      this.#listener = this.#listen();
      // Leaves the name alone: the file there is not its own.
      old?.close();
      this.#file = this.#fileNow() ?? this.#file;
      this.#unreachable = null;
      this.#options.logger.warn({ path }, 'the file of the socket was gone; listening again');
    } catch (thrown) {
      const error = VirtioUserError.from(thrown, `listen on ${path}`, 'SYSCALL_FAILED');
      const before = this.#unreachable;
      // One line per reason, not per try.
      if (before?.error.message !== error.message) {
        this.#options.logger.warn({ path, error }, 'the file of the socket is gone, and listening again failed');
      }
      this.#unreachable = { error, tries: Math.min((before?.tries ?? 0) + 1, 10) };
    }
  }

  #accept(incoming: IncomingSocket): void {
    if (this.#listener === null || this.#held !== null) {
      incoming.refuse();
      return;
    }
    let frontend: VhostUserFrontend;
    try {
      frontend = this.#connections.open((handlers) => incoming.accept(handlers));
    } catch (thrown) {
      // The peer left in between, or we are out of descriptors: it comes again.
      this.#options.logger.warn({ path: this.#connections.fullPath, error: thrown }, 'accept failed');
      return;
    }
    this.#fault = null;
    if (this.#current === null && this.#cancelPause === null) this.#offer(frontend);
    else this.#hold(frontend);
  }

  #offer(frontend: VhostUserFrontend): void {
    const since = this.#connections.timers.now();
    this.#current = frontend;
    this.#stopLooking();
    this.#onConnection?.(frontend, () => {
      if (this.#current !== frontend) return;
      this.#current = null;
      if (this.#listener === null) return;
      this.#lookIn(0);
      if (this.#connections.timers.now() - since >= settledMs) {
        this.#backoff.reset();
        this.#promoteHeld();
        return;
      }
      this.#cancelPause = this.#connections.timers.after(this.#backoff.nextMs(), () => {
        this.#cancelPause = null;
        this.#promoteHeld();
      });
    });
  }

  #promoteHeld(): void {
    const held = this.#held;
    if (held === null) return;
    this.#held = null;
    held.cancelTimer();
    held.frontend.onDisconnect = null;
    this.#offer(held.frontend);
  }

  #hold(frontend: VhostUserFrontend): void {
    frontend.onDisconnect = () => this.#dropHeld();
    const cancelTimer = this.#connections.timers.after(holdMs, () => {
      // The first has ended and its user is still cleaning up, or the back-off runs: the second one's turn is to come.
      if (this.#current?.isOpen !== true) return;
      this.#options.logger.warn(
        { path: this.#connections.fullPath, pid: frontend.backendPid },
        'second backend on one socket refused while the first is connected',
      );
      this.#dropHeld();
    });
    this.#held = { frontend, cancelTimer };
  }

  #dropHeld(): void {
    const held = this.#held;
    this.#held = null;
    held?.cancelTimer();
    held?.frontend.close();
  }

  #faulted(fault: NativeFault): void {
    this.#fault = fault;
    this.#options.logger.warn({ path: this.#connections.fullPath, error: fault }, 'accept failed');
  }
}

function fileAt(path: string): string | null {
  const status = lstatSync(path, { bigint: true, throwIfNoEntry: false });
  return status === undefined ? null : `${status.dev}:${status.ino}`;
}

function listenFailure(path: string, thrown: unknown): VirtioUserError {
  const errno = errnoOf(thrown);
  const options = { details: { errno, path }, cause: thrown };
  switch (errno) {
    case 'EADDRINUSE':
      return new VirtioUserError('CONFLICT_SOCKET', `listen on ${path}: another process answers there`, {
        ...options,
        remedy: 'Give each attachment a path of its own (the default has {id}), or stop the other process.',
      });
    case 'ELOOP':
    case 'EXDEV':
    case 'ENAMETOOLONG':
    case 'ENOTDIR':
    case 'ENOTSOCK':
      return new VirtioUserError('SOCKET_PATH', `listen on ${path}: ${messageOf(thrown)}`, options);
    default: {
      const code = isExhaustion(errno) ? 'RESOURCE_EXHAUSTED' : 'SYSCALL_FAILED';
      return new VirtioUserError(code, `listen on ${path}: ${messageOf(thrown)}`, options);
    }
  }
}
