/**
 * Keeps the agent's threads, but for the pumps, off the cores that the switch polls, from start to stop. What wakes there
 * waits for a tick of the kernel (up to 4 ms), and takes the core from the switch; an ADD wakes some twenty times.
 *
 * The switch says which cores are its own, and may not poll them yet: OVS starts a polling thread with its first port. To
 * keep off a core that idles would cost calls as much as it saves them on one that is polled. So both are looked at.
 */
import type { Timers } from '../clock.ts';
import { messageOf } from '../errors.ts';
import type { Logger } from '../telemetry/log.ts';
import { jittered } from './schedule.ts';

/** An admin may change the mask at any time, and a switch may start later than the agent. */
const askEveryMs = 60_000;
const askTimeoutMs = 5_000;
const lookEveryMs = 1_000;
/** Idle shares: a switch that gets or loses a port stops its threads for a moment. */
const polledMost = 0.1;
const idleLeast = 0.5;

export interface PollingCoreWatchParts {
  /** The cores that are the switch's. Rejects when nobody can say: what was known stands. */
  readonly ask: (signal: AbortSignal) => Promise<readonly number[]>;
  /** Core → idle share since the last call. */
  readonly idleShares: () => ReadonlyMap<number, number>;
  /** @returns false when the process has no other cores */
  readonly keepOff: (cores: readonly number[]) => boolean;
  readonly clock: Pick<Timers, 'after'>;
  readonly log: Logger;
}

export class PollingCoreWatch {
  readonly #parts: PollingCoreWatchParts;
  readonly #closing = new AbortController();
  #cancelAsk: () => void = () => undefined;
  #cancelLook: () => void = () => undefined;
  #named: readonly number[] = [];
  #polled: readonly number[] = [];
  /** Whether threads keep off something at the moment. */
  #keepsOff = false;
  /** What the log has last been told. */
  #said = '';

  constructor(parts: PollingCoreWatchParts) {
    this.#parts = parts;
  }

  open(): void {
    void this.#ask();
  }

  close(): void {
    this.#closing.abort();
    this.#cancelAsk();
    this.#cancelLook();
  }

  async #ask(): Promise<void> {
    const { ask, clock, log } = this.#parts;
    const closing = this.#closing.signal;
    try {
      const named = await ask(AbortSignal.any([closing, AbortSignal.timeout(askTimeoutMs)]));
      if (!closing.aborted) this.#name(named);
    } catch (error) {
      // Many nodes have no OVS; who needs it hears of it from ADD, the doctor and reconciliation.
      log.debug({ reason: messageOf(error) }, 'nobody says which cores are polled');
    }
    if (!closing.aborted) this.#cancelAsk = clock.after(jittered(askEveryMs), () => void this.#ask());
  }

  #name(named: readonly number[]): void {
    const looks = this.#named.length > 0;
    this.#named = named;
    if (named.length > 0) {
      if (!looks) this.#look();
      return;
    }
    this.#cancelLook();
    this.#obey([]);
  }

  #look(): void {
    const { idleShares, clock, log } = this.#parts;
    try {
      const shares = idleShares();
      // Without a share, as at the first look, a core stays what it was.
      const isPolled = (core: number): boolean =>
        this.#polled.includes(core) ? (shares.get(core) ?? 0) < idleLeast : (shares.get(core) ?? 1) <= polledMost;
      this.#obey(this.#named.filter(isPolled));
    } catch (error) {
      log.debug({ reason: messageOf(error) }, 'nobody says how idle the cores are');
    }
    this.#cancelLook = clock.after(lookEveryMs, () => this.#look());
  }

  /** Also when nothing has changed: before Linux 6.2 a change of the cpuset gives all cores back. */
  #obey(polled: readonly number[]): void {
    const { keepOff, log } = this.#parts;
    this.#polled = polled;
    if (polled.length === 0 && !this.#keepsOff) return;
    const listed = polled.join();
    try {
      if (keepOff(polled)) {
        this.#keepsOff = polled.length > 0;
        this.#once(listed, () => log.info({ polled }, 'all threads but the pumps keep off the cores that are polled'));
      } else {
        const what = 'the agent has no core that the switch does not poll: calls are slow';
        this.#once(`none but ${listed}`, () => log.warn({ polled }, what));
      }
    } catch (error) {
      const what = 'the agent cannot keep off the cores that are polled: calls are slow';
      this.#once(`${listed}: ${messageOf(error)}`, () => log.warn({ error, polled }, what));
    }
  }

  #once(outcome: string, tell: () => void): void {
    if (outcome !== this.#said) tell();
    this.#said = outcome;
  }
}
