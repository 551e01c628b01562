/**
 * A client of one OVSDB server over a unix socket: JSON-RPC of RFC 7047, as much of it as transactions need.
 *
 * The connection is made by the first call and again by the first call after it was lost; nothing is retried behind the
 * caller's back. A failure says in `details.committed` whether the transaction may have happened: `no` or `unknown`.
 */
import { connect, type Socket } from 'node:net';
import { errnoOf, messageOf, VirtioUserError } from '../errors.ts';
import { isJsonObject, type JsonObject } from '../json.ts';
import { JsonStream, type JsonStreamLimits } from './json-stream.ts';

export interface OvsdbOptions {
  readonly socketPath: string;
  /** One call, connecting included. */
  readonly deadlineMs?: number;
  readonly jsonLimits?: JsonStreamLimits;
}

export type OvsdbOperation = Readonly<Record<string, unknown>> & { readonly op: string };

/** The answer to one operation: rows of a select, uuid of an insert, count of an update or mutate. */
export interface OvsdbResult {
  readonly rows?: readonly JsonObject[];
  readonly uuid?: unknown;
  readonly count?: number;
  readonly [key: string]: unknown;
}

export type OvsdbOutcome =
  | { readonly kind: 'committed'; readonly results: readonly OvsdbResult[] }
  /** Nothing was changed. `operation` is the index of the culprit; beyond the last one: the commit itself. */
  | { readonly kind: 'refused'; readonly operation: number; readonly error: string; readonly details: string };

const defaultDeadlineMs = 5_000;
const openVSwitch = 'Open_vSwitch';

interface PendingCall {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: VirtioUserError) => void;
}

export class OvsdbClient {
  readonly #options: OvsdbOptions;
  #connection: Connection | null = null;
  #closed = false;

  constructor(options: OvsdbOptions) {
    this.#options = options;
  }

  /**
   * One transaction on the Open_vSwitch database.
   * @throws VirtioUserError OVS_UNAVAILABLE, TIMEOUT, CANCELLED
   */
  async transact(operations: readonly OvsdbOperation[], signal: AbortSignal): Promise<OvsdbOutcome> {
    const result = await this.#call('transact', [openVSwitch, ...operations], signal);
    if (!Array.isArray(result)) throw this.#nonsense('transact');
    const results: OvsdbResult[] = [];
    for (const [operation, item] of result.entries()) {
      // Operations after a failed one are answered with null.
      if (!isJsonObject(item)) throw this.#nonsense('transact');
      if (typeof item['error'] === 'string') {
        const details = typeof item['details'] === 'string' ? item['details'] : '';
        return { kind: 'refused', operation, error: item['error'], details };
      }
      results.push(asResult(item) ?? fail(this.#nonsense('transact')));
    }
    if (results.length !== operations.length) throw this.#nonsense('transact');
    return { kind: 'committed', results };
  }

  close(): void {
    this.#closed = true;
    this.#connection?.end(this.#unavailable('the client was closed', 'unknown'));
    this.#connection = null;
  }

  async #call(method: string, params: readonly unknown[], signal: AbortSignal): Promise<unknown> {
    if (signal.aborted) throw cancelled(method, 'no');
    if (this.#closed) throw this.#unavailable('the client is closed', 'no');
    const connection = (this.#connection ??= this.#connect());
    const deadlineMs = this.#options.deadlineMs ?? defaultDeadlineMs;
    return new Promise((resolve, reject) => {
      const call: PendingCall = {
        resolve: (result) => {
          finish();
          resolve(result);
        },
        reject: (error) => {
          finish();
          reject(error);
        },
      };
      const id = connection.send(method, params, call);
      const finish = (): void => {
        clearTimeout(timer);
        signal.removeEventListener('abort', onAbort);
        connection.forget(id);
      };
      const onAbort = (): void => call.reject(cancelled(method, 'unknown'));
      const timer = setTimeout(() => {
        const what = `OVSDB ${this.#options.socketPath}: no answer to ${method} within ${deadlineMs} ms`;
        const error = new VirtioUserError('TIMEOUT', what, {
          details: { committed: connection.established ? 'unknown' : 'no' },
          remedy: 'Look whether ovsdb-server is stopped or overloaded.',
        });
        call.reject(error);
        // Whatever else waits on this connection waits for the same silent peer.
        connection.end(error);
      }, deadlineMs);
      signal.addEventListener('abort', onAbort, { once: true });
    });
  }

  #connect(): Connection {
    const connection: Connection = new Connection(this.#options, (cause): VirtioUserError => {
      if (this.#connection === connection) this.#connection = null;
      return this.#unavailable(cause, connection.established ? 'unknown' : 'no');
    });
    return connection;
  }

  #unavailable(cause: unknown, committed: 'no' | 'unknown'): VirtioUserError {
    const why = typeof cause === 'string' ? cause : (errnoOf(cause) ?? messageOf(cause));
    return new VirtioUserError('OVS_UNAVAILABLE', `OVSDB ${this.#options.socketPath}: ${why}`, {
      details: { committed, path: this.#options.socketPath },
      remedy: 'Start ovsdb-server, or set --ovsdb to its socket.',
      ...(typeof cause === 'string' ? {} : { cause }),
    });
  }

  #nonsense(method: string): VirtioUserError {
    const error = this.#unavailable(`the answer to ${method} is not one of RFC 7047`, 'unknown');
    this.#connection?.end(error);
    return error;
  }
}

/** One socket with the calls that wait on it. */
class Connection {
  readonly #socket: Socket;
  readonly #json: JsonStream;
  readonly #pending = new Map<number, PendingCall>();
  readonly #describe: (cause: unknown) => VirtioUserError;
  #nextId = 1;
  #ended = false;
  established = false;

