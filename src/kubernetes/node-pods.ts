/**
 * The pods of this node, kept current by a watch that restarts after whatever happens to it: resets, silence, 403, 410,
 * 500, missing token files. Only a field selector on the node name goes to the server. Answers carry what they are
 * worth: until the first list has come, and while there is none, nothing may be concluded from a pod's absence.
 *
 * Every watch begins with a list. To go on from the last version seen would be cheaper, but an API server whose etcd was
 * restored from a backup knows lower ones: it accepts a watch from the future and says nothing, then leaves out what it
 * had done until it got there. One node's pods are a small list, and a watch lasts at least `idleMs` of silence, five to
 * ten minutes otherwise (bookmarks break the silence about once a minute).
 */
import type { Logger } from '../telemetry/log.ts';
import { CoreV1Api, ListWatch } from './client-node.ts';
import { apiFailure } from './failure.ts';
import type { PooledKubeConfig } from './pooled-config.ts';
import { SafeWatch } from './safe-watch.ts';

export interface PodSummary {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
  /** Of a static pod: what its kubelet calls it by; the API server gave its mirror another uid. Else empty. */
  readonly staticUid: string;
  /** Succeeded or Failed: its sandbox may go any time. */
  readonly ended: boolean;
}

export interface NodePodsOptions {
  readonly config: PooledKubeConfig;
  readonly nodeName: string;
  readonly log: Logger;
  /** Silence that makes the watch reconnect, milliseconds. */
  readonly idleMs?: number;
  /** First and longest wait before a restart, milliseconds. */
  readonly backoffMs?: readonly [number, number];
}

export class NodePods {
  readonly #log: Logger;
  readonly #informer: ListWatch<Pod>;
  readonly #backoffMs: readonly [number, number];
  #failures = 0;
  #timer: NodeJS.Timeout | null = null;
  #stopped = false;
  #listed = false;
  #lastError: string | null = null;

  constructor({ config, nodeName, log, idleMs = 90_000, backoffMs = [1_000, 30_000] }: NodePodsOptions) {
    this.#log = log;
    this.#backoffMs = backoffMs;
    const api = config.makeApiClient(CoreV1Api);
    const fieldSelector = `spec.nodeName=${nodeName}`;
    const list = async (): Promise<Awaited<ReturnType<CoreV1Api['listPodForAllNamespaces']>>> => {
      const pods = await api.listPodForAllNamespaces({ fieldSelector });
      this.#listed = true;
      return pods;
    };
    this.#informer = new ListWatch<Pod>(
      '/api/v1/pods',
      new SafeWatch(config, idleMs, () => this.#recovered()),
      list,
      false,
      undefined,
      fieldSelector,
    );
    // It lists when it has no version. A private field, but all other ways give up on the watch as well.
    this.#informer.on('connect', () => Reflect.set(this.#informer, 'resourceVersion', ''));
    this.#informer.on('error', (error: unknown) => this.#failed(error));
  }

  start(): void {
    this.#informer.start().catch((error: unknown) => this.#failed(error));
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    if (this.#timer !== null) clearTimeout(this.#timer);
    await this.#informer.stop();
    await this.#informer.stop(); // a stop during connect leaves the first request behind
  }

  /** null: not known, draw no conclusion. */
  list(): readonly PodSummary[] | null {
    if (!this.#listed || this.#lastError !== null) return null;
    return this.#informer.list().map((pod) => ({
      namespace: pod.metadata?.namespace ?? '',
      name: pod.metadata?.name ?? '',
      uid: pod.metadata?.uid ?? '',
      staticUid: pod.metadata?.annotations?.['kubernetes.io/config.hash'] ?? '',
      ended: pod.status?.phase === 'Succeeded' || pod.status?.phase === 'Failed',
    }));
  }

  /** Why the view is not current, or null. */
  get trouble(): string | null {
    return this.#lastError ?? (this.#listed ? null : 'no list yet');
  }

  #recovered(): void {
    if (this.#lastError !== null) this.#log.info({ failures: this.#failures }, 'pod watch works again');
    this.#failures = 0;
    this.#lastError = null;
  }

  #failed(error: unknown): void {
    if (this.#stopped || this.#timer !== null) return; // stop() itself reports an AbortError
    const failure = apiFailure(error);
    this.#lastError = failure.reason;
    const [first, longest] = this.#backoffMs;
    const backoff = Math.min(longest, first * 2 ** this.#failures++);
    const delayMs = Math.max(failure.retryAfterMs ?? 0, backoff * (0.8 + Math.random() * 0.4));
    this.#log.warn({ status: failure.status, reason: failure.reason, delayMs: Math.round(delayMs) }, 'pod watch ended');
    this.#timer = setTimeout(() => {
      this.#timer = null;
      this.start();
    }, delayMs);
    this.#timer.unref();
  }
}

type Pod = Awaited<ReturnType<CoreV1Api['listPodForAllNamespaces']>>['items'][number];

/**
 * Why nothing of this pod may be removed on suspicion, or null: it is there and has not ended, or nobody can say. What a
 * kubelet calls a static pod by is not the uid of its mirror.
 */
export function whyKeepPod(
  pods: Pick<NodePods, 'list' | 'trouble'>,
  pod: { readonly namespace: string; readonly name: string; readonly uid: string },
): string | null {
  if (pod.namespace === '') return `the namespace of pod ${pod.name} is not known`;
  const known = pods.list();
  if (known === null) return `the pods of this node are not known: ${pods.trouble ?? 'no list yet'}`;
  // The agent is a pod itself: a node without any is another node's name, and would cost every pod its address.
  if (known.length === 0) return 'the API server knows no pod of this node at all';
  const there = known.some(
    ({ namespace, name, uid, staticUid, ended }) =>
      !ended && namespace === pod.namespace && name === pod.name && ['', uid, staticUid].includes(pod.uid),
  );
  return there ? `pod ${pod.namespace}/${pod.name} is there` : null;
}
