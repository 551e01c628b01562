/**
 * Where log lines go: standard output, written at once, so that the last line before a crash is there. What cannot be
 * written (a full disk, a reader that left) is lost and counted: a log must never end or stop what it tells of.
 *
 * Not the logger's own stream: that one ends the process on ENOSPC, and with that error ignored it tries the last line
 * before a crash again for ever.
 */
import { writeSync } from 'node:fs';

/** Writes some of the bytes. @returns how many @throws when it can write none */
export type WriteSome = (bytes: Uint8Array) => number;

const toStandardOutput: WriteSome = (bytes) => writeSync(1, bytes);

export class LogOutput {
  readonly #writeSome: WriteSome;
  /** The last line that was written ends in its midst. */
  #cut = false;
  #lostLines = 0;

  constructor(writeSome: WriteSome = toStandardOutput) {
    this.#writeSome = writeSome;
  }

  /** Lines that were written in part or not at all. */
  get lostLines(): number {
    return this.#lostLines;
  }

  /** Never throws. */
  write(line: string): void {
    // What is left of a line must not spoil the one that follows it.
    const bytes = Buffer.from(this.#cut ? `\n${line}` : line);
    let written = 0;
    try {
      while (written < bytes.length) written += this.#writeSome(bytes.subarray(written));
      this.#cut = false;
    } catch {
      this.#lostLines += 1;
      if (written > 0) this.#cut = true;
    }
  }
}