  /** @param describe told once, when the connection is over; makes the error that its calls get */
  constructor(options: OvsdbOptions, describe: (cause: unknown) => VirtioUserError) {
    this.#describe = describe;
    this.#json = new JsonStream(options.jsonLimits);
    this.#socket = connect({ path: options.socketPath });
    this.#socket.on('connect', () => {
      this.established = true;
    });
    this.#socket.on('data', (chunk) => this.#receive(chunk));
    this.#socket.on('error', (error) => this.end(error));
    this.#socket.on('close', () => this.end('connection closed'));
    // An idle connection must not keep the process alive.
    this.#socket.unref();
  }

  send(method: string, params: readonly unknown[], call: PendingCall): number {
    const id = this.#nextId;
    this.#nextId += 1;
    this.#pending.set(id, call);
    this.#socket.ref();
    this.#socket.write(JSON.stringify({ id, method, params }));
    return id;
  }

  /** The caller no longer waits; a late answer is dropped. */
  forget(id: number): void {
    this.#pending.delete(id);
    if (this.#pending.size === 0) this.#socket.unref();
  }

  end(cause: unknown): void {
    if (this.#ended) return;
    this.#ended = true;
    const described = this.#describe(cause);
    const error = cause instanceof VirtioUserError && cause.code !== 'PROTOCOL_VIOLATION' ? cause : described;
    this.#socket.destroy();
    for (const call of [...this.#pending.values()]) call.reject(error);
  }

  #receive(chunk: Buffer): void {
    if (this.#ended) return;
    try {
      for (const message of this.#json.push(chunk)) this.#handle(message);
    } catch (thrown) {
      this.end(thrown);
    }
  }

  #handle(message: unknown): void {
    if (!isJsonObject(message))
      throw new VirtioUserError('PROTOCOL_VIOLATION', 'OVSDB sent a message that is no object');
    if (typeof message['method'] === 'string') {
      // RFC 7047 section 4.1.11: both sides answer. Other requests do not come without a monitor or a lock.
      if (message['method'] === 'echo') {
        this.#socket.write(JSON.stringify({ id: message['id'], result: message['params'], error: null }));
      }
      return;
    }
    const { id, error } = message;
    const call = typeof id === 'number' ? this.#pending.get(id) : undefined;
    if (call === undefined) return;
    if (error !== null && error !== undefined) {
      call.reject(this.#refusal(error));
      return;
    }
    call.resolve(message['result']);
  }

  /** An error of the request as a whole (unknown database, syntax): nothing was changed. */
  #refusal(error: unknown): VirtioUserError {
    const text = JSON.stringify(error).slice(0, 300);
    return new VirtioUserError('OVS_REFUSED', `OVSDB refused the request: ${text}`, { details: { committed: 'no' } });
  }
}

function cancelled(method: string, committed: 'no' | 'unknown'): VirtioUserError {
  return new VirtioUserError('CANCELLED', `OVSDB ${method}: cancelled`, { details: { committed } });
}

function asResult(item: JsonObject): OvsdbResult | null {
  const { rows, count, ...rest } = item;
  if (rows !== undefined && !(Array.isArray(rows) && rows.every(isJsonObject))) return null;
  if (count !== undefined && typeof count !== 'number') return null;
  return { ...rest, ...(rows === undefined ? {} : { rows }), ...(count === undefined ? {} : { count }) };
}

function fail(error: VirtioUserError): never {
  throw error;
}

/** A map of text to text: ["map", [[key, value], …]] (RFC 7047, 5.1). What is no pair of texts is left out. */
export function readMap(value: unknown): Readonly<Record<string, string>> {
  const pairs: unknown = Array.isArray(value) && value[0] === 'map' ? value[1] : [];
  const entries: [string, string][] = [];
  for (const pair of Array.isArray(pairs) ? (pairs as unknown[]) : []) {
    if (Array.isArray(pair) && typeof pair[0] === 'string' && typeof pair[1] === 'string') {
      entries.push([pair[0], pair[1]]);
    }
  }
  return Object.fromEntries(entries);
}
