/**
 * What the cluster sees of a node: the VirtioUserNode object (group virtio-user.dev), computed from the agent's own view.
 * Pure: the same view gives the same object, so that an unchanged node is not written again.
 */
import { z } from 'zod';
import type { AttachmentView } from '../attachment/api.ts';

export const group = 'virtio-user.dev';
export const version = 'v1alpha1';
export const plural = 'virtiousernodes';
export const kind = 'VirtioUserNode';

export interface NodeCondition {
  readonly type: 'Ready' | 'BackendConnected' | 'StateRestored' | 'Degraded';
  readonly status: 'True' | 'False';
  /** CamelCase, stable. */
  readonly reason: string;
  readonly message: string;
  /** RFC 3339; moves only when `status` does. */
  readonly lastTransitionTime: string;
}

export interface UnhealthyAttachment {
  readonly id: string;
  readonly pod: string;
  readonly interface: string;
  readonly state: string;
  readonly reason: string;
}

export interface NodeStatus {
  readonly agentVersion: string;
  readonly backend: string;
  readonly attachments: number;
  readonly disconnected: number;
  /** At most 20, the rest is counted. */
  readonly unhealthy: readonly UnhealthyAttachment[];
  readonly conditions: readonly NodeCondition[];
}

export interface NodeView {
  readonly agentVersion: string;
  readonly ready: boolean;
  /** Why it is not ready, or empty. */
  readonly readyReason: string;
  /** false: records are being read and taken up, and `attachments` are not all yet. */
  readonly restored: boolean;
  readonly attachments: readonly AttachmentView[];
  /** Records that could not be read. */
  readonly corruptRecords: number;
}

type Conditioned = Pick<NodeStatus, 'conditions'>;

const unhealthyLimit = 20;

/** Most connected first; what an admin wants in one word. */
function backendSummary(attachments: number, disconnected: number): string {
  if (attachments === 0) return 'Idle';
  if (disconnected === 0) return 'Connected';
  return disconnected === attachments ? 'Disconnected' : 'Partial';
}

/**
 * @param previous what is published now: a condition that holds its status holds its time. Until records are restored only
 * `Ready` can be told; the other conditions stay as they were last seen, if they ever were.
 */
export function nodeStatus(view: NodeView, previous: Conditioned | null, now: Date): NodeStatus {
  // Being made or being removed is no illness.
  const attachments = view.attachments.filter(({ state }) => state !== 'creating' && state !== 'closing');
  const unhealthy = attachments.filter((attachment) => attachment.state !== 'running');
  const degraded = attachments.filter((attachment) => attachment.state === 'parked');
  const condition = (
    type: NodeCondition['type'],
    holds: boolean,
    reasons: readonly [string, string],
    message: string,
  ): NodeCondition => {
    const status = holds ? 'True' : 'False';
    const before = previous?.conditions.find((candidate) => candidate.type === type);
    const lastTransitionTime = before?.status === status ? before.lastTransitionTime : now.toISOString();
    return { type, status, reason: holds ? reasons[0] : reasons[1], message, lastTransitionTime };
  };
  const total = attachments.length;
  const ready = condition(
    'Ready',
    view.ready,
    ['AgentReady', 'AgentNotReady'],
    view.ready ? 'pods can be attached' : view.readyReason,
  );
  const lastSeen = previous?.conditions.filter(({ type }) => type !== 'Ready') ?? [];
  return {
    agentVersion: view.agentVersion,
    backend: backendSummary(total, unhealthy.length),
    attachments: total,
    disconnected: unhealthy.length,
    unhealthy: unhealthy.slice(0, unhealthyLimit).map((attachment) => ({
      id: attachment.id,
      pod: attachment.pod === null ? '' : `${attachment.pod.namespace}/${attachment.pod.name}`,
      interface: attachment.key.ifName,
      state: attachment.state,
      reason: attachment.reason ?? '',
    })),
    conditions: !view.restored
      ? [ready, ...lastSeen]
      : [
          ready,
          condition(
            'BackendConnected',
            unhealthy.length === 0,
            ['AllConnected', 'BackendDisconnected'],
            unhealthy.length === 0
              ? `${total} attachments`
              : `${unhealthy.length} of ${total} attachments have no backend`,
          ),
          condition(
            'StateRestored',
            view.corruptRecords === 0,
            ['AllRecordsRead', 'StateCorrupt'],
            view.corruptRecords === 0 ? 'every record was read' : `${view.corruptRecords} records could not be read`,
          ),
          condition(
            'Degraded',
            degraded.length > 0,
            ['FeatureMismatch', 'NotDegraded'],
            degraded.length > 0 ? `${degraded.length} attachments wait for a backend with more features` : '',
          ),
        ],
  };
}

/** Whether writing `next` would tell anybody anything; messages count, times do not. */
export function sameStatus(a: NodeStatus, b: NodeStatus): boolean {
  return JSON.stringify(a) === JSON.stringify(b);
}

/** Whether a condition changed its status: such news does not wait. */
export function conditionFlipped(a: Conditioned | null, b: NodeStatus): boolean {
  return b.conditions.some(
    (condition) => a?.conditions.find((before) => before.type === condition.type)?.status !== condition.status,
  );
}

/**
 * What the last agent leaves behind when it stops in order. The rest stays as last seen: an upgrade takes seconds, and
 * whoever reads it sees by Ready that nobody keeps it current.
 */
export function stoppedStatus(last: NodeStatus, now: Date): NodeStatus {
  const conditions = last.conditions.map((condition): NodeCondition => {
    if (condition.type !== 'Ready') return condition;
    return {
      type: 'Ready',
      status: 'False',
      reason: 'AgentStopped',
      message: 'the agent was stopped; interfaces and connections wait for the next one',
      lastTransitionTime: condition.status === 'False' ? condition.lastTransitionTime : now.toISOString(),
    };
  });
  return { ...last, conditions };
}

const stored = z.object({ status: z.object({ conditions: z.array(z.unknown()) }) });

const storedCondition = z.object({
  type: z.enum(['Ready', 'BackendConnected', 'StateRestored', 'Degraded']),
  status: z.enum(['True', 'False']),
  reason: z.string(),
  message: z.string(),
  lastTransitionTime: z.string(),
});

/** Of an object as the API server has it: what this version understands. */
export function conditionsOf(object: unknown): readonly NodeCondition[] {
  const { data } = stored.safeParse(object);
  return (data?.status.conditions ?? []).flatMap((condition) => {
    const parsed = storedCondition.safeParse(condition);
    return parsed.success ? [parsed.data] : [];
  });
}
