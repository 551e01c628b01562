/** Is a recorded namespace still the one at its path? A path can be used again by another pod. */
import { errnoOf } from '../errors.ts';
import type { NativeBinding, NativeFd } from '../native/binding.ts';
import type { NetnsIdentity } from './record.ts';

export function identityOf(netns: NativeFd): NetnsIdentity {
  const { device, inode } = netns.identity();
  return { device: device.toString(), inode: inode.toString() };
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
    // EINVAL: the mount is gone and the plain file under it is left, or it was replaced by something else.
    if (code === 'ENOENT' || code === 'EINVAL' || code === 'ENOTDIR') return null;
    throw error;
  }
  const now = identityOf(netns);
  if (now.device === recorded.device && now.inode === recorded.inode) return netns;
  netns.close();
  return null;
}
