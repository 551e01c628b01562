/** HTTP over a unix socket: both ends of the introspection. */
import { request } from 'node:http';
import { VirtioUserError } from '../errors.ts';

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
  return new Promise((resolve, reject) => {
    const outgoing = request({ socketPath, method, path, timeout: timeoutMs, agent: false }, (response) => {
      const chunks: Buffer[] = [];
      response.on('data', (chunk: Buffer) => chunks.push(chunk));
      response.on('error', reject);
      response.on('end', () => {
        resolve({ status: response.statusCode ?? 0, body: Buffer.concat(chunks).toString() });
      });
    });
    outgoing.on('timeout', () =>
      outgoing.destroy(
        new VirtioUserError('TIMEOUT', `${method} ${path} on ${socketPath}: no answer in ${timeoutMs} ms`),
      ),
    );
    outgoing.on('error', (error) => {
      reject(
        error instanceof VirtioUserError
          ? error
          : new VirtioUserError('AGENT_NOT_READY', `${method} ${path} on ${socketPath}: ${error.message}`, {
              remedy: 'start the agent, or give its --run-dir; only root may ask',
              cause: error,
            }),
      );
    });
    outgoing.end();
  });
}
