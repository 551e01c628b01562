/** Which attachments a GC call means. */
import type { GarbageRequest } from './api.ts';
import type { AttachmentRecord } from './record.ts';

/** Younger records stay: the caller's list may be older than they are. */
export const garbageGraceMs = 60_000;

export interface Sorted {
  readonly garbage: readonly AttachmentRecord[];
  /** What keeps its lease: what the caller names as valid, and what is too young to be judged. */
  readonly valid: GarbageRequest['valid'];
}

/** Judges strictly the records of the request's network. */
export function sortOut(records: readonly AttachmentRecord[], request: GarbageRequest, nowMs: number): Sorted {
  const named = new Set(request.valid.map(({ containerId, ifName }) => `${containerId}/${ifName}`));
  const suspects = records.filter(({ spec: { key } }) => {
    return key.networkName === request.networkName && !named.has(`${key.containerId}/${key.ifName}`);
  });
  const isOld = ({ createdAtMs }: AttachmentRecord): boolean => nowMs - createdAtMs >= garbageGraceMs;
  const young = suspects.filter((record) => !isOld(record)).map(({ spec: { key } }) => key);
  return { garbage: suspects.filter(isOld), valid: [...request.valid, ...young] };
}
