/** `ping` at a fixed interval as a bystander: how many were answered and lost, and the longest gap between answers. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Cleanup } from './cleanup.ts';
import type { Inside } from './netns.ts';
import { type Daemon, until } from './process.ts';

export interface PingResult {
  readonly received: number;
  /** Requests without an answer, apart from those still on their way at the end. */
  readonly lost: number;
  readonly longestGapMs: number;
}

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
    const said = (): string => readFileSync(this.#daemon.logPath, 'utf8');
    await until('a ping is answered', () => /bytes.*icmp_seq=/.test(said()));
  }

  /** SIGINT makes ping print its summary. */
  async stop(): Promise<PingResult> {
    await this.#daemon.stop('SIGINT');
    const text = readFileSync(this.#daemon.logPath, 'utf8');
    const answered = Array.from(text.matchAll(/^\[\d+\.\d+\] \d+ bytes.*icmp_seq=(\d+)/gm), (match) =>
      Number(match[1]),
    );
    const last = Math.max(0, ...answered);
    const times = Array.from(text.matchAll(/^\[(\d+\.\d+)\] \d+ bytes/gm), (match) => Number(match[1]) * 1000);
    let longestGapMs = 0;
    times.forEach((time, index) => {
      if (index > 0) longestGapMs = Math.max(longestGapMs, time - (times[index - 1] ?? time));
    });
    return { received: answered.length, lost: last - new Set(answered).size, longestGapMs };
  }
}
