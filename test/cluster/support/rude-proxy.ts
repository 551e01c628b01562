/**
 * A proxy before the API server that misbehaves on command: resets, ends or freezes connections, refuses new ones, or
 * answers in the server's place. A TCP relay in front does the former; behind it something that speaks TLS with the API
 * server's own certificate does the latter.
 */
import { once } from 'node:events';
import { readFileSync } from 'node:fs';
import type { IncomingMessage, ServerResponse } from 'node:http';
import { Agent, createServer, request, type Server } from 'node:https';
import { type AddressInfo, connect, createServer as createRelay, type Server as Relay, type Socket } from 'node:net';
import { join } from 'node:path';
import type { Cleanup } from '../../support/cleanup.ts';
import type { ControlPlane } from './control-plane.ts';

interface Answer {
  readonly code: number;
  readonly headers: Readonly<Record<string, string>>;
  /** Only requests whose target contains it. */
  readonly target: string;
  left: number;
}

export class RudeProxy {
  readonly #plane: ControlPlane;
  /** Client's side → server's side. */
  readonly #links = new Map<Socket, Socket>();
  readonly #upstream = new Agent({ rejectUnauthorized: false, keepAlive: true });
  readonly #server: Server;
  #relay: Relay | null = null;
  #port = 0;
  #accepted = 0;
  #freezesAll = false;
  #answer: Answer | null = null;
  /** `GET /api/v1/pods?watch=true…` */
  readonly requests: string[] = [];

  private constructor(plane: ControlPlane) {
    this.#plane = plane;
    const certificates = join(plane.directory, 'certs');
    const cert = readFileSync(join(certificates, 'apiserver.crt'));
    const key = readFileSync(join(certificates, 'apiserver.key'));
    this.#server = createServer({ cert, key, keepAliveTimeout: 60_000 }, (incoming, response) => {
      this.#serve(incoming, response);
    });
  }

  static async start(plane: ControlPlane, cleanup: Cleanup): Promise<RudeProxy> {
    const proxy = new RudeProxy(plane);
    proxy.#server.listen(0, '127.0.0.1');
    await once(proxy.#server, 'listening');
    cleanup.add('proxy', () => proxy.#close());
    await proxy.accept();
    return proxy;
  }

  get url(): string {
    return `https://127.0.0.1:${this.#port}`;
  }

  /** Open now. */
  get connections(): number {
    return this.#links.size;
  }

  /** Since the start. */
  get accepted(): number {
    return this.#accepted;
  }

  /** Nothing listens and nothing is connected. */
  async refuse(): Promise<void> {
    const relay = this.#relay;
    this.#relay = null;
    this.reset();
    if (relay === null) return;
    relay.close();
    await once(relay, 'close');
  }

  /** Listens (again), on the port of before. */
  async accept(): Promise<void> {
    const inner = (this.#server.address() as AddressInfo).port;
    const relay = createRelay({ allowHalfOpen: true }, (client) => {
      const server = connect({ port: inner, host: '127.0.0.1', allowHalfOpen: true });
      this.#accepted += 1;
      this.#links.set(client, server);
      client.once('close', () => this.#links.delete(client));
      for (const [from, to] of [
        [client, server],
        [server, client],
      ] as const) {
        from.on('error', () => to.destroy());
        from.once('close', () => to.destroy());
        from.pipe(to);
      }
      if (this.#freezesAll) freezeLink(client, server);
    });
    relay.listen(this.#port, '127.0.0.1');
    await once(relay, 'listening');
    this.#port = (relay.address() as AddressInfo).port;
    this.#relay = relay;
  }

  /** RST to every connection. */
  reset(): void {
    for (const client of this.#links.keys()) client.resetAndDestroy();
  }

  /** FIN to every connection. */
  end(): void {
    for (const client of this.#links.keys()) client.end();
  }

  /** The connections of this moment stay open and say nothing more; new ones too when `all`. */
  freeze({ all }: { readonly all: boolean }): void {
    this.#freezesAll = all;
    for (const [client, server] of this.#links) freezeLink(client, server);
  }

  /** New connections work again; frozen ones stay frozen. */
  thaw(): void {
    this.#freezesAll = false;
  }

  /** The next `times` requests whose target contains `target` are answered with this code. */
  answer(code: number, times: number, target: string, headers: Readonly<Record<string, string>> = {}): void {
    this.#answer = { code, headers, target, left: times };
  }

  /** How many of the ordered answers are still to be given. */
  get answersLeft(): number {
    return this.#answer?.left ?? 0;
  }

  async #close(): Promise<void> {
    await this.refuse();
    this.#upstream.destroy();
    this.#server.close();
    this.#server.closeAllConnections();
    await once(this.#server, 'close');
  }

  #serve(incoming: IncomingMessage, response: ServerResponse): void {
    this.requests.push(`${incoming.method} ${incoming.url}`);
    incoming.on('error', () => undefined);
    response.on('error', () => undefined);
    const answer = this.#answer;
    if (answer !== null && answer.left > 0 && (incoming.url ?? '').includes(answer.target)) {
      answer.left -= 1;
      const status = { kind: 'Status', apiVersion: 'v1', status: 'Failure', code: answer.code, message: 'on command' };
      response.writeHead(answer.code, { 'content-type': 'application/json', ...answer.headers });
      response.end(JSON.stringify(status));
      return;
    }
    const { hostname, port } = new URL(this.#plane.url);
    const { method, url, headers } = incoming;
    const outgoing = request({ hostname, port, method, path: url, headers, agent: this.#upstream }, (from) => {
      response.writeHead(from.statusCode ?? 502, from.headers);
      response.flushHeaders();
      from.on('error', () => response.destroy());
      from.pipe(response);
    });
    outgoing.on('error', () => response.destroy());
    response.once('close', () => outgoing.destroy());
    incoming.pipe(outgoing);
  }
}

/** Whatever one side says never arrives at the other, an end neither. */
function freezeLink(client: Socket, server: Socket): void {
  client.unpipe(server);
  server.unpipe(client);
  client.pause();
  server.pause();
}
