/** What goes wrong with a message on its way: mutations of good bytes for the fuzz tests of what decodes them. */
import { pick, type Random, randomBelow, randomBytes } from './random.ts';

export type Mutation = (random: Random, bytes: Buffer) => Buffer;

export const unchanged: Mutation = (_random, bytes) => bytes;

/** One of `words` in the place of one of the first `places` words, as a liar in the header would have it. */
export function withWord(words: readonly number[], places: number): Mutation {
  return (random, bytes) => {
    const mutated = Buffer.from(bytes);
    const at = 4 * randomBelow(random, places);
    if (at + 4 <= mutated.length) mutated.writeUInt32LE(pick(random, words), at);
    return mutated;
  };
}

/** One bit, up to `most` times. */
export function withFlippedBits(most: number): Mutation {
  return (random, bytes) => {
    const mutated = Buffer.from(bytes);
    for (let left = 1 + randomBelow(random, most); left > 0; left -= 1) {
      const at = randomBelow(random, mutated.length);
      if (at < mutated.length) mutated[at] = (mutated[at] ?? 0) ^ (1 << randomBelow(random, 8));
    }
    return mutated;
  };
}

export const cutShort: Mutation = (random, bytes) => bytes.subarray(0, randomBelow(random, bytes.length));

export const withSurplus: Mutation = (random, bytes) =>
  Buffer.concat([bytes, randomBytes(random, 1 + randomBelow(random, 40))]);

export function noise(belowBytes: number): Mutation {
  return (random) => randomBytes(random, randomBelow(random, belowBytes));
}

/** Another value for one byte. */
export const withByte: Mutation = (random, bytes) => {
  const mutated = Buffer.from(bytes);
  if (mutated.length > 0) mutated[randomBelow(random, mutated.length)] = randomBelow(random, 256);
  return mutated;
};

/** The head of one and the tail of another. */
export function spliced(random: Random, head: Buffer, tail: Buffer): Buffer {
  return Buffer.concat([
    head.subarray(0, randomBelow(random, head.length + 1)),
    tail.subarray(randomBelow(random, tail.length + 1)),
  ]);
}
