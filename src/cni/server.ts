/**
 * The agent's socket for the executable: one request per connection. Descriptors are closed whatever happens, a slow or
 * rude sender costs its own connection, and a caller that vanishes aborts its call; an ADD whose answer was not confirmed
 * is taken back.
 */
import { performance } from 'node:perf_hooks';
import type { CallContext } from '../attachment/api.ts';
import { messageOf, VirtioUserError } from '../errors.ts';
import type { FdSocket, IncomingSocket, Listener, NativeBinding, NativeFd, SocketPath } from '../native/binding.ts';
import type { Logger } from '../telemetry/log.ts';
import { Admission } from './admission.ts';
import { errorBody } from './error.ts';
import {
  type CniFrame,
  encodeAnswer,
  isConfirmation,
  oldestProtocolVersion,
  protocolVersion,
  RequestDecoder,
  type Verb,
} from './frame.ts';
import { answerVersion } from './netconf.ts';
import type { Outcome } from './verbs.ts';

/** The whole request must be there in this time. */
const receiveTimeoutMs = 5_000;
/** The executable confirms after it has written the answer. */
const confirmTimeoutMs = 5_000;
const descriptorLimit = 3;

export interface ServedCall {
  readonly verb: Verb;
  /** Stable code of the failure, or null. */
  readonly errorCode: string | null;
  readonly durationMs: number;
}

export interface CniServerOptions {
  readonly binding: Pick<NativeBinding, 'listenUnix'>;
  readonly path: SocketPath;
  readonly run: (frame: CniFrame, fds: readonly NativeFd[], context: CallContext) => Promise<Outcome>;
  readonly log: Logger;
  /** For metrics. */
  readonly onServed?: (call: ServedCall) => void;
}

export class CniServer {
  readonly #options: CniServerOptions;
  readonly #admission = new Admission();
  readonly #calls = new Set<Promise<void>>();
  #listener: Listener | null = null;
  #refusing: string | null = null;

  constructor(options: CniServerOptions) {
    this.#options = options;
  }

  /** @throws VirtioUserError CONFLICT_SOCKET, SYSCALL_FAILED */
  listen(): void {
    try {
      this.#listener = this.#options.binding.listenUnix(
        { path: this.#options.path, mode: 0o600, groupId: null, backlog: 512 },
        {
          onConnection: (incoming) => this.#accept(incoming),
          onFault: (fault) => this.#options.log.error({ error: fault }, 'accept failed'),
        },
      );
    } catch (error) {
      const { baseDirectory, relativePath } = this.#options.path;
      throw VirtioUserError.from(error, `listen on ${baseDirectory}/${relativePath}`, 'SYSCALL_FAILED');
    }
  }

  /** From now on ADD is answered with "try again"; everything else is still served. */
  refuseAdds(why: string): void {
    this.#refusing = why;
  }

  get inFlight(): number {
    return this.#calls.size;
  }

  /** Stops listening and waits for calls in flight. */
  async close(graceMs: number): Promise<void> {
    this.#listener?.close();
    this.#listener = null;
    const timer = new Promise<void>((resolve) => setTimeout(resolve, graceMs).unref());
    await Promise.race([Promise.all(this.#calls), timer]);
  }

  #accept(incoming: IncomingSocket): void {
    if (incoming.peer.uid !== 0) {
      this.#options.log.warn({ peer: incoming.peer }, 'a caller that is not root was refused');
      incoming.refuse();
      return;
    }
    const call = new Call(incoming, (frame, fds, connection) => this.#serve(frame, fds, connection), this.#options.log);
    this.#calls.add(call.done);
    void call.done.finally(() => this.#calls.delete(call.done));
  }

  async #serve(frame: CniFrame, fds: readonly NativeFd[], connection: Connection): Promise<void> {
    const startedMs = performance.now();
    const log = this.#options.log.child({
      requestId: frame.requestId,
      verb: frame.verb,
      containerId: frame.environment.get('CNI_CONTAINERID') ?? '',
      args: frame.environment.get('CNI_ARGS') ?? '',
    });
    const deadline = AbortSignal.timeout(Math.max(1, Math.min(frame.timeLeftMs, 240_000)));
    const signal = AbortSignal.any([deadline, connection.vanished]);
    const context: CallContext = { requestId: frame.requestId, signal };
    const outcome = await this.#answer(frame, fds, context);
    const durationMs = Math.round((performance.now() - startedMs) * 10) / 10;
    this.#options.onServed?.({ verb: frame.verb, errorCode: outcome.error?.code ?? null, durationMs });
    const confirmed = await connection.answer(encodeAnswer(outcome.answer), confirmTimeoutMs);
    if (outcome.error === null) log.info({ durationMs }, 'served');
    else log.warn({ durationMs, error: outcome.error }, 'failed');
    if (confirmed || outcome.undo === null) return;
    log.warn({}, 'the caller vanished before it had the answer: ADD is taken back');
    await outcome.undo().catch((error: unknown) => log.error({ error }, 'ADD could not be taken back'));
  }

  async #answer(frame: CniFrame, fds: readonly NativeFd[], context: CallContext): Promise<Outcome> {
    const refuse = (error: VirtioUserError): Outcome => ({
      answer: { exitCode: 1, body: errorBody(error, frame.verb, answerVersion(frame.stdin)) },
      error,
      undo: null,
    });
    if (frame.verb !== 'ADD') return this.#options.run(frame, fds, context);
    if (this.#refusing !== null) return refuse(new VirtioUserError('AGENT_NOT_READY', this.#refusing));
    try {
      return await this.#admission.run(context.signal, () => this.#options.run(frame, fds, context));
    } catch (error) {
      return refuse(VirtioUserError.from(error, 'ADD'));
    }
  }
}

interface Connection {
  /** Aborts when the caller closes before it has confirmed. */
  readonly vanished: AbortSignal;
  /** Sends the answer; whether the caller confirmed it. */
  answer(bytes: Buffer, timeoutMs: number): Promise<boolean>;
}

type State = 'receiving' | 'working' | 'confirming' | 'ended';

/** One connection from accept to close. */
class Call implements Connection {
  readonly done: Promise<void>;
  readonly #socket: FdSocket;
  readonly #decoder = new RequestDecoder();
  readonly #fds: NativeFd[] = [];
  readonly #abort = new AbortController();
  readonly #serve: (frame: CniFrame, fds: readonly NativeFd[], connection: Connection) => Promise<void>;
  readonly #log: Logger;
  readonly #timer: NodeJS.Timeout;
  #state: State = 'receiving';
  #onConfirm: ((confirmed: boolean) => void) | null = null;
  #finish: () => void = () => undefined;

