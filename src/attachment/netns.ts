/** Is a recorded namespace still the one at its path? A path can be used again by another pod. */
import { readdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { errnoOf } from '../errors.ts';
import type { NativeBinding, NativeFd } from '../native/binding.ts';
import type { AttachmentRecord, NetnsIdentity } from './record.ts';

export function identityOf(netns: NativeFd): NetnsIdentity {
  const { device, inode } = netns.identity();
  return { device: device.toString(), inode: inode.toString() };
}

export function sameNetns(one: NetnsIdentity, other: NetnsIdentity): boolean {
  return one.device === other.device && one.inode === other.inode;
}

/** The namespace, opened (the caller closes it), or null when it is gone or another one. @throws what is neither */
export function openRecordedNetns(
  binding: Pick<NativeBinding, 'openNetns'>,
  path: string,
  recorded: NetnsIdentity,
): NativeFd | null {
  if (path === '') return null;
  let netns: NativeFd;
  try {
    netns = binding.openNetns(path);
  } catch (error) {
    const code = errnoOf(error);
    // EINVAL: no namespace is mounted on the file; nothing to be done inside it in any case.
    if (code === 'ENOENT' || code === 'EINVAL' || code === 'ENOTDIR') return null;
    throw error;
  }
  if (sameNetns(identityOf(netns), recorded)) return netns;
  netns.close();
  return null;
}

/**
 * Whether the namespace of a record lives. `unknown` where it cannot be told: nothing may be deleted for it. `gone` needs
 * proof: the node was rebooted, another namespace is at the path, or the path's directory is there and the path is not.
 * A plain file at the path proves nothing (mounts of the host may not propagate here).
 */
export function netnsPresence(
  binding: Pick<NativeBinding, 'openNetns'>,
  record: AttachmentRecord,
  bootId: string,
): 'alive' | 'gone' | 'unknown' {
  if (record.bootId !== bootId) return 'gone';
  const { netnsPath } = record.spec;
  if (netnsPath === '') return 'unknown';
  let netns: NativeFd;
  try {
    netns = binding.openNetns(netnsPath);
  } catch (error) {
    if (errnoOf(error) !== 'ENOENT') return 'unknown';
    try {
      readdirSync(dirname(netnsPath));
      return 'gone';
    } catch {
      return 'unknown';
    }
  }
  const now = identityOf(netns);
  netns.close();
  return sameNetns(now, record.netns) ? 'alive' : 'gone';
}
