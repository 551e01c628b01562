/**
 * One connection of the executable, from accept to close: bytes and descriptors become a frame, the frame is served,
 * the answer goes out, the confirmation comes in. Descriptors stay open while the call runs, whatever the peer does
 * meanwhile, since undoing an ADD needs the namespace; they are closed whatever happens.
 */
import { messageOf, VirtioUserError } from '../errors.ts';
import type { FdSocket, IncomingSocket, NativeFd } from '../native/binding.ts';
import type { Logger } from '../telemetry/log.ts';
import { errorBody } from './error.ts';
import {
  type CniFrame,
  confirmBytes,
  encodeAnswer,
  encodeWithdrawal,
  isConfirmation,
  oldestProtocolVersion,
  protocolVersion,
  RequestDecoder,
} from './frame.ts';

export interface ConnectionTimes {
  /** The whole request must be there in this time. */
  readonly receiveMs: number;
  /** The executable confirms after it has written the answer. */
  readonly confirmMs: number;
  /** Bound on the deadline that a frame may ask for: the runtime itself gives up then. */
  readonly longestCallMs: number;
}

export const defaultTimes: ConnectionTimes = { receiveMs: 5_000, confirmMs: 5_000, longestCallMs: 240_000 };

export type Serve = (frame: CniFrame, fds: readonly NativeFd[], connection: Connection) => Promise<void>;

export interface ConnectionParts {
  /** Called once, when the request is complete; the connection ends when it settles. */
  readonly serve: Serve;
  readonly times: ConnectionTimes;
  readonly log: Logger;
}

const descriptorLimit = 3;

type State = 'receiving' | 'working' | 'confirming' | 'ended';

export class Connection {
  /** Resolves when everything of this connection has ended. */
  readonly done: Promise<void>;
  readonly #parts: ConnectionParts;
  readonly #socket: FdSocket;
  readonly #decoder = new RequestDecoder();
  readonly #fds: NativeFd[] = [];
  readonly #abort = new AbortController();
  #timer: NodeJS.Timeout | null = null;
  #state: State = 'receiving';
  #peerGone = false;
  #confirmation = Buffer.alloc(0);
  #settleConfirmation: ((confirmed: boolean) => void) | null = null;
  #finish: () => void = () => undefined;

