/**
 * HTTP for probes and scrapes: `/livez` (the event loop turns), `/readyz` (200 or 503; `?verbose` lists the checks),
 * `/metrics`. Read-only; bound to the loopback unless the admin says otherwise.
 */
import { createServer, type Server, type ServerResponse } from 'node:http';
import { messageOf, VirtioUserError } from '../errors.ts';
import type { Logger } from '../telemetry/log.ts';
import type { ListenAddress } from './option-values.ts';

/** null: fine; otherwise why not, for people. */
export type Check = () => string | null;

export interface HealthParts {
  readonly checks: Readonly<Record<string, Check>>;
  readonly metrics: () => Promise<{ readonly contentType: string; readonly body: string }>;
  readonly log: Logger;
}

export class Health {
  readonly #parts: HealthParts;
  readonly #server: Server;

  constructor(parts: HealthParts) {
    this.#parts = parts;
    this.#server = createServer((request, response) => {
      request.resume();
      if (request.method !== 'GET' && request.method !== 'HEAD') {
        answer(response, 405, 'only GET\n');
        return;
      }
      void this.#serve(request.url ?? '', response);
    });
    this.#server.requestTimeout = 10_000;
    this.#server.headersTimeout = 10_000;
    this.#server.maxConnections = 64;
  }

  /** @returns the port that was bound. @throws VirtioUserError SYSCALL_FAILED */
  open({ host, port }: ListenAddress): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#server.once('error', (error) => {
        const message = `listen on ${host} port ${port} for health and metrics: ${error.message}`;
        const remedy = 'free the port, or give another --metrics-address';
        reject(new VirtioUserError('SYSCALL_FAILED', message, { remedy, cause: error }));
      });
      this.#server.listen({ host, port }, () => {
        const address = this.#server.address();
        resolve(typeof address === 'object' && address !== null ? address.port : port);
      });
    });
  }

  /** Names of the checks that fail. */
  get failing(): readonly string[] {
    return Object.entries(this.#parts.checks)
      .filter(([, check]) => check() !== null)
      .map(([name]) => name);
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  async #serve(url: string, response: ServerResponse): Promise<void> {
    try {
      const { pathname, searchParams } = new URL(url, 'http://localhost');
      if (pathname === '/livez' || pathname === '/healthz') answer(response, 200, 'ok\n');
      else if (pathname === '/readyz') this.#ready(response, searchParams.has('verbose'));
      else if (pathname === '/metrics') {
        const { contentType, body } = await this.#parts.metrics();
        answer(response, 200, body, contentType);
      } else answer(response, 404, 'there are /livez, /readyz, /metrics\n');
    } catch (error) {
      this.#parts.log.error({ error, url }, 'health request failed');
      answer(response, 500, `${messageOf(error)}\n`);
    }
  }

  #ready(response: ServerResponse, verbose: boolean): void {
    const results = Object.entries(this.#parts.checks).map(([name, check]) => ({ name, problem: check() }));
    const ready = results.every(({ problem }) => problem === null);
    const lines = results
      .filter(({ problem }) => verbose || problem !== null)
      .map(({ name, problem }) => (problem === null ? `[+] ${name}` : `[-] ${name}: ${problem}`));
    answer(response, ready ? 200 : 503, [...lines, ready ? 'ready' : 'not ready', ''].join('\n'));
  }
}

function answer(
  response: ServerResponse,
  status: number,
  body: string,
  contentType = 'text/plain; charset=utf-8',
): void {
  response.writeHead(status, { 'content-type': contentType, 'cache-control': 'no-store' });
  response.end(body);
}
