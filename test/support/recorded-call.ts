/** Calls as containerd made them: environment and stdin. */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

export interface RecordedCall {
  readonly env: Readonly<Record<string, string>>;
  readonly stdin: string;
}

export const recordedCallNames = ['add', 'del', 'del-empty-netns', 'del-after-reboot'] as const;

export function recordedCall(name: (typeof recordedCallNames)[number]): RecordedCall {
  const path = fileURLToPath(new URL(`../golden/calls/${name}.json`, import.meta.url));
  return JSON.parse(readFileSync(path, 'utf8')) as RecordedCall;
}
