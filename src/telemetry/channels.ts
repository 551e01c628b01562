/**
 * What happens to attachments, for whoever wants to know: metrics, logs, Kubernetes events. Published where it is
 * decided, so that rooms below never import those above. A channel nobody listens to costs nothing.
 */
import { channel, type Channel } from 'node:diagnostics_channel';

interface AttachmentEvent {
  readonly id: string;
  readonly networkName: string;
  readonly containerId: string;
  readonly ifName: string;
  readonly podNamespace: string;
  readonly podName: string;
  readonly podUid: string;
}

export interface AttachmentReady extends AttachmentEvent {
  /** Feature names. */
  readonly acked: readonly string[];
}

export interface BackendDisconnected extends AttachmentEvent {
  readonly reason: string;
}

export interface BackendReconnected extends AttachmentEvent {
  readonly outageMs: number;
  /** Features that the backend lacks since. */
  readonly degradedBy: readonly string[];
}

export interface FeatureMismatch extends AttachmentEvent {
  readonly missing: readonly string[];
}

export interface OrphanRemoved {
  readonly kind: 'attachment' | 'ovs-port';
  readonly id: string;
  readonly reason: string;
}

export interface StateCorrupt {
  readonly path: string;
  readonly reason: string;
}

interface Payloads {
  readonly attachmentReady: AttachmentReady;
  readonly backendDisconnected: BackendDisconnected;
  readonly backendReconnected: BackendReconnected;
  readonly featureMismatch: FeatureMismatch;
  readonly orphanRemoved: OrphanRemoved;
  readonly stateCorrupt: StateCorrupt;
}

export type ChannelName = keyof Payloads;

const channels: Readonly<Record<ChannelName, Channel>> = {
  attachmentReady: channel('virtio-user:attachment-ready'),
  backendDisconnected: channel('virtio-user:backend-disconnected'),
  backendReconnected: channel('virtio-user:backend-reconnected'),
  featureMismatch: channel('virtio-user:feature-mismatch'),
  orphanRemoved: channel('virtio-user:orphan-removed'),
  stateCorrupt: channel('virtio-user:state-corrupt'),
};

export function publish<Name extends ChannelName>(name: Name, payload: Payloads[Name]): void {
  channels[name].publish(payload);
}

/** @returns how to stop listening */
export function subscribe<Name extends ChannelName>(
  name: Name,
  listener: (payload: Payloads[Name]) => void,
): () => void {
  const heard = (payload: unknown): void => listener(payload as Payloads[Name]);
  channels[name].subscribe(heard);
  return () => void channels[name].unsubscribe(heard);
}
