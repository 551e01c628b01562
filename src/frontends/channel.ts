/**
 * Request, reply and acknowledgement over one vhost-user socket.
 *
 * One message is on its way at a time: the next goes out when the reply or acknowledgement of the one before is in.
 * Backends work in order and answer in tens of microseconds, so that waiting costs little and every failure has a name.
 * The socket ends with the first thing that goes wrong; what waits is rejected with that reason.
 */
import { errnoOf, messageOf, VirtioUserError } from '../errors.ts';
import type { FdSocket, NativeFault, NativeFd, SocketHandlers } from '../native/binding.ts';
import { ReplyDecoder } from '../vhost-user/decoder.ts';
import { encodeMessage, needReplyFlag, versionFlag } from '../vhost-user/header.ts';
import { decodeU64, emptyPayload } from '../vhost-user/payload.ts';
import { ackBytes, type RequestName, requests, type RequestSpec } from '../vhost-user/request.ts';
import { systemClock, type Timers } from '../clock.ts';

/** Backends pause under load (DPDK's control thread waits for its data threads): less than this would cut living ones. */
export const minimumDeadlineMs = 3000;

export interface ChannelOptions {
  /** For messages: the socket path. */
  readonly name: string;
  /** Per reply; default 5000, at least 3000. */
  readonly deadlineMs?: number;
  readonly timers?: Timers;
}

interface Waiting {
  readonly name: RequestName;
  readonly resolve: (payload: Buffer) => void;
  readonly reject: (error: VirtioUserError) => void;
  readonly cancelDeadline: () => void;
}

export class Channel {
  /** F_REPLY_ACK is in force: configuration messages ask for, and wait for, an acknowledgement. */
  acknowledges = false;
  /** Once, when the connection ends other than by `close`. */
  onEnd: ((error: Error) => void) | null = null;
  /** Lives as long as the connection at most: closed with it, however it ends. */
  companion: { close(): void } | null = null;

  readonly #name: string;
  readonly #deadlineMs: number;
  readonly #timers: Timers;
  readonly #decoder = new ReplyDecoder();
  readonly #socket: FdSocket;
  #waiting: Waiting | null = null;
  #tail: Promise<unknown> = Promise.resolve();
  #ended: VirtioUserError | null = null;
  #unconfirmed = false;

