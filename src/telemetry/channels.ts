/**
 * What happens to attachments, told to whoever subscribes (metrics, logs, Kubernetes events): channels of
 * `node:diagnostics_channel`, one per kind of event, so that the life cycle imports nobody above it.
 *
 * Subscribers run on the publisher's stack and must not throw; what they throw goes to `uncaughtException`.
 */
import { channel } from 'node:diagnostics_channel';

/** Whom an event is about. */
export interface AttachmentIdentity {
  readonly id: string;
  readonly networkName: string;
  readonly containerId: string;
  readonly ifName: string;
  readonly pod: { readonly namespace: string; readonly name: string; readonly uid: string } | null;
}

/** `crash`: what an interrupted ADD or DEL left; `reboot`: of an earlier boot of the node. */
export type RemovalReason = 'del' | 'gc' | 'reconcile' | 'reboot' | 'crash';

export interface ChannelPayloads {
  /** ADD has made it, or a record was taken up again after a restart of the agent. */
  readonly attachmentReady: { readonly attachment: AttachmentIdentity; readonly restored: boolean };
  readonly attachmentRemoved: {
    readonly attachment: AttachmentIdentity;
    readonly by: RemovalReason;
  };
  /** The first backend of an attachment is there: frames move. */
  readonly backendConnected: { readonly attachment: AttachmentIdentity; readonly features: bigint };
  readonly backendDisconnected: { readonly attachment: AttachmentIdentity; readonly reason: string };
  /** Frames move again; the outage counts from the disconnect. */
  readonly backendReconnected: {
    readonly attachment: AttachmentIdentity;
    readonly outageMs: number;
    readonly features: bigint;
  };
  /** `parked`: the attachment stands still until a backend offers `missing`; otherwise it runs on without it. */
  readonly featureMismatch: {
    readonly attachment: AttachmentIdentity;
    readonly parked: boolean;
    readonly missing: readonly string[];
  };
  /** The same step of the handshake fails again and again; attempts go on. */
  readonly attachmentDegraded: {
    readonly attachment: AttachmentIdentity;
    readonly failures: number;
    readonly reason: string;
  };
  /** The backend did what none may do; its port does without it until there is a new connection. */
  readonly portBroken: {
    readonly attachment: AttachmentIdentity;
    readonly kind: 'ring-corrupt' | 'kick-blocked' | 'memory-lost';
    readonly reason: string;
  };
  /** At its orderly end a backend named an index of a ring that cannot be; it was not used. */
  readonly vringBaseImplausible: { readonly attachment: AttachmentIdentity; readonly reason: string };
  readonly orphanRemoved: { readonly kind: 'attachment' | 'ovs-port'; readonly id: string; readonly reason: string };
  /** A record cannot be read; it lies at `path`. */
  readonly stateCorrupt: { readonly id: string; readonly path: string; readonly reason: string };
}

export type ChannelName = keyof ChannelPayloads;

const prefix = 'virtio-user:';

export function publish<Name extends ChannelName>(name: Name, payload: ChannelPayloads[Name]): void {
  channel(prefix + name).publish(payload);
}

/** @returns ends the subscription */
export function subscribe<Name extends ChannelName>(
  name: Name,
  handler: (payload: ChannelPayloads[Name]) => void,
): () => void {
  const target = channel(prefix + name);
  // `publish` above is the only publisher on channels of this prefix.
  const listener = (message: unknown): void => handler(message as ChannelPayloads[Name]);
  target.subscribe(listener);
  return () => target.unsubscribe(listener);
}
