/**
 * Finds what nobody will ask for again: records whose namespace is gone, OVS ports of this node without a record, and
 * records whose removal did not finish. Deletes only what was an orphan in two passes at least a minute apart, and never
 * on missing information: what cannot be asked is left alone and counted. Takes up what lives and does not run, and puts
 * back OVS ports that living attachments have lost (a database that was made anew).
 */
import { messageOf } from '../errors.ts';
import type { OvsPort } from '../ovs/ports.ts';
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

  get keys(): readonly string[] {
    return [...this.#since.keys()];
  }
}

export interface ReconcileWorld {
  readonly records: () => readonly AttachmentRecord[];
  /** A call is at work on it: not to be touched, nor judged. */
  readonly isBusy: (id: string) => boolean;
  /** Known though there is no usable record. */
  readonly isSetAside: (id: string) => boolean;
  readonly presence: (record: AttachmentRecord) => 'alive' | 'gone' | 'unknown';
  /** Why an orphan must stay though its namespace is gone (its pod lives, or nobody can say), or null. */
  readonly whyKeep: (record: AttachmentRecord) => string | null;
  /** The first sight of a dead namespace: nothing may hold on to it. */
  readonly letGo: (record: AttachmentRecord) => Promise<void>;
  /** Its namespace lives: it shall run. @returns why it does not though another try may succeed, or null */
  readonly takeUp: (record: AttachmentRecord) => Promise<string | null>;
  /** @returns false when it is not complete yet */
  readonly removeRecord: (record: AttachmentRecord, reason: string) => Promise<boolean>;
  /** Tagged ports of this node. @throws when OVSDB cannot be asked */
  readonly taggedPorts: () => Promise<readonly OvsPort[]>;
  /** @returns false when there was nothing to remove any more */
  readonly removePort: (name: string) => Promise<boolean>;
  readonly restorePort: (record: AttachmentRecord) => Promise<void>;
  /** Whether an unreachable OVSDB is worth a word: something of ours is in it. */
  readonly usesOvs: boolean;
  readonly nowMs: number;
}

export async function reconcile(world: ReconcileWorld, strikes: Strikes): Promise<ReconcileReport> {
  const pass = new Pass(world, strikes);
  await pass.records();
  await pass.ports();
  return pass.finish();
}

class Pass {
  readonly #world: ReconcileWorld;
  readonly #strikes: Strikes;
  readonly #suspects = new Set<string>();
  readonly #removed: string[] = [];
  readonly #unfinished: string[] = [];
  readonly #unknown: string[] = [];

  constructor(world: ReconcileWorld, strikes: Strikes) {
    this.#world = world;
    this.#strikes = strikes;
  }

  async records(): Promise<void> {
    const { records, isBusy, presence, letGo, takeUp, whyKeep } = this.#world;
    for (const record of records()) {
      if (isBusy(record.id)) continue;
      if (record.phase !== 'ready') {
        await this.#remove(record, `its ${record.phase} never finished`);
        continue;
      }
      const state = presence(record);
      if (state === 'unknown') this.#unknown.push(`namespace ${record.spec.netnsPath}`);
      const failure = state === 'alive' ? await takeUp(record) : null;
      if (failure !== null) this.#unfinished.push(`record ${record.id}: ${failure}`);
      if (state !== 'gone') continue;
      await letGo(record);
      if (!this.#struck(`record ${record.id}`)) continue;
      const kept = whyKeep(record);
      if (kept === null) await this.#remove(record, 'its namespace is gone and no DEL came');
      else this.#unknown.push(`record ${record.id}: ${kept}`);
    }
  }

  async ports(): Promise<void> {
    const { taggedPorts, records, isBusy, isSetAside, removePort, usesOvs } = this.#world;
    let ports: readonly OvsPort[];
    try {
      ports = await taggedPorts();
    } catch (error) {
      if (usesOvs) this.#unknown.push(`OVS ports: ${messageOf(error)}`);
      // An earlier strike stands: not being able to ask proves no innocence.
      for (const key of this.#strikes.keys) if (key.startsWith('port ')) this.#suspects.add(key);
      return;
    }
    const known = new Set(records().map(({ id }) => id));
    for (const { name } of ports) {
      if (known.has(name) || isBusy(name) || isSetAside(name)) continue;
      const key = `port ${name}`;
      if (!this.#struck(key)) continue;
      try {
        if (await removePort(name)) this.#removed.push(key);
      } catch (error) {
        this.#unfinished.push(`${key}: ${messageOf(error)}`);
      }
    }
    await this.#restorePorts(new Set(ports.map(({ name }) => name)));
  }

  finish(): ReconcileReport {
    this.#strikes.keepOnly(this.#suspects);
    return { removed: this.#removed, unfinished: this.#unfinished, unknown: this.#unknown };
  }

  async #restorePorts(there: ReadonlySet<string>): Promise<void> {
    const { records, isBusy, presence, restorePort } = this.#world;
    for (const record of records()) {
      if (record.phase !== 'ready' || record.spec.ovs === null || there.has(record.id) || isBusy(record.id)) continue;
      if (presence(record) !== 'alive') continue;
      try {
        await restorePort(record);
      } catch (error) {
        this.#unfinished.push(`port ${record.id}: ${messageOf(error)}`);
      }
    }
  }

  #struck(key: string): boolean {
    this.#suspects.add(key);
    return this.#strikes.strike(key, this.#world.nowMs);
  }

  async #remove(record: AttachmentRecord, reason: string): Promise<void> {
    const key = `record ${record.id}`;
    if (await this.#world.removeRecord(record, reason)) this.#removed.push(key);
    else this.#unfinished.push(key);
  }
}
