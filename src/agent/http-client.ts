/** Asks the agent over HTTP: its introspection on a unix socket, its health on TCP. */
import { request, type RequestOptions } from 'node:http';
import { VirtioUserError } from '../errors.ts';
import type { ListenAddress } from './option-values.ts';

export interface HttpAnswer {
  readonly status: number;
  readonly body: string;
}

export const introspectionSocketName = 'introspect.sock';

/** @throws VirtioUserError AGENT_NOT_READY when nobody answers, TIMEOUT */
export function requestOverSocket(
  socketPath: string,
  method: 'GET' | 'POST',
  path: string,
  timeoutMs = 30_000,
): Promise<HttpAnswer> {
  const remedy = 'start the agent, or give its --run-dir; only root may ask';
  return ask({ socketPath, method, path, timeout: timeoutMs }, `${method} ${path} on ${socketPath}`, remedy);
}

/** @throws VirtioUserError AGENT_NOT_READY when nobody answers, TIMEOUT */
export function requestOverHttp({ host, port }: ListenAddress, path: string, timeoutMs = 3_000): Promise<HttpAnswer> {
  const remedy = 'start the agent, or give its --metrics-address';
  return ask({ host, port, path, timeout: timeoutMs }, `GET ${path} on ${host} port ${port}`, remedy);
}

function ask(options: RequestOptions, what: string, remedy: string): Promise<HttpAnswer> {
  return new Promise((resolve, reject) => {
    const outgoing = request({ ...options, agent: false }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () => {
        resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString() });
      });
    });
    outgoing.on('timeout', () =>
      outgoing.destroy(new VirtioUserError('TIMEOUT', `${what}: no answer in ${String(options.timeout)} ms`)),
    );
    outgoing.on('error', (cause) => {
      const absent = new VirtioUserError('AGENT_NOT_READY', `${what}: ${cause.message}`, { remedy, cause });
      reject(cause instanceof VirtioUserError ? cause : absent);
    });
    outgoing.end();
  });
}
