/**
 * What is kept on disk per attachment: `STATE_DIR/attachments/{id}.json`. Written ahead of every side effect:
 * `creating` before the first, `ready` before the answer, `deleting` before the first undo, removed last.
 */
import type { AttachmentResult, AttachmentSpec } from './spec.ts';

/** Bumped when a reader of the old layout would misread the new one. */
export const recordVersion = 1;

export interface NetnsIdentity {
  /** st_dev and st_ino as decimal text (bigint does not survive JSON). */
  readonly device: string;
  readonly inode: string;
}

interface RecordCommon {
  readonly version: typeof recordVersion;
  readonly id: string;
  readonly bootId: string;
  /** Milliseconds since the epoch. */
  readonly createdAtMs: number;
  readonly spec: AttachmentSpec;
  readonly netns: NetnsIdentity;
  /** Of the ADD that made it; null in records of 0.1.0. */
  readonly requestId: string | null;
}

/** Undo is derivable from `spec` and `id` alone; the ifindex is known only once ready. */
export interface CreatingRecord extends RecordCommon {
  readonly phase: 'creating';
}

export interface ReadyRecord extends RecordCommon {
  readonly phase: 'ready';
  readonly ifindex: number;
  readonly result: AttachmentResult;
  /** How many queue pairs a person asked for, whatever the backend of the moment has; null: all there are. */
  readonly wantedPairs: number | null;
}

export interface DeletingRecord extends RecordCommon {
  readonly phase: 'deleting';
  readonly ifindex: number | null;
}

export type AttachmentRecord = CreatingRecord | ReadyRecord | DeletingRecord;
