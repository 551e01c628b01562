/**
 * Both ends of one session's control queue: the driver puts a command on the ring, the device takes it off, decides, and
 * writes its answer there. Without a kick: both are this process.
 */
import { VirtioUserError } from '../errors.ts';
import type { ControlQueue } from '../native/binding.ts';
import { type Control, decodeControl, encodeControl } from '../virtio/control.ts';

const ackOk = 0;
const ackError = 1;

/** @returns false: refused, and nothing has changed */
export type Decide = (control: Control) => Promise<boolean>;

/**
 * Sends one command and serves what is on the ring until it is answered. Not reentrant: the device serialises.
 *
 * @returns false: the device refused it
 * @throws VirtioUserError CONTROL_QUEUE_BROKEN when the ring says what cannot be, from then on for every command
 */
export async function exchangeControl(queue: ControlQueue, control: Control, decide: Decide): Promise<boolean> {
  try {
    const token = queue.submit(encodeControl(control));
    for (let served = queue.next(); served !== null; served = queue.next()) {
      const understood = decodeControl(served);
      const accepted = understood !== null && (await decide(understood));
      queue.complete(accepted ? ackOk : ackError);
    }
    let accepted: boolean | null = null;
    for (let answer = queue.takeAnswer(); answer !== null; answer = queue.takeAnswer()) {
      if (answer.token === token) accepted = answer.ack === ackOk;
    }
    if (accepted !== null) return accepted;
  } catch (thrown) {
    throw VirtioUserError.from(thrown, `control command ${control.kind}`, 'CONTROL_QUEUE_BROKEN');
  }
  throw new VirtioUserError('CONTROL_QUEUE_BROKEN', `control command ${control.kind} was not answered`);
}
