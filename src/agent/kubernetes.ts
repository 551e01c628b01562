/**
 * What runs against the API server: the node's object, events, the lease, the view of this node's pods. Heavy: reached
 * only through the `import()` in `cluster.ts`.
 */
import { readFileSync } from 'node:fs';
import type { PodIdentity } from '../attachment/spec.ts';
import { KubernetesApi } from '../kubernetes/api.ts';
import { EventRecorder, type News } from '../kubernetes/event-recorder.ts';
import { apiFailure } from '../kubernetes/failure.ts';
import type { NodeView } from '../kubernetes/node-object.ts';
import { NodePods, whyKeepPod } from '../kubernetes/node-pods.ts';
import { PooledKubeConfig } from '../kubernetes/pooled-config.ts';
import { StatusPublisher } from '../kubernetes/status-publisher.ts';
import type { Logger } from '../telemetry/log.ts';
import type { Credentials } from './cluster.ts';
import { jittered } from './schedule.ts';

const renewEveryMs = 10_000;
const leaseSeconds = 40;
/** Computing the status asks every attachment: a burst of news counts once. */
const gatherMs = 100;
const namespacePath = '/var/run/secrets/kubernetes.io/serviceaccount/namespace';

export interface SessionParts {
  readonly credentials: Credentials;
  readonly nodeName: string;
  readonly view: () => NodeView;
  readonly log: Logger;
}

export class KubernetesSession {
  readonly #config: PooledKubeConfig;
  readonly #api: KubernetesApi;
  readonly #pods: NodePods;
  readonly #publisher: StatusPublisher;
  readonly #events: EventRecorder;
  readonly #log: Logger;
  readonly #namespace: string | null;
  #leaseTrouble: string | null = null;
  #renewal: NodeJS.Timeout | null = null;
  #gathering: NodeJS.Timeout | null = null;
  #closed = false;

  /** Starts at once; everything it does is in the background. @throws when the kubeconfig cannot be read */
  constructor({ credentials, nodeName, view, log: parent }: SessionParts) {
    const log = parent.child({ part: 'kubernetes' });
    this.#log = log;
    this.#config = new PooledKubeConfig();
    if (credentials.kind === 'kubeconfig') this.#config.loadFromFile(credentials.path);
    else this.#config.loadFromCluster();
    this.#namespace = agentNamespace(this.#config);
    this.#api = new KubernetesApi(this.#config, nodeName, log);
    this.#pods = new NodePods({ config: this.#config, nodeName, log });
    this.#publisher = new StatusPublisher({ api: this.#api, view, log });
    this.#events = new EventRecorder(this.#api, log);
    log.info({ credentials: credentials.kind, namespace: this.#namespace }, 'the Kubernetes API is used');
    this.#pods.start();
    this.#publisher.touch();
    void this.#renew();
  }

  record(news: News): void {
    this.#events.record(news);
  }

  touch(): void {
    this.#gathering ??= setTimeout(() => {
      this.#gathering = null;
      this.#publisher.touch();
    }, gatherMs).unref();
  }

  whyKeepPod(pod: PodIdentity): string | null {
    return whyKeepPod(this.#pods, pod);
  }

  /** Says that the agent stops. @throws what the API server says, or nothing for as long as it is silent */
  farewell(tooLate: AbortSignal): Promise<void> {
    return this.#publisher.farewell(tooLate);
  }

  async close(): Promise<void> {
    this.#closed = true;
    for (const timer of [this.#renewal, this.#gathering]) if (timer !== null) clearTimeout(timer);
    this.#publisher.stop();
    this.#events.stop();
    await this.#pods.stop();
    await this.#config.closeConnections();
  }

  /** Also looks at the state: not every change of it is told by a channel. */
  async #renew(): Promise<void> {
    this.#publisher.touch();
    try {
      if (this.#namespace !== null) await this.#api.renewLease(this.#namespace, leaseSeconds);
      if (this.#leaseTrouble !== null) this.#log.info({}, 'the lease is renewed again');
      this.#leaseTrouble = null;
    } catch (error) {
      const { status, reason } = apiFailure(error);
      if (this.#leaseTrouble === null && !this.#closed) this.#log.warn({ status, reason }, 'the lease is not renewed');
      this.#leaseTrouble = reason;
    }
    if (this.#closed) return;
    this.#renewal = setTimeout(() => void this.#renew(), jittered(renewEveryMs)).unref();
  }
}

/** Where the lease lives; null: nowhere. */
function agentNamespace(config: PooledKubeConfig): string | null {
  const fromPod = process.env['POD_NAMESPACE'] ?? '';
  if (fromPod !== '') return fromPod;
  try {
    return readFileSync(namespacePath, 'utf8').trim();
  } catch {
    const context = config.getContextObject(config.getCurrentContext());
    return context?.namespace ?? null;
  }
}
