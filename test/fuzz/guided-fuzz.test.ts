/** The driver of the fuzz tests itself: it must find what chance does not. */
import { describe, expect, it } from '@jest/globals';
import { withByte } from '../support/byte-mutations.ts';
import { fuzz, type FuzzTarget } from '../support/guided-fuzz.ts';
import { randomBytes } from '../support/random.ts';

/** Runs are counted here, so that a slow machine does the same. */
const budgetMs = 60_000;

/** A bug behind conditions of which each is easy once the one before holds. */
function planted(bytes: Buffer): void {
  if (bytes[0] === 0x7f) {
    if (bytes[1] === 0x45) {
      if (bytes[2] === 0x4c) {
        if (bytes[3] === 0x46) throw new Error('planted');
      }
    }
  }
}

const timesOf = (bytes: Buffer): number => (bytes[0] ?? 0) & 63;

/** Runs a loop up to 63 times. */
function counted(bytes: Buffer): void {
  for (let left = timesOf(bytes); left > 0; left -= 1) bytes.at(0);
}

const target = (run: (bytes: Buffer) => void): FuzzTarget<Buffer> => ({
  covers: /guided-fuzz\.test\.ts$/,
  generate: (random) => randomBytes(random, 8),
  mutate: withByte,
  run,
});

describe('a fuzz run', () => {
  const patience = 2 * budgetMs;

  it(
    'gets to a bug behind nested conditions, which chance does not in many times as many runs',
    () => {
      const limits = { seed: 1, budgetMs, maximumRuns: 50_000 };
      expect(() => fuzz(target(planted), limits)).toThrow(
        expect.objectContaining({ message: expect.stringMatching(/^seed 1, run \d+$/), cause: new Error('planted') }),
      );
      const blind = fuzz(target(planted), { ...limits, maximumRuns: 100_000, guided: false });
      expect(blind.corpus).toEqual([]);
    },
    patience,
  );

  it(
    'keeps inputs that run a known block another order of times',
    () => {
      const { corpus } = fuzz(target(counted), { seed: 1, budgetMs, maximumRuns: 20_000 });
      // 2 to 3, 4 to 7, … 32 to 63 times.
      const orders = new Set(corpus.map((bytes) => Math.clz32(timesOf(bytes))));
      expect([...orders]).toEqual(expect.arrayContaining([26, 27, 28, 29, 30]));
      expect(corpus.length).toBeLessThan(20);
    },
    patience,
  );

  it(
    'is the same again with the same seed',
    () => {
      const limits = { seed: 7, budgetMs, maximumRuns: 2_000 };
      const first = fuzz(target(counted), limits);
      expect(first.corpus.length).toBeGreaterThan(3);
      expect(fuzz(target(counted), limits)).toEqual(first);
    },
    patience,
  );
});