  constructor(incoming: IncomingSocket, parts: ConnectionParts) {
    this.#parts = parts;
    this.done = new Promise((resolve) => {
      this.#finish = resolve;
    });
    this.#socket = incoming.accept({
      onData: (bytes, fds) => this.#received(bytes, fds),
      onClose: () => this.#closed(),
    });
    this.#timer = setTimeout(() => this.#end('the request did not come in time'), parts.times.receiveMs);
  }

  /** Aborts at the deadline of the call, when the caller vanishes or breaks the protocol, and on `abort`. */
  get signal(): AbortSignal {
    return this.#abort.signal;
  }

  /** Ends a connection whose request is not complete; a call under way goes on. */
  dropIfIdle(): void {
    if (this.#state === 'receiving') this.#end('the agent is stopping');
  }

  abort(reason: VirtioUserError): void {
    if (!this.#abort.signal.aborted) this.#abort.abort(reason);
  }

  /** Sends the answer. @returns whether the caller confirmed that it has passed it on */
  answer(bytes: Buffer): Promise<boolean> {
    if (this.#state !== 'working' || this.#peerGone) return Promise.resolve(false);
    this.#state = 'confirming';
    this.#clearTimer();
    return new Promise((resolve) => {
      this.#settleConfirmation = (confirmed) => {
        this.#settleConfirmation = null;
        this.#clearTimer();
        resolve(confirmed);
      };
      this.#timer = setTimeout(() => this.#settleConfirmation?.(false), this.#parts.times.confirmMs);
      try {
        this.#socket.send(bytes, []);
      } catch (error) {
        this.#parts.log.debug({ reason: messageOf(error) }, 'an answer could not be sent');
        this.#settleConfirmation(false);
      }
    });
  }

  /**
   * Tells a caller that did not confirm that its answer is void, and hangs up: a confirmation that comes late must not
   * be taken for one that was heard. Descriptors stay open until the call has ended.
   */
  withdraw(): void {
    if (this.#state !== 'confirming') return;
    try {
      this.#socket.send(encodeWithdrawal(), []);
    } catch (error) {
      this.#parts.log.debug({ reason: messageOf(error) }, 'a withdrawal could not be sent');
    }
    this.#socket.close();
  }

  #received(bytes: Buffer, fds: readonly NativeFd[]): void {
    if (this.#state === 'receiving' && this.#fds.length + fds.length <= descriptorLimit) {
      this.#fds.push(...fds);
      this.#decode(bytes);
      return;
    }
    for (const fd of fds) fd.close();
    switch (this.#state) {
      case 'receiving':
        this.#refuse('more descriptors came than a request has');
        return;
      case 'working':
        this.#lose('the caller sent bytes after its request');
        return;
      case 'confirming':
        this.#confirmation = Buffer.concat([this.#confirmation, bytes]);
        if (fds.length > 0) this.#settleConfirmation?.(false);
        else if (this.#confirmation.length >= confirmBytes)
          this.#settleConfirmation?.(isConfirmation(this.#confirmation));
        return;
      case 'ended':
    }
  }

  #decode(bytes: Buffer): void {
    const step = this.#decoder.push(bytes);
    switch (step.kind) {
      case 'incomplete':
        return;
      case 'malformed':
        this.#refuse(`malformed request: ${step.what}`);
        return;
      case 'foreign-protocol':
        this.#refuse(`the executable speaks protocol ${step.version}, this agent ${spokenProtocols()}`);
        return;
      case 'frame':
        if (step.frame.fdRoles.length !== this.#fds.length) {
          this.#refuse(`${this.#fds.length} descriptors came, ${step.frame.fdRoles.length} were declared`);
          return;
        }
        void this.#work(step.frame);
    }
  }

  async #work(frame: CniFrame): Promise<void> {
    this.#state = 'working';
    this.#clearTimer();
    const leftMs = Math.min(frame.timeLeftMs, this.#parts.times.longestCallMs);
    this.#timer = setTimeout(
      () => this.abort(new VirtioUserError('TIMEOUT', `the ${leftMs} ms that the caller gave are over`)),
      leftMs,
    );
    try {
      await this.#parts.serve(frame, this.#fds, this);
    } catch (error) {
      this.#parts.log.error({ error, requestId: frame.requestId }, 'a call ended in an unexpected way');
    }
    this.#end(null);
  }

  #refuse(why: string): void {
    const error = new VirtioUserError('INPUT_FRAME', why, {
      remedy: 'install the executable of the same version as the agent',
    });
    try {
      this.#socket.send(encodeAnswer({ exitCode: 1, body: errorBody(error, 'ADD', '1.0.0') }), []);
    } catch (failure) {
      this.#parts.log.debug({ reason: messageOf(failure) }, 'a refusal could not be sent');
    }
    this.#parts.log.warn({ why, pid: this.#socket.peer.pid }, 'a request was refused');
    this.#end(why);
  }

  /** The peer cannot be answered any more; what runs for it is told to give up. */
  #lose(why: string): void {
    this.#peerGone = true;
    this.abort(new VirtioUserError('CANCELLED', why));
    this.#settleConfirmation?.(false);
  }

  #closed(): void {
    this.#lose('the caller closed the connection');
    if (this.#state === 'receiving') this.#end('the caller closed before its request was complete');
  }

  #clearTimer(): void {
    if (this.#timer !== null) clearTimeout(this.#timer);
    this.#timer = null;
  }

  #end(why: string | null): void {
    if (this.#state === 'ended') return;
    if (why !== null) this.#parts.log.debug({ why }, 'connection ended');
    this.#state = 'ended';
    this.#clearTimer();
    for (const fd of this.#fds) fd.close();
    this.#socket.close();
    this.#finish();
  }
}

function spokenProtocols(): string {
  return oldestProtocolVersion === protocolVersion
    ? String(protocolVersion)
    : `${oldestProtocolVersion} to ${protocolVersion}`;
}