  /** @param attach accepts or connects, with the handlers of this channel */
  constructor(attach: (handlers: SocketHandlers) => FdSocket, options: ChannelOptions) {
    this.#name = options.name;
    this.#deadlineMs = options.deadlineMs ?? 5000;
    this.#timers = options.timers ?? systemClock;
    if (this.#deadlineMs < minimumDeadlineMs) {
      throw new VirtioUserError('CONFIG_INVALID', `vhost-user deadline of ${this.#deadlineMs} ms`, {
        remedy: `Give at least ${minimumDeadlineMs} ms.`,
      });
    }
    this.#socket = attach({
      onData: (bytes, fds) => this.#receive(bytes, fds),
      onClose: (fault) => this.#closedByPeer(fault),
    });
  }

  get isOpen(): boolean {
    return this.#ended === null;
  }

  get backendPid(): number | null {
    return this.#socket.peer.pid > 0 ? this.#socket.peer.pid : null;
  }

  /** Something was sent that no later reply has confirmed yet: a backend works in order, so any reply confirms. */
  get unconfirmed(): boolean {
    return this.#unconfirmed;
  }

  /** Sends a request that has a reply of its own. @returns the payload, of exactly the size of that reply */
  ask(name: RequestName, payload: Uint8Array = emptyPayload, deadlineMs = this.#deadlineMs): Promise<Buffer> {
    return this.#inTurn(async () => {
      const spec: RequestSpec = requests[name];
      if (spec.replyBytes === null) throw new VirtioUserError('BUG', `${name} has no reply`);
      return this.#exchange(name, versionFlag, payload, [], spec.replyBytes, deadlineMs);
    });
  }

  /**
   * Sends a request without a reply; waits for the acknowledgement where there is one. `fds` are borrowed.
   * @param refusal what a backend that says no costs: the connection, or this request
   */
  tell(
    name: RequestName,
    payload: Uint8Array = emptyPayload,
    fds: readonly NativeFd[] = [],
    refusal: 'ends' | 'survives' = 'ends',
  ): Promise<void> {
    return this.#inTurn(async () => {
      const spec: RequestSpec = requests[name];
      if (spec.replyBytes !== null) throw new VirtioUserError('BUG', `${name} has a reply`);
      if (!this.acknowledges || !spec.acknowledged) {
        this.#send(name, versionFlag, payload, fds);
        this.#unconfirmed = true;
        return;
      }
      const code = decodeU64(
        await this.#exchange(name, versionFlag | needReplyFlag, payload, fds, ackBytes, this.#deadlineMs),
      );
      if (code !== 0n) {
        const refused = new VirtioUserError('BACKEND_REFUSED', `${this.#name}: backend refused ${name}`, {
          details: { request: name, code: code.toString(), payload: Buffer.from(payload).toString('hex') },
        });
        throw refusal === 'ends' ? this.#end(refused) : refused;
      }
    });
  }

  /** Ends the connection with a reason of the caller's. @returns the reason that holds: the first one */
  fail(error: VirtioUserError): VirtioUserError {
    return this.#end(error);
  }

  /** Ends the connection; what waits is rejected. Idempotent. */
  close(): void {
    this.onEnd = null;
    this.#end(new VirtioUserError('DISCONNECTED', `${this.#name}: connection closed by the agent`));
  }

  #inTurn<T>(task: () => Promise<T>): Promise<T> {
    const run = this.#tail.then(() => {
      if (this.#ended !== null) throw this.#ended;
      return task();
    });
    this.#tail = run.catch(() => undefined);
    return run;
  }

  #exchange(
    name: RequestName,
    flags: number,
    payload: Uint8Array,
    fds: readonly NativeFd[],
    replyBytes: number,
    deadlineMs: number,
  ): Promise<Buffer> {
    return new Promise((resolve, reject) => {
      // The reply may come while `send` is still on the stack, so everything is in place before.
      this.#decoder.expect(requests[name].number, replyBytes);
      const cancelDeadline = this.#timers.after(deadlineMs, () => this.#end(this.#timeout(name, deadlineMs)));
      this.#waiting = { name, resolve, reject, cancelDeadline };
      try {
        this.#send(name, flags, payload, fds);
      } catch (thrown) {
        reject(VirtioUserError.from(thrown, name));
      }
    });
  }

  #send(name: RequestName, flags: number, payload: Uint8Array, fds: readonly NativeFd[]): void {
    try {
      this.#socket.send(encodeMessage(requests[name].number, flags, payload), fds);
    } catch (thrown) {
      throw this.#end(this.#sendFailure(name, thrown));
    }
  }

  #receive(bytes: Buffer, fds: readonly NativeFd[]): void {
    // No reply that we ask for carries a descriptor: whatever comes is closed unseen.
    for (const fd of fds) fd.close();
    if (this.#ended !== null) return;
    if (fds.length > 0) {
      this.#end(this.#violation(`backend sent ${fds.length} descriptors that nothing asked for`, bytes));
      return;
    }
    let payload: Buffer | null;
    try {
      payload = this.#decoder.push(bytes);
    } catch (thrown) {
      const error = VirtioUserError.from(thrown, 'decode a reply');
      this.#end(new VirtioUserError(error.code, `${this.#name}: ${error.message}`, { details: error.details }));
      return;
    }
    if (payload === null) return;
    const waiting = this.#waiting;
    this.#waiting = null;
    this.#unconfirmed = false;
    waiting?.cancelDeadline();
    waiting?.resolve(payload);
  }

  #closedByPeer(fault: NativeFault | null): void {
    const during = this.#waiting === null ? '' : ` during ${this.#waiting.name}`;
    if (this.#decoder.partial) {
      this.#end(this.#violation(`backend closed the connection within a reply${during}`, Buffer.alloc(0)));
      return;
    }
    const why = fault === null ? 'backend closed the connection' : `connection lost: ${fault.message}`;
    this.#end(
      new VirtioUserError('DISCONNECTED', `${this.#name}: ${why}${during}`, {
        details: { errno: fault?.code ?? null, request: this.#waiting?.name ?? null },
        ...(fault === null ? {} : { cause: fault }),
      }),
    );
  }

  /** The one end of every connection. Later reasons are dropped: they follow from the first. */
  #end(error: VirtioUserError): VirtioUserError {
    if (this.#ended !== null) return this.#ended;
    this.#ended = error;
    const waiting = this.#waiting;
    this.#waiting = null;
    waiting?.cancelDeadline();
    this.#socket.close();
    this.companion?.close();
    waiting?.reject(error);
    const onEnd = this.onEnd;
    this.onEnd = null;
    onEnd?.(error);
    return error;
  }

  #timeout(name: RequestName, deadlineMs: number): VirtioUserError {
    return new VirtioUserError('TIMEOUT', `${this.#name}: no answer to ${name} within ${deadlineMs} ms`, {
      details: { request: name, deadlineMs },
      remedy: 'The switch accepted the connection but does not serve it: look at its log and its load.',
    });
  }

  #violation(what: string, bytes: Buffer): VirtioUserError {
    return new VirtioUserError('PROTOCOL_VIOLATION', `${this.#name}: ${what}`, {
      details: { header: bytes.subarray(0, 12).toString('hex') },
    });
  }

  #sendFailure(name: RequestName, thrown: unknown): VirtioUserError {
    const errno = errnoOf(thrown);
    const gone = errno === 'EPIPE' || errno === 'ECONNRESET';
    const full = errno === 'ENOBUFS' || errno === 'EAGAIN';
    return new VirtioUserError(
      gone ? 'DISCONNECTED' : full ? 'TIMEOUT' : 'SYSCALL_FAILED',
      `${this.#name}: send ${name}: ${messageOf(thrown)}`,
      { details: { errno, request: name }, cause: thrown },
    );
  }
}
