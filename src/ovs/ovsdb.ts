/** Client of an OVSDB server (RFC 7047) on a unix socket: connects when it is needed, one connection for all calls. */
import { createConnection, type Socket } from 'node:net';
import { errnoOf, messageOf, VirtioUserError } from '../errors.ts';
import { JsonStream } from './json-stream.ts';

interface Waiting {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
}

/** One operation's result in a `transact` reply. */
export interface OperationResult {
  readonly rows?: readonly Readonly<Record<string, unknown>>[];
  readonly count?: number;
  readonly uuid?: readonly [string, string];
}

export interface OperationError {
  readonly error: string;
  readonly details: string;
}

const callTimeoutMs = 5_000;

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

/** The path of a `unix:…` remote. @throws CONFIG_INVALID */
export function socketOfRemote(remote: string): string {
  if (!remote.startsWith('unix:/')) {
    throw new VirtioUserError('CONFIG_INVALID', `--ovsdb ${remote}: only unix:/path/to/db.sock is accepted`);
  }
  return remote.slice('unix:'.length);
}

export class Ovsdb {
  readonly #path: string;
  #socket: Socket | null = null;
  #connecting: Promise<Socket> | null = null;
  #nextId = 1;
  readonly #waiting = new Map<number, Waiting>();

  constructor(remote: string) {
    this.#path = socketOfRemote(remote);
  }

  /**
   * Runs a transaction on `Open_vSwitch`: all of it or nothing.
   * @throws VirtioUserError OVS_UNAVAILABLE, OVS_REFUSED (an operation's error, in its words), TIMEOUT, CANCELLED
   */
  async transact(operations: readonly object[], signal: AbortSignal): Promise<readonly OperationResult[]> {
    const reply = await this.#call('transact', ['Open_vSwitch', ...operations], signal);
    if (!Array.isArray(reply))
      throw new VirtioUserError('OVS_UNAVAILABLE', 'transact: OVSDB answered no list of results');
    const results: OperationResult[] = [];
    for (const entry of reply as readonly unknown[]) {
      if (isRecord(entry) && typeof entry['error'] === 'string') {
        const details = typeof entry['details'] === 'string' ? entry['details'] : '';
        throw new VirtioUserError('OVS_REFUSED', `OVSDB refused the transaction: ${entry['error']}: ${details}`, {
          details: { error: entry['error'] },
        });
      }
      results.push(isRecord(entry) ? entry : {});
    }
    return results;
  }

  close(): void {
    this.#socket?.destroy();
    this.#socket = null;
  }

  async #call(method: string, params: readonly unknown[], signal: AbortSignal): Promise<unknown> {
    const socket = await this.#connected();
    const id = this.#nextId++;
    return new Promise((resolve, reject) => {
      const finish = (): void => {
        clearTimeout(timer);
        signal.removeEventListener('abort', onAbort);
        this.#waiting.delete(id);
      };
      const timer = setTimeout(() => {
        finish();
        // A server that does not answer is given up, so that the next call starts on a fresh connection.
        socket.destroy();
        reject(
          new VirtioUserError(
            'OVS_UNAVAILABLE',
            `${method} to OVSDB at ${this.#path}: no answer within ${callTimeoutMs} ms`,
          ),
        );
      }, callTimeoutMs);
      const onAbort = (): void => {
        finish();
        reject(new VirtioUserError('CANCELLED', `${method} to OVSDB: the caller is gone`));
      };
      signal.addEventListener('abort', onAbort, { once: true });
      this.#waiting.set(id, {
        resolve: (result) => {
          finish();
          resolve(result);
        },
        reject: (error) => {
          finish();
          reject(error);
        },
      });
      if (signal.aborted) onAbort();
      else socket.write(JSON.stringify({ method, params, id }));
    });
  }

  #connected(): Promise<Socket> {
    if (this.#socket !== null && !this.#socket.destroyed) return Promise.resolve(this.#socket);
    this.#connecting ??= new Promise<Socket>((resolve, reject) => {
      const socket = createConnection(this.#path);
      const stream = new JsonStream();
      socket.unref();
      socket.once('connect', () => {
        this.#socket = socket;
        resolve(socket);
      });
      socket.on('data', (chunk: Buffer) => {
        try {
          for (const message of stream.push(chunk)) this.#received(socket, message);
        } catch (error) {
          socket.destroy(error instanceof Error ? error : new Error(messageOf(error)));
        }
      });
      socket.on('error', (error) => {
        const failure = new VirtioUserError(
          'OVS_UNAVAILABLE',
          `OVSDB at ${this.#path}: ${errnoOf(error) ?? error.message}`,
          {
            remedy: 'start ovsdb-server, or set --ovsdb to its socket',
            cause: error,
          },
        );
        reject(failure);
        this.#failAll(failure);
      });
      socket.on('close', () => {
        if (this.#socket === socket) this.#socket = null;
        this.#failAll(new VirtioUserError('OVS_UNAVAILABLE', `OVSDB at ${this.#path} closed the connection`));
      });
    }).finally(() => {
      this.#connecting = null;
    });
    return this.#connecting;
  }

  #received(socket: Socket, message: unknown): void {
    if (!isRecord(message)) throw new VirtioUserError('PROTOCOL_VIOLATION', 'OVSDB sent no object');
    if (message['method'] === 'echo') {
      socket.write(JSON.stringify({ result: message['params'] ?? [], error: null, id: message['id'] ?? null }));
      return;
    }
    const waiting = typeof message['id'] === 'number' ? this.#waiting.get(message['id']) : undefined;
    if (waiting === undefined) return;
    if (message['error'] !== null && message['error'] !== undefined) {
      waiting.reject(new VirtioUserError('OVS_REFUSED', `OVSDB: ${JSON.stringify(message['error']).slice(0, 500)}`));
    } else waiting.resolve(message['result']);
  }

  #failAll(error: Error): void {
    for (const waiting of [...this.#waiting.values()]) waiting.reject(error);
  }
}
