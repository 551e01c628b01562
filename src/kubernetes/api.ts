/** The few calls that the agent makes, each with a deadline, none of them on the data path. */
import { type Logger, silentLogger } from '../telemetry/log.ts';
import {
  CoordinationV1Api,
  CoreV1Api,
  CustomObjectsApi,
  EventsV1Api,
  PatchStrategy,
  setHeaderOptions,
  V1MicroTime,
} from './client-node.ts';
import { apiFailure } from './failure.ts';
import { conditionsOf, group, kind, type NodeCondition, type NodeStatus, plural, version } from './node-object.ts';
import type { PooledKubeConfig } from './pooled-config.ts';

export const fieldManager = 'virtio-user-agent';

const serverSideApply = setHeaderOptions('Content-Type', PatchStrategy.ServerSideApply);

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

/** A node whose object cannot be read owns nothing that is made meanwhile. */
interface Owner {
  readonly apiVersion: 'v1';
  readonly kind: 'Node';
  readonly name: string;
  readonly uid: string;
}

export class KubernetesApi {
  readonly #core: CoreV1Api;
  readonly #objects: CustomObjectsApi;
  readonly #events: EventsV1Api;
  readonly #leases: CoordinationV1Api;
  readonly #nodeName: string;
  readonly #log: Logger;
  /** Whom our object belongs to, as far as this process has seen to it. */
  #owner: Owner | null = null;
  #toldOwnerless = false;

  constructor(config: PooledKubeConfig, nodeName: string, log: Logger = silentLogger) {
    this.#core = config.makeApiClient(CoreV1Api);
    this.#objects = config.makeApiClient(CustomObjectsApi);
    this.#events = config.makeApiClient(EventsV1Api);
    this.#leases = config.makeApiClient(CoordinationV1Api);
    this.#nodeName = nodeName;
    this.#log = log;
  }

  /** What an earlier agent wrote, as far as it can be understood. */
  async readConditions(): Promise<readonly NodeCondition[]> {
    try {
      const object: unknown = await this.#objects.getClusterCustomObject({
        ...{ group, version, plural },
        name: this.#nodeName,
      });
      return conditionsOf(object);
    } catch (error) {
      if (apiFailure(error).status === 404) return [];
      throw error;
    }
  }

  /**
   * Applies the whole status that we own. The object is made when it is missing, and belongs to the Node, so that it goes
   * with it.
   */
  async applyNode({ unhealthy, ...rest }: NodeStatus): Promise<void> {
    // An empty list is no change only when it is left out.
    const status = unhealthy.length === 0 ? rest : { ...rest, unhealthy };
    if (this.#owner === null) await this.#claim();
    try {
      await this.#applyStatus(status);
    } catch (error) {
      if (apiFailure(error).status !== 404) throw error;
      this.#owner = await this.#readOwner(); // it went with the Node, which is another one now
      await this.#applyObject(this.#owner);
      await this.#applyStatus(status);
    }
  }

  /** Without a Node to be read nothing happens: what is left out of an apply is taken away. */
  async #claim(): Promise<void> {
    const owner = await this.#readOwner();
    if (owner === null) return;
    try {
      await this.#applyObject(owner);
      this.#owner = owner;
    } catch (error) {
      // OwnerReferencesPermissionEnforcement lets nobody own an existing object who may not delete it.
      if (apiFailure(error).status !== 403) throw error;
      this.#tellOwnerless(error);
    }
  }

  async #applyObject(owner: Owner | null): Promise<void> {
    await this.#objects.patchClusterCustomObject(
      {
        ...this.#target,
        body: {
          ...this.#identity,
          metadata: { name: this.#nodeName, ...(owner === null ? {} : { ownerReferences: [owner] }) },
          spec: { nodeName: this.#nodeName },
        },
      },
      serverSideApply,
    );
  }

  async #applyStatus(status: object): Promise<void> {
    const body = { ...this.#identity, status };
    await this.#objects.patchClusterCustomObjectStatus({ ...this.#target, body }, serverSideApply);
  }

  get #target() {
    return { group, version, plural, name: this.#nodeName, fieldManager, force: true };
  }

  get #identity() {
    return { apiVersion: `${group}/${version}`, kind, metadata: { name: this.#nodeName } };
  }

  async #readOwner(): Promise<Owner | null> {
    try {
      const { metadata } = await this.#core.readNode({ name: this.#nodeName });
      const uid = metadata?.uid ?? '';
      return uid === '' ? null : { apiVersion: 'v1', kind: 'Node', name: this.#nodeName, uid };
    } catch (error) {
      const { status } = apiFailure(error);
      if (status !== 403 && status !== 404) throw error;
      this.#tellOwnerless(error);
      return null;
    }
  }

  #tellOwnerless(error: unknown): void {
    if (this.#toldOwnerless) return;
    this.#toldOwnerless = true;
    const { status, reason } = apiFailure(error);
    this.#log.warn({ status, reason }, 'the node object will not go with its Node');
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

  /** Renews the node's lease, making it when it is missing; it belongs to the Node too. */
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
      const owner = await this.#readOwner();
      await this.#leases.createNamespacedLease({
        namespace,
        fieldManager,
        body: {
          metadata: { name, namespace, ...(owner === null ? {} : { ownerReferences: [owner] }) },
          spec: { ...spec, acquireTime: new V1MicroTime() },
        },
      });
    }
  }
}
