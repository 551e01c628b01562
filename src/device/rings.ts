/**
 * One ring given to the backend, and taken back. A backend forgets eventfds and addresses of a ring that was taken back
 * (GET_VRING_BASE), so that giving it again means all of it, from the index that the backend named.
 */
import { VirtioUserError } from '../errors.ts';
import type { Session } from '../native/binding.ts';
import type { Frontend } from './frontend.ts';

/** Runs one message; the handshake names it by the way. */
export type Step = <T>(name: string, run: (frontend: Frontend) => Promise<T>) => Promise<T>;

/**
 * NUM, BASE, ADDR, and KICK last, which starts the ring. The call eventfd and the memory table must have gone before.
 * @param base as SET_VRING_BASE has it
 */
export async function startRing(step: Step, session: Session, ring: number, base: number): Promise<void> {
  const layout = session.rings[ring];
  const kick = session.kicks[ring];
  if (layout === undefined || kick === undefined) throw new VirtioUserError('BUG', `session without a ring ${ring}`);
  await step('SET_VRING_NUM', (frontend) => frontend.setVringNum(ring, layout.size));
  await step('SET_VRING_BASE', (frontend) => frontend.setVringBase(ring, base));
  await step('SET_VRING_ADDR', (frontend) => frontend.setVringAddr(ring, layout));
  await step('SET_VRING_KICK', (frontend) => frontend.setVringKick(ring, kick));
}

/** @returns where the backend stopped, per ring */
export async function stopRings(frontend: Frontend, session: Session): Promise<readonly number[]> {
  const bases: number[] = [];
  for (const ring of session.rings.keys()) bases.push(await frontend.getVringBase(ring));
  return bases;
}

/** Gives every ring back to the backend that it was taken from, on the same connection. */
export async function restartRings(frontend: Frontend, session: Session, bases: readonly number[]): Promise<void> {
  const step: Step = (_name, run) => run(frontend);
  for (const [ring, call] of session.calls.entries()) await frontend.setVringCall(ring, call);
  for (const [ring, base] of bases.entries()) await startRing(step, session, ring, base);
}
