/** A stack of named undos: last in, first out; every one runs, whatever the others do. */
import { messageOf } from '../errors.ts';

export interface UndoFailure {
  readonly step: string;
  readonly reason: string;
}

export class Rollback {
  readonly #undos: { readonly step: string; readonly undo: () => unknown }[] = [];

  /** Call it right after the step has succeeded, or before a step whose half must be undone too. */
  push(step: string, undo: () => unknown): void {
    this.#undos.push({ step, undo });
  }

  async unwind(): Promise<readonly UndoFailure[]> {
    const failures: UndoFailure[] = [];
    for (let entry = this.#undos.pop(); entry !== undefined; entry = this.#undos.pop()) {
      try {
        await entry.undo();
      } catch (error) {
        failures.push({ step: entry.step, reason: messageOf(error) });
      }
    }
    return failures;
  }
}
