/**
 * Finds what nobody will ask for again: records whose namespace is gone, OVS ports of this node without a record, and
 * records whose removal did not finish. Deletes only what was an orphan in two passes at least a minute apart, and never
 * on missing information: what cannot be asked is left alone and counted.
 */
import { messageOf } from '../errors.ts';
import type { AttachmentRecord } from './record.ts';

export interface ReconcileReport {
  readonly removed: readonly string[];
  readonly unfinished: readonly string[];
  /** What could not be asked, in words. */
  readonly unknown: readonly string[];
}

/** Time between the two strikes, milliseconds. */
export const strikeIntervalMs = 60_000;

/** Remembers since when something has been an orphan. */
export class Strikes {
  readonly #since = new Map<string, number>();

  /** @returns whether it has been an orphan for long enough */
  strike(key: string, nowMs: number): boolean {
    const since = this.#since.get(key);
    if (since === undefined) {
      this.#since.set(key, nowMs);
      return false;
    }
    return nowMs - since >= strikeIntervalMs;
  }

  /** Everything not named is innocent again. */
  keepOnly(keys: ReadonlySet<string>): void {
    for (const key of this.#since.keys()) if (!keys.has(key)) this.#since.delete(key);
  }
}

export interface ReconcileWorld {
  readonly records: () => readonly AttachmentRecord[];
  /** null: it cannot be told. */
  readonly netnsAlive: (record: AttachmentRecord) => boolean | null;
  /** Names of tagged ports of this node. @throws when OVSDB cannot be asked */
  readonly taggedPorts: () => Promise<readonly string[]>;
  readonly removeRecord: (record: AttachmentRecord, reason: string) => Promise<boolean>;
  readonly removePort: (name: string) => Promise<void>;
  /** Whether any record or option makes OVS our business. */
  readonly usesOvs: boolean;
  readonly nowMs: number;
}

export async function reconcile(world: ReconcileWorld, strikes: Strikes): Promise<ReconcileReport> {
  const removed: string[] = [];
  const unfinished: string[] = [];
  const unknown: string[] = [];
  const suspects = new Set<string>();

  for (const record of world.records()) {
    const key = `record ${record.id}`;
    if (record.phase !== 'ready') {
      if (await world.removeRecord(record, `its ${record.phase} never finished`)) removed.push(key);
      else unfinished.push(key);
      continue;
    }
    const alive = world.netnsAlive(record);
    if (alive === null) unknown.push(`namespace ${record.spec.netnsPath}`);
    if (alive !== false) continue;
    suspects.add(key);
    if (!strikes.strike(key, world.nowMs)) continue;
    if (await world.removeRecord(record, 'its namespace is gone and no DEL came')) removed.push(key);
    else unfinished.push(key);
  }

  if (world.usesOvs) {
    try {
      const known = new Set(world.records().map((record) => record.id));
      for (const name of await world.taggedPorts()) {
        if (known.has(name)) continue;
        const key = `port ${name}`;
        suspects.add(key);
        if (!strikes.strike(key, world.nowMs)) continue;
        await world.removePort(name);
        removed.push(key);
      }
    } catch (error) {
      unknown.push(`OVS ports: ${messageOf(error)}`);
      for (const record of world.records()) suspects.add(`port ${record.id}`);
    }
  }
  strikes.keepOnly(suspects);
  return { removed, unfinished, unknown };
}
