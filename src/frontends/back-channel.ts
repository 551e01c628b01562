/**
 * The back channel of one vhost-user connection: a socket pair, one end of it with the backend (SET_BACKEND_REQ_FD), on
 * which it sends requests of its own. Served beside the main socket: a backend may wait for an answer here before it
 * gives one there.
 *
 * Nothing that comes here ends more than this channel: the device goes on without it. It costs nothing while nobody
 * speaks, and a bounded amount of work per second when somebody does.
 */
import { messageOf, VirtioUserError } from '../errors.ts';
import type { FdSocket, NativeBinding, NativeFault, NativeFd } from '../native/binding.ts';
import type { Logger } from '../telemetry/log.ts';
import { type BackRequest, BackRequestDecoder } from '../vhost-user/back-request.ts';
import { encodeMessage, replyFlags } from '../vhost-user/header.ts';
import { encodeU64 } from '../vhost-user/payload.ts';
import type { Timers } from '../clock.ts';

/** Requests and reads together; a backend that needs more is not one that we know. */
export const mostPerSecond = 1000;
/** A storm of configuration changes is told ten times a second at most. */
export const changeIntervalMs = 100;

export interface BackChannelOptions {
  /** For messages: the path of the main socket. */
  readonly name: string;
  readonly timers: Timers;
  readonly logger: Logger;
  /** How many rings the device has now. */
  readonly rings: () => number;
  /** CONFIG_CHANGE_MSG came; the last of a storm is told too. */
  readonly onConfigChange: () => void;
}

export class BackChannel {
  /** The backend's end; to be closed once it has been handed over. */
  readonly peer: NativeFd;
  readonly #options: BackChannelOptions;
  readonly #decoder: BackRequestDecoder;
  readonly #socket: FdSocket;
  #ended = false;
  #refusalTold = false;
  #secondBeganMs = -Infinity;
  #workOfSecond = 0;
  #lastChangeMs = -Infinity;
  #cancelChange: (() => void) | null = null;

  /** @throws NativeFault EMFILE, ENFILE, ENOMEM */
  constructor(binding: Pick<NativeBinding, 'socketPair'>, options: BackChannelOptions) {
    this.#options = options;
    this.#decoder = new BackRequestDecoder(options.rings);
    const { socket, peer } = binding.socketPair({
      onData: (bytes, fds) => this.#receive(bytes, fds),
      onClose: (fault) => this.#closedByPeer(fault),
    });
    this.#socket = socket;
    this.peer = peer;
  }

  get isOpen(): boolean {
    return !this.#ended;
  }

  /** Idempotent; nothing is told any more. */
  close(): void {
    this.#ended = true;
    this.#cancelChange?.();
    this.#cancelChange = null;
    this.peer.close();
    this.#socket.close();
  }

  #receive(bytes: Buffer, fds: readonly NativeFd[]): void {
    for (const fd of fds) fd.close();
    if (this.#ended) return;
    try {
      this.#spend();
      for (const request of this.#decoder.take(bytes, fds.length)) {
        this.#spend();
        this.#serve(request);
        if (!this.isOpen) return;
      }
    } catch (thrown) {
      this.#end(thrown);
    }
  }

  #serve(request: BackRequest): void {
    const { refusal } = request;
    if (refusal !== null) this.#tellRefusal(request, refusal);
    if (request.needsReply) this.#answer(request, refusal === null ? 0n : 1n);
    if (refusal === null) this.#changed();
  }

  #answer({ number, name }: BackRequest, code: bigint): void {
    // The kernel holds thousands of answers; when it takes no more, nobody reads them.
    if (this.#socket.pendingBytes > 0) {
      throw new VirtioUserError('PROTOCOL_VIOLATION', `backend does not read the answers it asks for (${name})`);
    }
    this.#socket.send(encodeMessage(number, replyFlags, encodeU64(code)), []);
  }

  /** Once per channel: a backend that sends one such request sends more of them. */
  #tellRefusal({ name }: BackRequest, refusal: string): void {
    if (this.#refusalTold) return;
    this.#refusalTold = true;
    this.#options.logger.info({ path: this.#options.name, request: name, refusal }, 'request of the backend refused');
  }

  /** The first change at once, further ones together at the end of the interval. */
  #changed(): void {
    if (this.#cancelChange !== null) return;
    const { timers } = this.#options;
    const waitMs = this.#lastChangeMs + changeIntervalMs - timers.now();
    if (waitMs <= 0) this.#tellChange();
    else this.#cancelChange = timers.after(waitMs, () => this.#tellChange());
  }

  #tellChange(): void {
    this.#cancelChange = null;
    this.#lastChangeMs = this.#options.timers.now();
    this.#options.onConfigChange();
  }

  #spend(): void {
    const now = this.#options.timers.now();
    if (now - this.#secondBeganMs >= 1000) {
      this.#secondBeganMs = now;
      this.#workOfSecond = 0;
    }
    this.#workOfSecond += 1;
    if (this.#workOfSecond > mostPerSecond) {
      throw new VirtioUserError('PROTOCOL_VIOLATION', `backend sent more than ${mostPerSecond} requests in a second`);
    }
  }

  #closedByPeer(fault: NativeFault | null): void {
    if (fault !== null) {
      this.#end(fault);
      return;
    }
    if (this.#ended) return;
    this.close();
    this.#options.logger.debug({ path: this.#options.name }, 'the backend closed its back channel');
  }

  #end(reason: unknown): void {
    if (this.#ended) return;
    this.close();
    this.#options.logger.warn(
      { path: this.#options.name, reason: messageOf(reason), error: reason },
      'back channel closed; the device goes on without it',
    );
  }
}
