/** The few calls that the agent makes, each with a deadline, none of them on the data path. */
import {
  CoordinationV1Api,
  CustomObjectsApi,
  EventsV1Api,
  PatchStrategy,
  setHeaderOptions,
  V1MicroTime,
} from './client-node.ts';
import { apiFailure } from './failure.ts';
import { group, kind, type NodeStatus, plural, version } from './node-object.ts';
import type { PooledKubeConfig } from './pooled-config.ts';

export const fieldManager = 'virtio-user-agent';

export interface EventRecord {
  readonly namespace: string;
  readonly name: string;
  readonly type: 'Normal' | 'Warning';
  readonly reason: string;
  readonly action: string;
  /** At most 1024 bytes. */
  readonly note: string;
  readonly regarding: {
    readonly apiVersion: string;
    readonly kind: string;
    readonly name: string;
    readonly namespace?: string;
    readonly uid?: string;
  };
}

export class KubernetesApi {
  readonly #objects: CustomObjectsApi;
  readonly #events: EventsV1Api;
  readonly #leases: CoordinationV1Api;
  readonly #nodeName: string;

  constructor(config: PooledKubeConfig, nodeName: string) {
    this.#objects = config.makeApiClient(CustomObjectsApi);
    this.#events = config.makeApiClient(EventsV1Api);
    this.#leases = config.makeApiClient(CoordinationV1Api);
    this.#nodeName = nodeName;
  }

  /** Creates the node's object when it is missing, then applies the whole status that we own. */
  async applyNode({ unhealthy, ...rest }: NodeStatus): Promise<void> {
    // An empty list is no change only when it is left out.
    const status = unhealthy.length === 0 ? rest : { ...rest, unhealthy };
    const target = { group, version, plural, name: this.#nodeName, fieldManager, force: true };
    const apply = setHeaderOptions('Content-Type', PatchStrategy.ServerSideApply);
    const identity = { apiVersion: `${group}/${version}`, kind, metadata: { name: this.#nodeName } };
    try {
      await this.#objects.patchClusterCustomObjectStatus({ ...target, body: { ...identity, status } }, apply);
    } catch (error) {
      if (apiFailure(error).status !== 404) throw error;
      const body = { ...identity, spec: { nodeName: this.#nodeName } };
      await this.#objects.patchClusterCustomObject({ ...target, body }, apply);
      await this.#objects.patchClusterCustomObjectStatus({ ...target, body: { ...identity, status } }, apply);
    }
  }

  async createEvent(event: EventRecord): Promise<void> {
    await this.#events.createNamespacedEvent({
      namespace: event.namespace,
      fieldManager,
      body: {
        metadata: { name: event.name, namespace: event.namespace },
        eventTime: new V1MicroTime(),
        reportingController: 'virtio-user.dev/agent',
        reportingInstance: this.#nodeName,
        type: event.type,
        reason: event.reason,
        action: event.action,
        note: event.note,
        regarding: event.regarding,
      },
    });
  }

  /** Counts a repetition of an event that exists. @throws a 404 when it has expired */
  async repeatEvent(namespace: string, name: string, count: number): Promise<void> {
    await this.#events.patchNamespacedEvent(
      { namespace, name, fieldManager, body: { series: { count, lastObservedTime: new V1MicroTime() } } },
      setHeaderOptions('Content-Type', PatchStrategy.MergePatch),
    );
  }

  /** Renews the node's lease, making it when it is missing. */
  async renewLease(namespace: string, durationSeconds: number): Promise<void> {
    const name = `virtio-user-${this.#nodeName}`;
    const spec = {
      holderIdentity: this.#nodeName,
      leaseDurationSeconds: durationSeconds,
      renewTime: new V1MicroTime(),
    };
    try {
      const lease = await this.#leases.readNamespacedLease({ name, namespace });
      lease.spec = Object.assign(lease.spec ?? {}, spec);
      await this.#leases.replaceNamespacedLease({ name, namespace, fieldManager, body: lease });
    } catch (error) {
      if (apiFailure(error).status !== 404) throw error;
      await this.#leases.createNamespacedLease({
        namespace,
        fieldManager,
        body: { metadata: { name, namespace }, spec: { ...spec, acquireTime: new V1MicroTime() } },
      });
    }
  }
}
