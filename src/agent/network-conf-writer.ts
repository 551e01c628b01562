/**
 * The network configuration as the last thing that an agent does to start: its presence makes a node Ready and has the
 * runtime call the executable, so it comes when those calls are answered. Nobody waits for it, and nothing of it goes
 * when the agent does: the runtime deletes pods by it.
 */
import { existsSync } from 'node:fs';
import type { Timers } from '../clock.ts';
import { messageOf } from '../errors.ts';
import type { Logger } from '../telemetry/log.ts';
import type { Installed } from './file-install.ts';
import { confBefore } from './network-conf.ts';
import { jittered } from './schedule.ts';

const retryFirstMs = 1_000;
const retryMostMs = 60_000;

export interface NetworkConfWriterParts {
  /** Where it goes. */
  readonly path: string;
  /** Writes it; asked again when it rejects. */
  readonly install: (signal: AbortSignal) => Promise<Installed>;
  readonly clock: Pick<Timers, 'after'>;
  readonly log: Logger;
}

export class NetworkConfWriter {
  readonly #parts: NetworkConfWriterParts;
  #cancelRetry: () => void = () => undefined;
  #trouble: string | null = null;
  readonly #closing = new AbortController();

  constructor(parts: NetworkConfWriterParts) {
    this.#parts = parts;
  }

  /** Tries until it is written, later each time up to a minute. */
  open(): void {
    void this.#try(retryFirstMs);
  }

  close(): void {
    this.#closing.abort();
    this.#cancelRetry();
  }

  async #try(retryMs: number): Promise<void> {
    const { path, install, clock, log } = this.#parts;
    try {
      log.info({ path, result: await install(this.#closing.signal) }, 'the network configuration is in place');
      const before = confBefore(path);
      if (before !== null)
        log.warn({ path, before }, 'the runtime takes another configuration of this plugin first: remove the old one');
    } catch (error) {
      if (this.#closing.signal.aborted) return;
      const reason = messageOf(error);
      if (reason !== this.#trouble) {
        const what = existsSync(path) ? 'kept as it was' : 'not there yet';
        log.warn({ error, path }, `the network configuration is ${what}; it is tried again`);
      }
      this.#trouble = reason;
      this.#cancelRetry = clock.after(jittered(retryMs), () => void this.#try(Math.min(retryMs * 2, retryMostMs)));
    }
  }
}
