/**
 * The agent's socket for the executable: one request per connection, callers must be root. A slow or rude sender costs
 * its own connection; ADDs and DELs are bounded apart from each other and by network, so that neither holds up the other
 * verbs, nor one network another; an ADD whose answer was not confirmed is taken back. A DEL whose time is over is hung up on without an answer: its executable
 * then leaves it in the delete queue, which is success, where a failure would keep the pod from going.
 */
import { performance } from 'node:perf_hooks';
import type { CallContext } from '../attachment/api.ts';
import { errnoOf, VirtioUserError } from '../errors.ts';
import type { IncomingSocket, Listener, NativeBinding, NativeFd, SocketPath } from '../native/binding.ts';
import type { Logger } from '../telemetry/log.ts';
import { Admission } from './admission.ts';
import { Connection, type ConnectionTimes, defaultTimes } from './connection.ts';
import { parseArgs, podOf } from './environment.ts';
import { type CniFrame, encodeAnswer, type Verb } from './frame.ts';
import { networkNameOf } from './netconf.ts';
import { failure, type Outcome } from './verbs.ts';

/** Runtimes call without a limit of their own (60 ADDs at once were seen). Of one network as many as pay on few cores. */
const addLimits = { what: 'ADD', running: 64, runningOfGroup: 16, waiting: 512 };
/** Kubelet repeats DELs in volleys; each may run an IPAM plugin. */
const deleteLimits = { what: 'DEL', running: 96, runningOfGroup: 32, waiting: 1_024 };
/** Connections at once, a descriptor and up to 4 MiB each; more are closed unheard, and the executable tries again. */
const connectionLimit = 2_048;
/** After the grace at shut-down: what was aborted gets this long to roll back. What is cut off, the next start undoes. */
const abortGraceMs = 2_000;

export interface ServedCall {
  readonly verb: Verb;
  /** Stable code of the failure, or null. */
  readonly errorCode: string | null;
  readonly durationMs: number;
}

export interface CniServerOptions {
  readonly binding: Pick<NativeBinding, 'listenUnix'>;
  readonly path: SocketPath;
  /** `fds` are borrowed: closed when the call has ended. */
  readonly run: (frame: CniFrame, fds: readonly NativeFd[], context: CallContext) => Promise<Outcome>;
  readonly log: Logger;
  /** For metrics. */
  readonly onServed?: (call: ServedCall) => void;
  /** A DEL was not answered: its executable tries once more for two seconds and then queues it. */
  readonly onUnanswered?: () => void;
  readonly times?: Partial<ConnectionTimes>;
}

export class CniServer {
  readonly #options: CniServerOptions;
  readonly #adds = new Admission(addLimits);
  readonly #deletes = new Admission(deleteLimits);
  readonly #connections = new Set<Connection>();
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
      const doing = `listen on ${baseDirectory}/${relativePath}`;
      if (errnoOf(error) !== 'EADDRINUSE') throw VirtioUserError.from(error, doing, 'SYSCALL_FAILED');
      throw new VirtioUserError('CONFLICT_SOCKET', `${doing}: another process answers there`, {
        remedy: 'stop the other agent, or give this one another --socket',
        cause: error,
      });
    }
  }

  /** From now on ADD is answered with "try again" and STATUS says so; everything else is still served. */
  refuseAdds(why: string): void {
    this.#refusing = why;
  }

  get inFlight(): number {
    return this.#connections.size;
  }

  /** Stops listening and waits for calls in flight; those that last longer are told to roll back. */
  async close(graceMs: number): Promise<void> {
    this.#listener?.close();
    this.#listener = null;
    for (const connection of this.#connections) connection.dropIfIdle();
    await this.#settled(graceMs);
    const reason = new VirtioUserError('AGENT_NOT_READY', this.#refusing ?? 'the agent is stopping');
    for (const connection of this.#connections) connection.abort(reason);
    await this.#settled(abortGraceMs);
  }

  async #settled(limitMs: number): Promise<void> {
    const limit = Promise.withResolvers<undefined>();
    const timer = setTimeout(() => limit.resolve(undefined), limitMs);
    await Promise.race([Promise.all([...this.#connections].map(({ done }) => done)), limit.promise]);
    clearTimeout(timer);
  }

  #accept(incoming: IncomingSocket): void {
    const { log, times } = this.#options;
    if (incoming.peer.uid !== 0) {
      log.warn({ peer: incoming.peer }, 'a caller that is not root was refused');
      incoming.refuse();
      return;
    }
    if (this.#connections.size >= connectionLimit) {
      log.warn({ connections: this.#connections.size }, 'too many callers at once');
      incoming.refuse();
      return;
    }
    const connection = new Connection(incoming, {
      serve: (frame, fds, from) => this.#serve(frame, fds, from),
      times: { ...defaultTimes, ...times },
      log,
    });
    this.#connections.add(connection);
    void connection.done.then(() => this.#connections.delete(connection));
  }

  async #serve(frame: CniFrame, fds: readonly NativeFd[], connection: Connection): Promise<void> {
    const startedMs = performance.now();
    const pod = podOf(parseArgs(frame.environment.get('CNI_ARGS') ?? ''));
    const log = this.#options.log.child({
      requestId: frame.requestId,
      verb: frame.verb,
      containerId: frame.environment.get('CNI_CONTAINERID') ?? '',
      pod: pod === null ? null : `${pod.namespace}/${pod.name}`,
    });
    const outcome = await this.#decide(frame, fds, { requestId: frame.requestId, signal: connection.signal });
    const durationMs = Math.round((performance.now() - startedMs) * 10) / 10;
    this.#options.onServed?.({ verb: frame.verb, errorCode: outcome.error?.code ?? null, durationMs });
    if (outcome.error === null) log.info({ durationMs }, 'served');
    else log.warn({ durationMs, error: outcome.error }, 'failed');
    if (frame.verb === 'DEL' && outcome.error?.code === 'CANCELLED' && connection.signal.aborted) {
      this.#options.onUnanswered?.();
      return;
    }
    const confirmed = await deliver(outcome, frame, connection, log);
    if (confirmed || outcome.undo === null) return;
    connection.withdraw();
    log.warn({}, 'the caller vanished before it had the answer: ADD is taken back');
    await outcome.undo().catch((error: unknown) => log.error({ error }, 'ADD could not be taken back'));
  }

  /** Never rejects. */
  async #decide(frame: CniFrame, fds: readonly NativeFd[], context: CallContext): Promise<Outcome> {
    const run = (): Promise<Outcome> => this.#options.run(frame, fds, context);
    try {
      if (this.#refusing !== null && (frame.verb === 'ADD' || frame.verb === 'STATUS'))
        throw new VirtioUserError('AGENT_NOT_READY', this.#refusing);
      switch (frame.verb) {
        case 'ADD':
          return await this.#adds.run(networkNameOf(frame.stdin), context.signal, run);
        case 'DEL':
          return await this.#deletes.run(networkNameOf(frame.stdin), context.signal, run);
        case 'CHECK':
        case 'GC':
        case 'STATUS':
          return await run();
      }
    } catch (thrown) {
      return failure(frame, thrown);
    }
  }
}

async function deliver(outcome: Outcome, frame: CniFrame, connection: Connection, log: Logger): Promise<boolean> {
  try {
    return await connection.answer(encodeAnswer(outcome.answer, frame.protocol));
  } catch (error) {
    log.error({ error }, 'the answer cannot be encoded');
    return false;
  }
}