  constructor(
    incoming: IncomingSocket,
    serve: (frame: CniFrame, fds: readonly NativeFd[], connection: Connection) => Promise<void>,
    log: Logger,
  ) {
    this.#serve = serve;
    this.#log = log;
    this.done = new Promise((resolve) => {
      this.#finish = resolve;
    });
    this.#timer = setTimeout(() => this.#end('the request did not come in time'), receiveTimeoutMs);
    this.#socket = incoming.accept({
      onData: (bytes, fds) => this.#received(bytes, fds),
      onClose: () => this.#closed(),
    });
  }

  get vanished(): AbortSignal {
    return this.#abort.signal;
  }

  answer(bytes: Buffer, timeoutMs: number): Promise<boolean> {
    if (this.#state === 'ended') return Promise.resolve(false);
    this.#state = 'confirming';
    return new Promise((resolve) => {
      const timer = setTimeout(() => this.#onConfirm?.(false), timeoutMs);
      this.#onConfirm = (confirmed) => {
        this.#onConfirm = null;
        clearTimeout(timer);
        resolve(confirmed);
      };
      try {
        this.#socket.send(bytes, []);
      } catch {
        this.#onConfirm(false); // it vanished meanwhile
      }
    });
  }

  #received(bytes: Buffer, fds: readonly NativeFd[]): void {
    if (this.#state !== 'receiving' || this.#fds.length + fds.length > descriptorLimit) {
      for (const fd of fds) fd.close();
      if (this.#state === 'confirming' && fds.length === 0) this.#onConfirm?.(isConfirmation(bytes));
      else this.#end('unexpected bytes or descriptors');
      return;
    }
    this.#fds.push(...fds);
    const step = this.#decoder.push(bytes);
    switch (step.kind) {
      case 'incomplete':
        return;
      case 'malformed':
        this.#refuse(`malformed request: ${step.what}`);
        return;
      case 'foreign-protocol':
        this.#refuse(
          `the executable speaks protocol ${step.version}, this agent ${oldestProtocolVersion} to ${protocolVersion}`,
        );
        return;
      case 'frame':
        if (step.frame.fdRoles.length !== this.#fds.length) {
          this.#refuse(`${this.#fds.length} descriptors came, ${step.frame.fdRoles.length} were declared`);
          return;
        }
        clearTimeout(this.#timer);
        this.#state = 'working';
        void this.#work(step.frame);
    }
  }

  async #work(frame: CniFrame): Promise<void> {
    try {
      await this.#serve(frame, this.#fds, this);
    } catch (error) {
      this.#log.error({ error }, 'a call ended in an unexpected way');
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
      this.#log.debug({ reason: messageOf(failure) }, 'a refusal could not be sent');
    }
    this.#end(why);
  }

  #closed(): void {
    this.#abort.abort(new VirtioUserError('CANCELLED', 'the caller closed the connection'));
    this.#onConfirm?.(false);
    if (this.#state === 'receiving') this.#end('the caller closed before the request was complete');
    else if (this.#state !== 'ended' && this.#state !== 'working') this.#state = 'ended';
  }

  #end(why: string | null): void {
    if (why !== null) this.#log.debug({ why }, 'connection ended');
    clearTimeout(this.#timer);
    this.#state = 'ended';
    for (const fd of this.#fds) fd.close();
    this.#socket.close();
    this.#finish();
  }
}
