/** Undo stack of a test, demo or benchmark: last in, first out, also on failure and on signals. */
export class Cleanup {
  readonly #undos: { readonly what: string; readonly undo: () => unknown }[] = [];

  add(what: string, undo: () => unknown): void {
    this.#undos.push({ what, undo });
  }

  /** Runs every undo, whatever the others do; returns what failed. */
  async run(): Promise<readonly string[]> {
    const failures: string[] = [];
    for (let step = this.#undos.pop(); step !== undefined; step = this.#undos.pop()) {
      try {
        await step.undo();
      } catch (error) {
        failures.push(`${step.what}: ${error instanceof Error ? error.message : String(error)}`);
      }
    }
    return failures;
  }

  /** On SIGINT and SIGTERM: clean up, then exit as the shell would expect. */
  onSignals(): void {
    for (const [signal, exitCode] of [
      ['SIGINT', 130],
      ['SIGTERM', 143],
    ] as const) {
      process.once(signal, () => {
        void this.run().then(() => process.exit(exitCode));
      });
    }
  }
}
