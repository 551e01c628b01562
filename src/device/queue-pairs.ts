/**
 * Queue pairs switched while the device runs (VIRTIO_NET_CTRL_MQ_VQ_PAIRS_SET; `virtio_user_handle_mq` of the original).
 *
 * Fewer: what the pod has sent goes out, its flows move to the pairs that stay, then the backend lets go of the rings,
 * and what it had delivered reaches the pod. More: the backend takes up the rings first. A refusal half-way is taken
 * back, so that there are never rings that one side believes in and the other does not.
 */
import { VirtioUserError } from '../errors.ts';
import type { Port } from '../native/binding.ts';
import type { Frontend } from './frontend.ts';

/** What the device commands of the dataplane. */
export type DataPath = Pick<
  Port,
  'setRxFilter' | 'useReceiveBuffers' | 'finishTransmit' | 'detachQueues' | 'retire' | 'enlist'
>;

/** @throws VirtioUserError or NativeFault; then the pairs are `from` again, unless the connection has ended */
export async function switchQueuePairs(frontend: Frontend, path: DataPath, from: number, to: number): Promise<void> {
  if (to < from) await shrink(frontend, path, from, to);
  else if (to > from) await grow(frontend, path, from, to);
}

async function shrink(frontend: Frontend, path: DataPath, from: number, to: number): Promise<void> {
  await path.finishTransmit(to);
  try {
    path.detachQueues(to);
    await enableRings(frontend, to, from, false);
  } catch (thrown) {
    await path.enlist(from);
    throw thrown;
  }
  await path.retire(to);
}

async function grow(frontend: Frontend, path: DataPath, from: number, to: number): Promise<void> {
  await enableRings(frontend, from, to, true);
  await path.enlist(to);
}

/**
 * Both rings of the pairs `first` up to, not including, `end`; all of them, or none. Where a refusal cannot be taken back
 * the connection ends.
 */
export async function enableRings(frontend: Frontend, first: number, end: number, enabled: boolean): Promise<void> {
  const done: number[] = [];
  try {
    for (let ring = 2 * first; ring < 2 * end; ring += 1) {
      await frontend.setVringEnable(ring, enabled);
      done.push(ring);
    }
  } catch (thrown) {
    if (frontend.isOpen) await takeBack(frontend, done, enabled);
    throw thrown;
  }
}

async function takeBack(frontend: Frontend, rings: readonly number[], enabled: boolean): Promise<void> {
  try {
    for (const ring of rings.toReversed()) await frontend.setVringEnable(ring, !enabled);
  } catch (thrown) {
    frontend.fail(VirtioUserError.from(thrown, 'queue pairs', 'BACKEND_REFUSED'));
  }
}
