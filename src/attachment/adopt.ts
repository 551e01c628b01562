/** Takes up the TAP of an attachment that an earlier agent made: same interface, addresses and routes. */
import type { NativeFd } from '../native/binding.ts';
import type { AttachmentDependencies } from './dependencies.ts';
import { LiveAttachment } from './live-attachment.ts';
import { openRecordedNetns } from './netns.ts';
import { tapSpec } from './pod-link.ts';
import type { ReadyRecord } from './record.ts';

/** @returns null when the namespace or the interface is not there (any more), or cannot be opened; never rejects */
export async function adopt(record: ReadyRecord, dependencies: AttachmentDependencies): Promise<LiveAttachment | null> {
  const { binding, log } = dependencies;
  const { spec } = record;
  let netns: NativeFd | null = null;
  try {
    netns = openRecordedNetns(binding, spec.netnsPath, record.netns);
    if (netns === null) return null;
    const tap = await binding.openTap(netns, tapSpec(spec.key.ifName, spec.device, record.ifindex));
    const addresses = record.result.ipam.ips.map((ip) => ip.address);
    const pod = { taps: tap.queues, ifindex: tap.ifindex, netns: record.netns };
    const { wantedPairs } = record;
    return new LiveAttachment(record.id, spec, pod, { addresses, wantedPairs }, dependencies);
  } catch (error) {
    log.error({ id: record.id, error }, 'an attachment could not be taken up again');
    return null;
  } finally {
    netns?.close();
  }
}
