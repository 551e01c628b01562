/**
 * Keeps the agent's threads, but for the pumps, off the cores that the switch polls, from start to stop. What wakes there
 * waits for a tick of the kernel (up to 4 ms), and takes the core from the switch; an ADD wakes some twenty times.
 */
import type { Timers } from '../clock.ts';
import { messageOf } from '../errors.ts';
import type { Logger } from '../telemetry/log.ts';
import { jittered } from './schedule.ts';

/** An admin may change the mask at any time, and a switch may start later than the agent. */
const askEveryMs = 60_000;
const askTimeoutMs = 5_000;

export interface PollingCoreWatchParts {
  /** Rejects when nobody can say: what was known stands. */
  readonly ask: (signal: AbortSignal) => Promise<readonly number[]>;
  /** @returns false when the process has no other cores */
  readonly keepOff: (cores: readonly number[]) => boolean;
  readonly clock: Pick<Timers, 'after'>;
  readonly log: Logger;
}

export class PollingCoreWatch {
  readonly #parts: PollingCoreWatchParts;
  readonly #closing = new AbortController();
  #cancel: () => void = () => undefined;
  #known = '';

  constructor(parts: PollingCoreWatchParts) {
    this.#parts = parts;
  }

  open(): void {
    void this.#look();
  }

  close(): void {
    this.#closing.abort();
    this.#cancel();
  }

  async #look(): Promise<void> {
    const { ask, clock, log } = this.#parts;
    try {
      const cores = await ask(AbortSignal.any([this.#closing.signal, AbortSignal.timeout(askTimeoutMs)]));
      if (!this.#closing.signal.aborted) this.#obey(cores);
    } catch (error) {
      // Many nodes have no OVS; who needs it hears of it from ADD, the doctor and reconciliation.
      log.debug({ reason: messageOf(error) }, 'nobody says which cores are polled');
    }
    if (!this.#closing.signal.aborted) this.#cancel = clock.after(jittered(askEveryMs), () => void this.#look());
  }

  #obey(cores: readonly number[]): void {
    const { keepOff, log } = this.#parts;
    const listed = cores.join(',');
    if (listed === this.#known) return;
    this.#known = listed;
    try {
      if (keepOff(cores)) log.info({ cores }, 'all threads but the pumps keep off the cores that the switch polls');
      else log.warn({ cores }, 'the agent has no core that the switch does not poll: calls will be slow');
    } catch (error) {
      log.warn({ error, cores }, 'the agent cannot keep off the cores that the switch polls: calls will be slow');
    }
  }
}
