/** A control queue without a ring: commands and answers wait in lists. */
import type { ControlQueue } from '../../src/native/binding.ts';
import type { ControlCommand } from '../../src/virtio/control.ts';

export class FakeControlQueue implements ControlQueue {
  /** Every command that was submitted. */
  readonly sent: ControlCommand[] = [];
  /** Thrown by the next `next`, as a ring that says what cannot be. */
  brokenBy: Error | null = null;
  readonly #waiting: { readonly token: number; readonly command: ControlCommand }[] = [];
  #serving: number | null = null;
  readonly #answers: { readonly token: number; readonly ack: number }[] = [];

  submit(command: ControlCommand): number {
    const token = this.sent.push(command);
    this.#waiting.push({ token, command });
    return token;
  }

  takeAnswer(): { readonly token: number; readonly ack: number } | null {
    return this.#answers.shift() ?? null;
  }

  next(): ControlCommand | null {
    if (this.brokenBy !== null) throw this.brokenBy;
    if (this.#serving !== null) return null;
    const first = this.#waiting.shift();
    if (first === undefined) return null;
    this.#serving = first.token;
    return first.command;
  }

  complete(ack: number): void {
    if (this.#serving === null) throw new Error('nothing is being served');
    this.#answers.push({ token: this.#serving, ack });
    this.#serving = null;
  }
}
