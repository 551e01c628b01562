/** From what happens to attachments to what the cluster is told of it. */
import type { EventSubject, News } from '../kubernetes/event-recorder.ts';
import { type AttachmentIdentity, subscribe } from '../telemetry/channels.ts';

export interface NewsParts {
  readonly nodeName: string;
  readonly tell: (news: News) => void;
  /** The node's state may have changed. */
  readonly touch: () => void;
}

/** @returns how to stop */
export function listenForNews({ nodeName, tell, touch }: NewsParts): () => void {
  // Kubelets use the name as uid in events of nodes, and `kubectl describe node` looks for it.
  const node: EventSubject = { kind: 'Node', namespace: '', name: nodeName, uid: nodeName };
  const subject = ({ pod }: AttachmentIdentity): EventSubject => (pod === null ? node : { kind: 'Pod', ...pod });
  const label = ({ ifName, id }: AttachmentIdentity): string => `${ifName} (${id})`;
  const stops = [
    subscribe('attachmentReady', ({ attachment, restored }) => {
      touch();
      if (restored || attachment.pod === null) return; // a restart of the agent is no news to a pod
      const note = `${label(attachment)} on network ${attachment.networkName} is attached`;
      tell({ subject: subject(attachment), reason: 'AttachmentReady', note, type: 'Normal' });
    }),
    subscribe('attachmentRemoved', touch),
    subscribe('backendConnected', touch),
    subscribe('backendDisconnected', ({ attachment, reason }) => {
      touch();
      const note = `${label(attachment)}: the backend is gone: ${reason}`;
      tell({ subject: subject(attachment), reason: 'BackendDisconnected', note, type: 'Warning' });
    }),
    subscribe('backendReconnected', ({ attachment, outageMs }) => {
      touch();
      const note = `${label(attachment)}: frames move again after ${Math.round(outageMs)} ms`;
      tell({ subject: subject(attachment), reason: 'BackendReconnected', note, type: 'Normal' });
    }),
    subscribe('featureMismatch', ({ attachment, parked, missing }) => {
      touch();
      const consequence = parked ? 'it waits for one that offers them' : 'the interface runs on without them';
      const note = `${label(attachment)}: the backend lacks ${missing.join(', ')}; ${consequence}`;
      tell({ subject: subject(attachment), reason: 'FeatureMismatch', note, type: parked ? 'Warning' : 'Normal' });
    }),
    subscribe('attachmentDegraded', touch),
    subscribe('orphanRemoved', ({ kind, id, reason }) => {
      touch();
      const what = kind === 'attachment' ? 'attachment' : 'OVS port';
      tell({ subject: node, reason: 'OrphanRemoved', note: `${what} ${id} was removed: ${reason}`, type: 'Normal' });
    }),
    subscribe('stateCorrupt', ({ id, path, reason }) => {
      touch();
      const note = `the record of ${id} cannot be read and lies at ${path}: ${reason}`;
      tell({ subject: node, reason: 'StateCorrupt', note, type: 'Warning' });
    }),
  ];
  return () => {
    for (const stop of stops) stop();
  };
}
