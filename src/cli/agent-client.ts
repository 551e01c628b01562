/** The running agent as the commands see it. */
import { join } from 'node:path';
import type { AttachmentReport } from '../agent/introspect.ts';
import { resolveRunDir } from '../agent/options.ts';
import { introspectionSocketName, requestOverSocket } from '../agent/http-client.ts';
import { type ErrorCode, errorCodes, messageOf, VirtioUserError } from '../errors.ts';
import type { Arguments } from './command.ts';

/** Found as the agent finds it. @throws VirtioUserError CONFIG_INVALID */
export function runDirOf(args: Arguments): string {
  return resolveRunDir({ flags: { 'run-dir': args['run-dir'] }, environment: process.env });
}

export class AgentClient {
  readonly #socketPath: string;

  constructor(runDir: string) {
    this.#socketPath = join(runDir, introspectionSocketName);
  }

  async attachments(): Promise<readonly AttachmentReport[]> {
    return (await this.#call('GET', '/attachments')) as readonly AttachmentReport[];
  }

  /** @throws VirtioUserError ATTACHMENT_UNKNOWN */
  async attachment(id: string): Promise<AttachmentReport> {
    return (await this.#call('GET', `/attachments/${checkedId(id)}`)) as AttachmentReport;
  }

  async reconnect(id: string): Promise<void> {
    await this.#call('POST', `/attachments/${checkedId(id)}/reconnect`);
  }

  /** @throws VirtioUserError ATTACHMENT_UNKNOWN, DEVICE_NOT_RUNNING, CONTROL_REFUSED, … */
  async setQueuePairs(id: string, pairs: number): Promise<void> {
    await this.#call('POST', `/attachments/${checkedId(id)}/queue-pairs/${pairs}`, 30_000);
  }

  /** What reconciliation did, as the agent tells it. */
  reconcile(): Promise<unknown> {
    return this.#call('POST', '/reconcile', 120_000);
  }

  async #call(method: 'GET' | 'POST', path: string, timeoutMs?: number): Promise<unknown> {
    const answer = await requestOverSocket(this.#socketPath, method, path, timeoutMs);
    let body: unknown;
    try {
      body = JSON.parse(answer.body);
    } catch (error) {
      throw new VirtioUserError('BUG', `${method} ${path}: the agent's answer is not JSON: ${messageOf(error)}`);
    }
    if (answer.status < 300) return body;
    const told = errorTexts(body);
    throw new VirtioUserError(
      codeOf(told.code),
      told.message ?? `${method} ${path}: status ${answer.status}`,
      told.remedy === null ? {} : { remedy: told.remedy },
    );
  }
}

/** What nobody foresaw has a code of the system, or none; a newer agent may have codes that are not known here. */
function codeOf(told: string | null): ErrorCode {
  return errorCodes.find((code) => code === told) ?? 'SYSCALL_FAILED';
}

function checkedId(id: string): string {
  if (/^vu[0-9a-f]{12}$/.test(id)) return id;
  throw new VirtioUserError('CONFIG_INVALID', `id: ${JSON.stringify(id)} is not "vu" and 12 hexadecimal digits`, {
    remedy: 'virtio-user-cni attachments list shows the ids',
  });
}

function errorTexts(body: unknown): Readonly<Record<'code' | 'message' | 'remedy', string | null>> {
  const error = typeof body === 'object' && body !== null && 'error' in body ? body.error : null;
  const text = (name: string): string | null => {
    if (typeof error !== 'object' || error === null || !(name in error)) return null;
    const value: unknown = Object.getOwnPropertyDescriptor(error, name)?.value;
    return typeof value === 'string' ? value : null;
  };
  return { code: text('code'), message: text('message'), remedy: text('remedy') };
}
