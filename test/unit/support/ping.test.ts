/** What the tests of bystanders rest on: a loss shows, wherever it falls. */
import { describe, expect, it } from '@jest/globals';
import { readPing } from '../../support/ping.ts';

const startMs = 1_795_638_255_000;

/** What ping prints of answers 10 ms apart. */
function answers(sequences: readonly number[]): string {
  const lines = sequences.map(
    (sequence) =>
      `[${((startMs + 10 * sequence) / 1000).toFixed(6)}] 64 bytes from 10.77.0.3: icmp_seq=${sequence} ttl=64 time=0.4 ms\n`,
  );
  return `PING 10.77.0.3 (10.77.0.3) 56(84) bytes of data.\n${lines.join('')}`;
}

const upTo = (last: number): number[] => Array.from({ length: last }, (_, index) => index + 1);
const atQuit = (sent: number, received: number): string =>
  `\r${sent}/${received} packets, 0% loss, min/avg = 0.1/0.2 ms\n`;
const atEnd = (sent: number, received: number): string =>
  `\n--- 10.77.0.3 ping statistics ---\n${sent} packets transmitted, ${received} received, 98% packet loss, time 9ms\n`;

describe('a ping', () => {
  it('of which all were answered lost none', () => {
    const text = answers(upTo(50)) + atEnd(50, 50);
    expect(readPing(text, startMs + 505)).toMatchObject({ received: 50, lost: 0 });
  });

  it('whose peer dies after 50 answers lost everything from there to its end', () => {
    const text = answers(upTo(50)) + atEnd(3000, 50);
    expect(readPing(text, startMs + 30_000)).toMatchObject({ received: 50, lost: 2950, longestGapMs: 29_500 });
  });

  it('without any answer lost all', () => {
    expect(readPing(answers([]) + atEnd(7, 0), startMs)).toEqual({ received: 0, lost: 7, longestGapMs: 0 });
  });

  it('with a hole lost what is missing, and the hole is its longest silence', () => {
    const text = answers([1, 2, 3, 7, 8]) + atEnd(8, 5);
    expect(readPing(text, startMs + 85)).toMatchObject({ lost: 3, longestGapMs: 40 });
  });

  it('answered out of order or twice lost none', () => {
    expect(readPing(answers([1, 3, 2, 2, 4]) + atEnd(4, 4), startMs + 45).lost).toBe(0);
  });

  it('is judged by what was sent until it was asked, not by what was on its way at the end', () => {
    const text = answers(upTo(20)) + atQuit(20, 19) + answers([21, 22]) + atEnd(24, 22);
    expect(readPing(text, startMs + 225)).toMatchObject({ received: 22, lost: 0 });
  });

  it('lost the last request before it was asked, though later ones were answered', () => {
    expect(readPing(answers(upTo(19)) + atQuit(20, 19) + answers([21]) + atEnd(21, 20), startMs + 215).lost).toBe(1);
  });

  it('that says nothing of what it sent is an error', () => {
    expect(() => readPing(answers(upTo(3)), startMs)).toThrow(/never said/);
  });
});
