/**
 * What a person may ask of the running agent, as HTTP on `RUN_DIR/introspect.sock` (0600, so root only):
 *   GET  /attachments                  views of all
 *   GET  /attachments/{id}             one view
 *   POST /attachments/{id}/reconnect   drop the backend connection and start anew
 *   POST /attachments/{id}/queue-pairs/{pairs}   how many queue pairs carry traffic
 *   POST /reconcile                    compare records with reality now; answers what was done
 * Bodies are JSON; feature masks are hexadecimal text, counters decimal text.
 */
import { rmSync } from 'node:fs';
import { createServer, type IncomingMessage, type Server, type ServerResponse } from 'node:http';
import { connect } from 'node:net';
import { join } from 'node:path';
import type { AttachmentView, Attachments } from '../attachment/api.ts';
import { errnoOf, messageOf, VirtioUserError } from '../errors.ts';
import { describeError, type Logger } from '../telemetry/log.ts';
import { formatMask } from '../virtio/feature.ts';
import { introspectionSocketName } from './http-client.ts';

/** A view as JSON: bigints as text, features by name. */
export type AttachmentReport = Omit<
  AttachmentView,
  'offeredFeatures' | 'ackedFeatures' | 'localFeatures' | 'unsupportedFeatures' | 'counters'
> & {
  readonly offeredFeatures: FeatureReport | null;
  readonly ackedFeatures: FeatureReport | null;
  readonly localFeatures: FeatureReport | null;
  readonly unsupportedFeatures: FeatureReport | null;
  readonly counters: CounterReport | null;
};

export interface FeatureReport {
  /** `0x…` */
  readonly mask: string;
  readonly names: readonly string[];
}

export interface CounterReport {
  readonly txFrames: string;
  readonly txBytes: string;
  readonly rxFrames: string;
  readonly rxBytes: string;
  readonly drops: Readonly<Record<string, string>>;
  readonly events: Readonly<Record<string, string>>;
}

export interface IntrospectionParts {
  readonly attachments: Pick<Attachments, 'list' | 'reconnect' | 'setQueuePairs'>;
  readonly reconcile: () => Promise<unknown>;
  readonly featureNames: (mask: bigint) => readonly string[];
  readonly log: Logger;
}

export function reportOf(view: AttachmentView, featureNames: IntrospectionParts['featureNames']): AttachmentReport {
  const features = (mask: bigint | null): FeatureReport | null =>
    mask === null ? null : { mask: formatMask(mask), names: featureNames(mask) };
  const text = (values: Readonly<Record<string, bigint>>): Record<string, string> =>
    Object.fromEntries(Object.entries(values).map(([name, value]) => [name, value.toString()]));
  const { counters } = view;
  return {
    ...view,
    offeredFeatures: features(view.offeredFeatures),
    ackedFeatures: features(view.ackedFeatures),
    localFeatures: features(view.localFeatures),
    unsupportedFeatures: features(view.unsupportedFeatures),
    counters:
      counters === null
        ? null
        : {
            txFrames: counters.txFrames.toString(),
            txBytes: counters.txBytes.toString(),
            rxFrames: counters.rxFrames.toString(),
            rxBytes: counters.rxBytes.toString(),
            drops: text(counters.drops),
            events: text(counters.events),
          },
  };
}

export class Introspection {
  readonly #parts: IntrospectionParts;
  readonly #server: Server;

  constructor(parts: IntrospectionParts) {
    this.#parts = parts;
    this.#server = createServer((request, response) => {
      void this.#serve(request, response);
    });
    this.#server.requestTimeout = 10_000;
    this.#server.maxConnections = 64;
  }

  /** The agent's lock says that no other agent lives, so a socket file that nobody answers on is a leftover. */
  async open(runDir: string): Promise<void> {
    const path = join(runDir, introspectionSocketName);
    if (await answers(path)) {
      throw new VirtioUserError('CONFLICT_SOCKET', `listen on ${path}: another process answers there`);
    }
    rmSync(path, { force: true });
    await new Promise<void>((resolve, reject) => {
      this.#server.once('error', (error) => {
        const details = { syscall: 'listen', errno: errnoOf(error) };
        reject(new VirtioUserError('SYSCALL_FAILED', `listen on ${path}: ${error.message}`, { details, cause: error }));
      });
      // `listen` on a path binds before it returns, so the socket never exists with wider permissions.
      const umask = process.umask(0o177);
      this.#server.listen(path, resolve);
      process.umask(umask);
    });
  }

  close(): void {
    this.#server.close();
    this.#server.closeAllConnections();
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    request.resume();
    let status: number;
    let body: unknown;
    try {
      ({ status, body } = await this.#answer(request.method ?? '', request.url ?? ''));
    } catch (error) {
      status = statusOf(error);
      body = { error: describeError(error) };
      if (status === 500) this.#parts.log.error({ error, path: request.url }, 'introspection failed');
    }
    response.writeHead(status, { 'content-type': 'application/json' });
    response.end(`${JSON.stringify(body)}\n`);
  }

  async #answer(method: string, url: string): Promise<{ readonly status: number; readonly body: unknown }> {
    const { attachments, featureNames } = this.#parts;
    const path = url.split('?')[0] ?? '';
    if (method === 'GET' && path === '/attachments') {
      return { status: 200, body: attachments.list().map((view) => reportOf(view, featureNames)) };
    }
    if (method === 'POST' && path === '/reconcile') return { status: 200, body: await this.#parts.reconcile() };
    const [, switched, pairs] = /^\/attachments\/(vu[0-9a-f]{12})\/queue-pairs\/(\d{1,5})$/.exec(path) ?? [];
    if (method === 'POST' && switched !== undefined) {
      await attachments.setQueuePairs(switched, Number(pairs));
      return { status: 200, body: { id: switched, queuePairs: Number(pairs) } };
    }
    const [, id = '', action] = /^\/attachments\/(vu[0-9a-f]{12})(?:\/(reconnect))?$/.exec(path) ?? [];
    if (id !== '' && (action === undefined) === (method === 'GET')) {
      const view = attachments.list().find((candidate) => candidate.id === id);
      if (view === undefined) throw new VirtioUserError('ATTACHMENT_UNKNOWN', `there is no attachment ${id}`);
      if (method === 'GET') return { status: 200, body: reportOf(view, featureNames) };
      if (method === 'POST') {
        await attachments.reconnect(id);
        return { status: 202, body: { id } };
      }
    }
    return { status: 404, body: { error: { code: 'INPUT_FRAME', message: `nothing answers to ${method} ${path}` } } };
  }
}

/** What the caller can mend is 409; what is broken here 500. */
function statusOf(error: unknown): number {
  if (!(error instanceof VirtioUserError)) return 500;
  if (error.code === 'ATTACHMENT_UNKNOWN') return 404;
  return error.code === 'CONTROL_REFUSED' || error.code === 'DEVICE_NOT_RUNNING' || error.code === 'NOT_NEGOTIATED'
    ? 409
    : 500;
}

function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = connect(path);
    probe.once('connect', () => {
      probe.destroy();
      resolve(true);
    });
    probe.once('error', (error) => {
      probe.destroy();
      resolve(!['ENOENT', 'ECONNREFUSED'].includes(errnoOf(error) ?? messageOf(error)));
    });
  });
}
