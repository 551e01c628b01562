/** What it means for an ADD that the kernel refused something about the pod's interface. */
import { errnoOf, isExhaustion, messageOf, VirtioUserError } from '../errors.ts';

export function linkFailure(error: unknown, ifName: string): VirtioUserError {
  if (error instanceof VirtioUserError) return error;
  const errno = errnoOf(error);
  const options = { details: { errno }, cause: error };
  if (errno === 'EEXIST' || errno === 'EBUSY') {
    return new VirtioUserError(
      'CONFLICT_INTERFACE',
      `interface ${ifName} exists already in the pod's namespace`,
      options,
    );
  }
  const code = isExhaustion(errno) ? 'RESOURCE_EXHAUSTED' : 'SYSCALL_FAILED';
  return new VirtioUserError(code, `interface ${ifName}: ${messageOf(error)}`, options);
}
