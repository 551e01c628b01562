/** Repeatable randomness for properties and fuzzing: a failure names its seed. */
export type Random = () => number;

/** mulberry32. @returns numbers from 0 to below 1 */
export function seededRandom(seed: number): Random {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 0x100000000;
  };
}

/** 0 ≤ n < limit */
export function randomBelow(random: Random, limit: number): number {
  return Math.floor(random() * limit);
}

export function random64(random: Random): bigint {
  return (BigInt(randomBelow(random, 0x100000000)) << 32n) | BigInt(randomBelow(random, 0x100000000));
}

export function randomBytes(random: Random, length: number): Buffer {
  return Buffer.from(Array.from({ length }, () => randomBelow(random, 256)));
}

export function pick<T>(random: Random, from: readonly T[]): T {
  const chosen = from[randomBelow(random, from.length)];
  if (chosen === undefined) throw new Error('nothing to pick from');
  return chosen;
}
