/** What it means for an ADD that the kernel refused something about the pod's interface. */
import { errnoOf, messageOf, VirtioUserError } from '../errors.ts';

export function linkFailure(error: unknown, ifName: string): VirtioUserError {
  if (error instanceof VirtioUserError) return error;
  const errno = errnoOf(error);
  const options = { details: { errno }, cause: error };
  switch (errno) {
    case 'EEXIST':
    case 'EBUSY':
      return new VirtioUserError(
        'CONFLICT_INTERFACE',
        `interface ${ifName} exists already in the pod's namespace`,
        options,
      );
    case 'ENOMEM':
    case 'EMFILE':
    case 'ENFILE':
    case 'ENOBUFS':
      return new VirtioUserError('RESOURCE_EXHAUSTED', `interface ${ifName}: ${messageOf(error)}`, options);
    default:
      return new VirtioUserError('SYSCALL_FAILED', `interface ${ifName}: ${messageOf(error)}`, options);
  }
}
