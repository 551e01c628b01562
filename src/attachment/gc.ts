/** Which attachments a GC call means. */
import type { GarbageRequest } from './api.ts';
import type { AttachmentRecord } from './record.ts';

/** Younger records stay: the caller's list may be older than they are. */
export const garbageGraceMs = 60_000;

/** Strictly those of the request's network that it does not name as valid. */
export function garbageOf(
  records: readonly AttachmentRecord[],
  request: GarbageRequest,
  nowMs: number,
): readonly AttachmentRecord[] {
  const valid = new Set(request.valid.map(({ containerId, ifName }) => `${containerId}/${ifName}`));
  return records.filter(({ createdAtMs, spec: { key } }) => {
    if (key.networkName !== request.networkName || valid.has(`${key.containerId}/${key.ifName}`)) return false;
    return nowMs - createdAtMs >= garbageGraceMs;
  });
}
