/**
 * Server mode: we listen and the switch connects, again after each of its restarts.
 *
 * One connection is served at a time. A second one is held without an answer: when the first has ended it takes its
 * place (DPDK ≥ 25.03 reconnects before it has closed the old socket); when the first lives on for two seconds it is
 * refused, as a second switch on the same path.
 */
import { errnoOf, messageOf, VirtioUserError } from '../errors.ts';
import type { FrontendSource, OnConnection } from '../device/frontend.ts';
import type { IncomingSocket, Listener, NativeFault } from '../native/binding.ts';
import { checkPathLength, type Connections, type VhostUserSourceOptions } from './connections.ts';
import type { VhostUserFrontend } from './vhost-user.ts';

export const holdMs = 2000;

export class ListenSource implements FrontendSource {
  readonly #options: VhostUserSourceOptions;
  readonly #connections: Connections;
  #listener: Listener | null = null;
  #onConnection: OnConnection | null = null;
  /** Offered and not released yet. */
  #current: VhostUserFrontend | null = null;
  #held: { readonly frontend: VhostUserFrontend; readonly cancelTimer: () => void } | null = null;
  #fault: NativeFault | null = null;

  constructor(options: VhostUserSourceOptions, connections: Connections) {
    this.#options = options;
    this.#connections = connections;
  }

  get situation(): string {
    const path = this.#connections.fullPath;
    if (this.#listener === null) return `not listening on ${path}`;
    if (this.#current !== null) {
      return `backend ${this.#current.backendPid === null ? '' : `(pid ${this.#current.backendPid}) `}connected to ${path}`;
    }
    return `listening on ${path}${this.#fault === null ? '' : `: ${this.#fault.message}`}`;
  }

  open(onConnection: OnConnection): void {
    if (this.#onConnection !== null) throw new VirtioUserError('BUG', `${this.#connections.fullPath} opened twice`);
    const { binding, path, mode, groupId } = this.#options;
    checkPathLength(this.#connections.fullPath);
    try {
      this.#listener = binding.listenUnix(
        { path, mode, groupId, backlog: 4 },
        { onConnection: (incoming) => this.#accept(incoming), onFault: (fault) => this.#faulted(fault) },
      );
    } catch (thrown) {
      throw listenFailure(this.#connections.fullPath, thrown);
    }
    this.#onConnection = onConnection;
  }

  close(): void {
    this.#listener?.close();
    this.#listener = null;
    this.#dropHeld();
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
    if (this.#current === null) this.#offer(frontend);
    else this.#hold(frontend);
  }

  #offer(frontend: VhostUserFrontend): void {
    this.#current = frontend;
    this.#onConnection?.(frontend, () => {
      if (this.#current !== frontend) return;
      this.#current = null;
      const held = this.#held;
      if (held === null) return;
      this.#held = null;
      held.cancelTimer();
      held.frontend.onDisconnect = null;
      this.#offer(held.frontend);
    });
  }

  #hold(frontend: VhostUserFrontend): void {
    frontend.onDisconnect = () => this.#dropHeld();
    const cancelTimer = this.#connections.timers.after(holdMs, () => {
      // The first has ended and its user is still cleaning up: the second one's turn is about to come.
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
    default:
      return new VirtioUserError('SYSCALL_FAILED', `listen on ${path}: ${messageOf(thrown)}`, options);
  }
}
