/**
 * The agent's link to the cluster. Light: the client itself is imported only when it is wanted and there are credentials,
 * after the agent is ready, so that it costs nothing when off and no pod waits for it. An agent that takes long to be
 * ready is told of all the same: what its predecessor said would stand.
 */
import { existsSync } from 'node:fs';
import type { PodIdentity } from '../attachment/spec.ts';
import type { Timers } from '../clock.ts';
import { VirtioUserError } from '../errors.ts';
import type { News } from '../kubernetes/event-recorder.ts';
import type { NodeView } from '../kubernetes/node-object.ts';
import type { Logger } from '../telemetry/log.ts';
import { listenForNews } from './cluster-news.ts';
import type { KubernetesSession } from './kubernetes.ts';
import type { AgentOptions } from './options.ts';

export type Credentials =
  | { readonly kind: 'kubeconfig'; readonly path: string }
  /** The pod's service account; its files are read anew whenever they change. */
  | { readonly kind: 'in-cluster' };

type Environment = Readonly<Record<string, string | undefined>>;

const tokenPath = '/var/run/secrets/kubernetes.io/serviceaccount/token';
/** What happens before the client is loaded: the ready attachments of a full node fit. */
const newsLimit = 500;
/** Longer than a start with records, backends and an IPAM plugin that hangs on a queued DEL. */
const slowStartMs = 8_000;
/** Of the whole life of an agent the least important thing. */
const farewellMs = 2_000;

/**
 * @returns null: no use of the API
 * @throws VirtioUserError CONFIG_INVALID when it is asked for and there are no credentials
 */
export function findCredentials(
  mode: AgentOptions['kubernetes'],
  environment: Environment,
  exists: (path: string) => boolean = existsSync,
): Credentials | null {
  if (mode === 'off') return null;
  const path = environment['KUBECONFIG'] ?? '';
  if (path !== '') return { kind: 'kubeconfig', path };
  const address = environment['KUBERNETES_SERVICE_HOST'] ?? '';
  if (address !== '' && exists(tokenPath)) return { kind: 'in-cluster' };
  if (mode === 'auto') return null;
  const missing = address === '' ? 'KUBERNETES_SERVICE_HOST is not set' : `there is no ${tokenPath}`;
  throw new VirtioUserError('CONFIG_INVALID', `--kubernetes=on: no credentials: ${missing}, nor is KUBECONFIG`, {
    remedy: 'run the agent with its service account, set KUBECONFIG, or use --kubernetes=auto or --kubernetes=off',
  });
}

export interface ClusterParts {
  readonly credentials: Credentials | null;
  readonly nodeName: string;
  readonly view: () => NodeView;
  readonly log: Logger;
}

export class Cluster {
  readonly #parts: ClusterParts;
  readonly #stopListening: () => void;
  #early: News[] = [];
  #session: KubernetesSession | null = null;
  #opening: Promise<void> | null = null;
  #closed = false;

  constructor(parts: ClusterParts) {
    this.#parts = parts;
    const { credentials, nodeName } = parts;
    this.#stopListening =
      credentials === null
        ? () => undefined
        : listenForNews({
            nodeName,
            tell: (news) => {
              if (this.#session !== null) this.#session.record(news);
              else if (this.#early.length < newsLimit) this.#early.push(news);
            },
            touch: () => this.#session?.touch(),
          });
  }

  /**
   * Opens when the agent has started, or is slow to. Resolves with the start, and does not wait for the cluster.
   * @throws what `started` does
   */
  async openAfter(started: Promise<void>, clock: Pick<Timers, 'after'>): Promise<void> {
    const cancel = clock.after(slowStartMs, () => {
      this.#parts.log.warn(
        { afterMs: slowStartMs },
        'the agent is slow to start; the cluster is told that it is not ready',
      );
      void this.open();
    });
    try {
      await started;
    } finally {
      cancel();
    }
    void this.open();
  }

  /** Loads the client and starts it; once it runs, looks at the state. Never rejects: the node works without it. */
  async open(): Promise<void> {
    this.#opening ??= this.#open();
    await this.#opening;
    this.#session?.touch();
  }

  async #open(): Promise<void> {
    const { credentials, nodeName, view, log } = this.#parts;
    if (credentials === null) return;
    try {
      const { KubernetesSession: Session } = await import('./kubernetes.ts');
      if (this.#closed) return;
      this.#session = new Session({ credentials, nodeName, view, log });
      for (const news of this.#early) this.#session.record(news);
    } catch (error) {
      this.#stopListening();
      log.error({ error }, 'no use of the Kubernetes API: its client cannot start');
    } finally {
      this.#early = [];
    }
  }

  /**
   * To be called before anything is let go: tells the cluster that this agent stops. Never rejects, and never takes
   * longer than its bound, since a kubelet waits for our end.
   */
  async farewell(): Promise<void> {
    const session = this.#session;
    if (session === null) return;
    const { log } = this.#parts;
    const { promise: bound, reject } = Promise.withResolvers<never>();
    const tooLate = new AbortController();
    const timer = setTimeout(() => {
      const error = new Error(`no answer in ${farewellMs} ms`);
      tooLate.abort(error);
      reject(error);
    }, farewellMs);
    try {
      await Promise.race([session.farewell(tooLate.signal), bound]);
    } catch (error) {
      log.warn({ error }, 'the cluster could not be told that the agent stops');
    } finally {
      clearTimeout(timer);
    }
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#stopListening();
    await this.#session
      ?.close()
      .catch((error: unknown) => this.#parts.log.warn({ error }, 'closing the client failed'));
  }

  /**
   * Why nothing of this pod may be removed on suspicion, or null. Without the API the namespace alone is the witness.
   * With it the pod must be known to be gone, and a record that names none cannot be looked up: it stays until its DEL.
   */
  whyKeepPod(pod: PodIdentity | null): string | null {
    if (this.#parts.credentials === null) return null;
    if (pod === null) return 'it names no pod that could be looked up';
    return this.#session === null ? 'the pods of this node are not known yet' : this.#session.whyKeepPod(pod);
  }
}
