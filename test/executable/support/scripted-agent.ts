/** An agent that does what a test tells it: real socket, real bytes. Descriptors sent along are dropped by Node.js. */
import { createServer, type Server, type Socket } from 'node:net';
import { once } from 'node:events';
import { type RequestFrame, readRequest } from './frame.ts';

/** One connection whose request is complete. */
export interface Conversation {
  readonly request: RequestFrame;
  readonly socket: Socket;
  /** What the executable sent after the request, until it closed. */
  readonly rest: Promise<string>;
}

export type Script = (conversation: Conversation) => void;

export class ScriptedAgent implements AsyncDisposable {
  readonly #server: Server;
  readonly #sockets = new Set<Socket>();
  readonly #script: Script;
  readonly #confirmed: (socket: Socket) => void;
  /** In the order in which the requests came. */
  readonly conversations: Conversation[] = [];
  connections = 0;

  private constructor(script: Script, confirmed: (socket: Socket) => void) {
    this.#script = script;
    this.#confirmed = confirmed;
    this.#server = createServer((socket) => this.#accept(socket));
  }

  /** `confirmed`: what it does with a confirmation; the agent hangs up. */
  static async listen(
    path: string,
    script: Script,
    confirmed = (socket: Socket): void => void socket.end(),
  ): Promise<ScriptedAgent> {
    const agent = new ScriptedAgent(script, confirmed);
    agent.#server.listen(path);
    await once(agent.#server, 'listening');
    return agent;
  }

  /** The only conversation there was. */
  get only(): Conversation {
    const [first] = this.conversations;
    if (first === undefined || this.conversations.length !== 1) {
      throw new Error(`${this.conversations.length} requests came instead of one`);
    }
    return first;
  }

  #accept(socket: Socket): void {
    this.connections++;
    this.#sockets.add(socket);
    const { promise: rest, resolve } = Promise.withResolvers<string>();
    let bytes = Buffer.alloc(0);
    let request: RequestFrame | null = null;
    socket.on('error', () => undefined); // an executable that is killed
    socket.on('close', () => {
      this.#sockets.delete(socket);
      resolve(bytes.toString('latin1', request?.raw.length ?? 0));
    });
    socket.on('data', (chunk: Buffer) => {
      bytes = Buffer.concat([bytes, chunk]);
      if (request !== null) {
        if (bytes.toString('latin1', request.raw.length) === 'VUK1') this.#confirmed(socket);
        return;
      }
      request = readRequest(bytes);
      if (request === null) return;
      const conversation = { request, socket, rest };
      this.conversations.push(conversation);
      this.#script(conversation);
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    const closed = once(this.#server, 'close');
    this.#server.close();
    for (const socket of this.#sockets) socket.destroy();
    await closed;
  }
}
