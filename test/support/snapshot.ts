/** What a machine looks like to somebody who searches for leftovers: compared before and after. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import type { Ovs } from './ovs.ts';
import { run } from './process.ts';

export type Snapshot = Readonly<Record<string, readonly string[]>>;

function filesBelow(directory: string): string[] {
  try {
    return readdirSync(directory, { recursive: true, withFileTypes: true })
      .filter((entry) => !entry.isDirectory())
      .map((entry) => join(entry.parentPath, entry.name))
      .sort();
  } catch {
    return [];
  }
}

export interface SnapshotScope {
  readonly ovs: Ovs | null;
  readonly bridge: string;
  /** Directories whose files count: vhost sockets, records, leases. */
  readonly directories: Readonly<Record<string, string>>;
  /** Files that belong there always (locks, last_reserved_ip …). */
  readonly ignore: RegExp;
}

export async function takeSnapshot(scope: SnapshotScope): Promise<Snapshot> {
  const links = (JSON.parse(await run('ip', ['-j', 'link'])) as { ifname: string }[]).map((link) => link.ifname).sort();
  const namespaces = (JSON.parse((await run('ip', ['-j', 'netns'])) || '[]') as { name: string }[])
    .map((entry) => entry.name)
    .sort();
  const snapshot: Record<string, readonly string[]> = { links, namespaces };
  if (scope.ovs !== null) snapshot['ports'] = (await scope.ovs.ports(scope.bridge)).sort();
  for (const [what, directory] of Object.entries(scope.directories)) {
    snapshot[what] = filesBelow(directory).filter((path) => !scope.ignore.test(path));
  }
  return snapshot;
}

/** Lines `+ports vu…` and `-links …`; empty when nothing differs. */
export function snapshotDifference(before: Snapshot, after: Snapshot): readonly string[] {
  const lines: string[] = [];
  for (const what of new Set([...Object.keys(before), ...Object.keys(after)])) {
    const old = new Set(before[what] ?? []);
    const now = new Set(after[what] ?? []);
    for (const item of now) if (!old.has(item)) lines.push(`+${what} ${item}`);
    for (const item of old) if (!now.has(item)) lines.push(`-${what} ${item}`);
  }
  return lines;
}
