/** `ping` at a fixed interval as a bystander: how many were answered and lost, and the longest silence. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Cleanup } from './cleanup.ts';
import type { Inside } from './netns.ts';
import { type Daemon, until } from './process.ts';

export interface PingResult {
  readonly received: number;
  /** Of the requests sent until {@link Ping.stop} was called. */
  readonly lost: number;
  /** Between two answers, or from the last one to the end. */
  readonly longestGapMs: number;
}

/** Longer than any answer takes here: what has not come by then is lost. */
const patienceMs = 3_000;

export class Ping {
  readonly #daemon: Daemon;

  private constructor(daemon: Daemon) {
    this.#daemon = daemon;
  }

  static start(from: Inside, address: string, intervalMs: number, logDirectory: string, cleanup: Cleanup): Ping {
    const log = join(logDirectory, `ping-${from.name}-${address.replaceAll(':', '_')}-${Date.now()}.log`);
    const daemon = from.daemon('ping', log, 'ping', '-n', '-D', '-i', String(intervalMs / 1000), '-W', '5', address);
    cleanup.add('ping', () => daemon.stop('SIGKILL'));
    return new Ping(daemon);
  }

  /** Resolves with the first answer. */
  async answered(): Promise<void> {
    await until('a ping is answered', () => answersIn(this.#said()).length > 0);
  }

  /**
   * Asks ping how many requests it has sent, waits until those had their chance, and ends it: a loss at the very end
   * counts, a request that is still on its way does not.
   */
  async stop(): Promise<PingResult> {
    if (this.#daemon.alive) {
      this.#daemon.signal('SIGQUIT');
      const sent = await until('ping says how many it sent', () => (this.#daemon.alive ? sentBy(this.#said()) : 0));
      const isSettled = (): boolean => answersIn(this.#said()).some(({ sequence }) => sequence >= sent);
      // In vain: then the result says what was lost.
      await until('their answers', isSettled, patienceMs).catch(() => undefined);
    }
    const endMs = Date.now();
    await this.#daemon.stop('SIGINT');
    return readPing(this.#said(), endMs);
  }

  #said(): string {
    return readFileSync(this.#daemon.logPath, 'utf8');
  }
}

interface Answer {
  readonly sequence: number;
  readonly timeMs: number;
}

function answersIn(text: string): Answer[] {
  return Array.from(text.matchAll(/^\[(\d+\.\d+)\] \d+ bytes.*icmp_seq=(\d+)/gm), ([, time, sequence]) => ({
    sequence: Number(sequence),
    timeMs: Number(time) * 1000,
  }));
}

/** How many requests ping says that it sent: at SIGQUIT where there was one, else at its end. */
function sentBy(text: string): number | null {
  const said = /^(\d+)\/\d+ packets,/m.exec(text) ?? /^(\d+) packets transmitted/m.exec(text);
  return said === null ? null : Number(said[1]);
}

/**
 * @param text what `ping -D` printed
 * @param endMs when it was ended, of the same clock
 */
export function readPing(text: string, endMs: number): PingResult {
  const sent = sentBy(text);
  if (sent === null) throw new Error(`ping never said how many it sent:\n${text.slice(-500)}`);
  const answers = answersIn(text);
  const answered = new Set(answers.map(({ sequence }) => sequence).filter((sequence) => sequence <= sent));
  const times = [...answers.map(({ timeMs }) => timeMs), endMs];
  const gaps = times.slice(1).map((time, index) => time - (times[index] ?? time));
  return { received: answers.length, lost: sent - answered.size, longestGapMs: Math.max(0, ...gaps) };
}
