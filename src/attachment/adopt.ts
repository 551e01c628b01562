/** Takes up the TAP of an attachment that an earlier agent made: same interface, addresses and routes. */
import { errnoOf, messageOf } from '../errors.ts';
import type { NativeFd } from '../native/binding.ts';
import type { AttachmentDependencies } from './dependencies.ts';
import { LiveAttachment } from './live-attachment.ts';
import { openRecordedNetns } from './netns.ts';
import { tapSpec } from './pod-link.ts';
import type { ReadyRecord } from './record.ts';

/** Why an attachment does not run. `gone`: what it ran on does not exist. `failed`: another try may succeed. */
export interface Absence {
  readonly kind: 'gone' | 'failed';
  readonly reason: string;
}

/** Never rejects. */
export async function adopt(
  record: ReadyRecord,
  dependencies: AttachmentDependencies,
): Promise<LiveAttachment | Absence> {
  const { binding, log } = dependencies;
  const { spec } = record;
  let netns: NativeFd | null = null;
  try {
    netns = openRecordedNetns(binding, spec.netnsPath, record.netns);
    if (netns === null) return { kind: 'gone', reason: 'its namespace is gone' };
    const tap = await binding.openTap(netns, tapSpec(spec.key.ifName, spec.device, record.ifindex));
    const addresses = record.result.ipam.ips.map((ip) => ip.address);
    const pod = { taps: tap.queues, ifindex: tap.ifindex, netns: record.netns };
    const { wantedPairs } = record;
    return new LiveAttachment(record.id, spec, pod, { addresses, wantedPairs }, dependencies);
  } catch (error) {
    log.error({ id: record.id, error }, 'an attachment could not be taken up again');
    return interfaceIsGone(error)
      ? { kind: 'gone', reason: `its interface is gone: ${messageOf(error)}` }
      : { kind: 'failed', reason: `it could not be taken up again: ${messageOf(error)}` };
  } finally {
    netns?.close();
  }
}

/**
 * No interface of that index, or one that is no TAP (`nameToOpen` in `native/core/pod_link.cc`). ESTALE is none of it: one
 * that was renamed meanwhile is found by another try.
 */
function interfaceIsGone(error: unknown): boolean {
  return ['ENODEV', 'EEXIST'].includes(errnoOf(error) ?? '');
}
