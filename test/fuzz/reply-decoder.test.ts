/**
 * Fuzz of everything a vhost-user backend can make us read: random bytes and structure-aware mutations of good replies,
 * cut anywhere, with descriptors; the decoder is fuzzed as its coverage leads. Time-boxed: VIRTIO_USER_FUZZ_MS, default
 * 2000; VIRTIO_USER_FUZZ_SEED repeats a run.
 */
import { describe, expect, it } from '@jest/globals';
import { VirtioUserError } from '../../src/errors.ts';
import { ReplyDecoder } from '../../src/vhost-user/decoder.ts';
import { encodeMessage, replyFlags } from '../../src/vhost-user/header.ts';
import { requests, type RequestSpec } from '../../src/vhost-user/request.ts';
import {
  cutShort,
  type Mutation,
  noise,
  spliced,
  unchanged,
  withByte,
  withFlippedBits,
  withSurplus,
  withWord,
} from '../support/byte-mutations.ts';
import { connectScripted, settle } from '../support/connection.ts';
import { fuzz, fuzzBudgetMs, fuzzSeed } from '../support/guided-fuzz.ts';
import { FdLedger } from '../support/memory-socket.ts';
import { pick, type Random, randomBelow, randomBytes, seededRandom } from '../support/random.ts';
import { dpdkOffer } from '../support/scripted-backend.ts';

const asks = Object.values(requests)
  .map((spec: RequestSpec) => ({ number: spec.number, size: spec.replyBytes ?? 8 }))
  .concat({ number: 24, size: 268 });
const words = [0, 1, 4, 5, 6, 8, 0xd, 0x15, 0x7fffffff, 0x80000000, 0xfffffff3, 0xfffffff4, 0xffffffff];

const mutations: readonly Mutation[] = [
  unchanged,
  withWord(words, 3),
  withFlippedBits(1),
  withByte,
  cutShort,
  withSurplus,
  (_random, bytes) => Buffer.concat([bytes, bytes]),
  noise(64),
];

/** The stream in pieces of any size, empty ones too. */
function pieces(random: Random, bytes: Buffer): Buffer[] {
  const cut: Buffer[] = [];
  for (let at = 0; at < bytes.length;) {
    const length = randomBelow(random, random() < 0.5 ? 4 : bytes.length + 1);
    cut.push(bytes.subarray(at, at + length));
    at += length;
  }
  return cut;
}

/** A stream as the answer to a request; `cut` seeds how it is cut. */
interface Reply {
  readonly number: number;
  readonly size: number;
  readonly stream: Buffer;
  readonly cut: number;
}

/** What must come of a stream that answers one request, judged on the whole of it. */
function verdict(stream: Buffer, request: number, size: number): 'payload' | 'incomplete' | 'violation' {
  if (stream.length < 12) return 'incomplete';
  const header = [request, replyFlags, size].every((word, index) => stream.readUInt32LE(4 * index) === word);
  if (!header || stream.length > 12 + size) return 'violation';
  return stream.length === 12 + size ? 'payload' : 'incomplete';
}

function decode(chunks: readonly Buffer[], request: number, size: number): Buffer | 'incomplete' | 'violation' {
  const decoder = new ReplyDecoder();
  decoder.expect(request, size);
  let payload: Buffer | null = null;
  try {
    for (const chunk of chunks) payload = decoder.push(chunk) ?? payload;
  } catch (thrown) {
    if (thrown instanceof VirtioUserError && thrown.code === 'PROTOCOL_VIOLATION') return 'violation';
    throw thrown;
  }
  return payload ?? 'incomplete';
}

describe(`reply decoder (seed ${fuzzSeed})`, () => {
  it('[33] gives exactly the good replies, whatever comes and however it is cut', () => {
    const seen = { payload: 0, incomplete: 0, violation: 0 };
    const { runs, corpus } = fuzz<Reply>(
      {
        covers: /\/src\/vhost-user\/(decoder|header|request)\.ts$/,
        generate: (random) => {
          const { number, size } = pick(random, asks);
          const good = encodeMessage(number, replyFlags, randomBytes(random, size));
          return { number, size, stream: pick(random, mutations)(random, good), cut: randomBelow(random, 0x10000) };
        },
        mutate: (random, reply, { stream }) => {
          if (random() < 0.3) return { ...reply, cut: randomBelow(random, 0x10000) };
          if (random() < 0.2) return { ...reply, stream: spliced(random, reply.stream, stream) };
          return { ...reply, stream: pick(random, mutations)(random, reply.stream) };
        },
        run: ({ number, size, stream, cut }) => {
          const expected = verdict(stream, number, size);
          const result = decode(pieces(seededRandom(cut), stream), number, size);
          seen[expected] += 1;
          const context = `${stream.toString('hex')} as reply to ${number}, cut ${cut}`;
          if (expected === 'payload') expect([context, result]).toEqual([context, stream.subarray(12)]);
          else expect([context, result]).toEqual([context, expected]);
        },
      },
      { seed: fuzzSeed, budgetMs: fuzzBudgetMs },
    );
    process.stderr.write(`reply decoder: ${runs} runs, ${corpus.length} inputs kept\n`);
    for (const count of Object.values(seen)) expect(count).toBeGreaterThan(0);
    expect(corpus.length).toBeGreaterThan(2);
  });
});

describe(`channel (seed ${fuzzSeed})`, () => {
  it('[36] ends with a typed error or an answer, and closes every descriptor', async () => {
    const random = seededRandom(fuzzSeed ^ 0x5eed);
    const until = performance.now() + fuzzBudgetMs / 2;
    const ledger = new FdLedger();
    while (performance.now() < until) {
      const fds = random() < 0.3 ? Array.from({ length: 1 + randomBelow(random, 8) }, () => ledger.make()) : [];
      const good = encodeMessage(1, replyFlags, randomBytes(random, 8));
      const bytes = pick(random, mutations)(random, good);
      const { frontend } = connectScripted(
        {
          ...dpdkOffer,
          misbehave: ({ name }) => (name === 'GET_FEATURES' ? { kind: 'bytes', bytes, fds, close: true } : null),
        },
        ledger,
      );
      await frontend.setOwner();
      const outcome = await frontend.getFeatures().then(
        () => null,
        (error: unknown) => error,
      );
      if (outcome !== null) expect(outcome).toBeInstanceOf(VirtioUserError);
      frontend.close();
      fds.forEach((fd) => fd.close());
      await settle();
      expect(ledger.open).toBe(0);
    }
  });
});
