/**
 * Fuzz of what a vhost-user backend can send us unasked, on the back channel: random bytes and mutations of good
 * requests, cut anywhere, with descriptors; the decoder is fuzzed as its coverage leads. Time-boxed: VIRTIO_USER_FUZZ_MS,
 * default 2000; VIRTIO_USER_FUZZ_SEED repeats a run.
 */
import { describe, expect, it } from '@jest/globals';
import { VirtioUserError } from '../../src/errors.ts';
import { BackRequestDecoder, backRequests } from '../../src/vhost-user/back-request.ts';
import { BackPeer, backMessage, configChange } from '../support/back-peer.ts';
import {
  cutShort,
  type Mutation,
  noise,
  spliced,
  unchanged,
  withByte,
  withFlippedBits,
  withWord,
} from '../support/byte-mutations.ts';
import { connectScripted, deviceWorld, settle } from '../support/connection.ts';
import { fuzz, fuzzBudgetMs, fuzzSeed } from '../support/guided-fuzz.ts';
import { pick, type Random, randomBelow, randomBytes, seededRandom } from '../support/random.ts';
import { dpdkOffer } from '../support/scripted-backend.ts';

const known = Object.values(backRequests);
const words = [0, 1, 2, 4, 5, 8, 9, 0xd, 0x11, 24, 255, 256, 257, 0x7fffffff, 0x80000000, 0xfffffff4, 0xffffffff];

function goodRequest(random: Random): Buffer {
  const { number, payloadBytes } =
    random() < 0.5 ? { number: configChange, payloadBytes: 0 } : { ...pick(random, known) };
  const unknown = random() < 0.1;
  const payload = randomBytes(random, unknown ? randomBelow(random, 257) : payloadBytes);
  // Small numbers in the first word: rings that there are, and the next.
  if (payload.length >= 8 && random() < 0.7) payload.writeUInt32LE(randomBelow(random, 4));
  return backMessage(unknown ? pick(random, words) : number, payload, random() < 0.5);
}

const mutations: readonly Mutation[] = [
  unchanged,
  unchanged,
  unchanged,
  withWord(words, 3),
  withFlippedBits(1),
  cutShort,
  noise(64),
];

function stream(random: Random): Buffer {
  const parts = Array.from({ length: 1 + randomBelow(random, 6) }, () => {
    const good = goodRequest(random);
    return random() < 0.8 ? good : pick(random, mutations)(random, good);
  });
  return Buffer.concat(parts);
}

/** `cut` seeds how it is cut, and where descriptors come along. */
interface Stream {
  readonly bytes: Buffer;
  readonly cut: number;
}

interface Piece {
  readonly bytes: Buffer;
  readonly descriptors: number;
}

function pieces(random: Random, bytes: Buffer): Piece[] {
  const cut: Piece[] = [];
  for (let at = 0; at < bytes.length;) {
    const length = 1 + randomBelow(random, random() < 0.5 ? 8 : bytes.length);
    const descriptors = random() < 0.15 ? 1 + randomBelow(random, 8) : 0;
    cut.push({ bytes: bytes.subarray(at, at + length), descriptors });
    at += length;
  }
  return cut;
}

/** `number served|refused`, `!` where an answer is due; `violation` ends it. */
type Verdict = string;

/** What must come of a stream, judged on the whole of it. `rings`: two. */
function verdicts(cut: readonly Piece[]): Verdict[] {
  const bytes = Buffer.concat(cut.map((piece) => piece.bytes));
  // Offset of the last byte of each piece that brought descriptors.
  const marks: number[] = [];
  cut.reduce((at, piece) => {
    const end = at + piece.bytes.length;
    if (piece.descriptors > 0) marks.push(end - 1);
    return end;
  }, 0);
  const result: Verdict[] = [];
  for (let at = 0; bytes.length - at >= 12;) {
    const [number = 0, flags = 0, size = 0] = [0, 4, 8].map((offset) => bytes.readUInt32LE(at + offset));
    if ((flags !== 1 && flags !== 9) || size > 256) return [...result, 'violation'];
    const end = at + 12 + size;
    if (bytes.length < end) break;
    const served = number === 2 && size === 0 && !marks.some((mark) => mark >= at && mark < end);
    result.push(`${number} ${served ? 'served' : 'refused'}${flags === 9 ? '!' : ''}`);
    at = end;
  }
  return result;
}

function decode(cut: readonly Piece[]): Verdict[] {
  const decoder = new BackRequestDecoder(() => 2);
  const result: Verdict[] = [];
  try {
    for (const { bytes, descriptors } of cut) {
      for (const { number, needsReply, refusal } of decoder.take(bytes, descriptors)) {
        result.push(`${number} ${refusal === null ? 'served' : 'refused'}${needsReply ? '!' : ''}`);
      }
    }
  } catch (thrown) {
    if (thrown instanceof VirtioUserError && thrown.code === 'PROTOCOL_VIOLATION') return [...result, 'violation'];
    throw thrown;
  }
  return result;
}

describe(`decoder of the backend's requests (seed ${fuzzSeed})`, () => {
  it('[42] judges every request alike, whatever comes and however it is cut', () => {
    const seen = { served: 0, refused: 0, violation: 0 };
    const { runs, corpus } = fuzz<Stream>(
      {
        covers: /\/src\/vhost-user\/(back-request|header)\.ts$/,
        generate: (random) => ({ bytes: stream(random), cut: randomBelow(random, 0x10000) }),
        mutate: (random, { bytes, cut }, other) => {
          if (random() < 0.3) return { bytes, cut: randomBelow(random, 0x10000) };
          if (random() < 0.3) return { bytes: spliced(random, bytes, other.bytes), cut };
          return { bytes: pick(random, [...mutations, withByte])(random, bytes), cut };
        },
        run: ({ bytes, cut: seed }) => {
          const cut = pieces(seededRandom(seed), bytes);
          const expected = verdicts(cut);
          const context = cut.map((piece) => `${piece.bytes.toString('hex')}+${piece.descriptors}`).join(' ');
          expect([context, decode(cut)]).toEqual([context, expected]);
          for (const verdict of expected) {
            seen[verdict === 'violation' ? 'violation' : verdict.includes('served') ? 'served' : 'refused'] += 1;
          }
        },
      },
      { seed: fuzzSeed, budgetMs: fuzzBudgetMs },
    );
    process.stderr.write(`back requests: ${runs} runs, ${corpus.length} inputs kept\n`);
    for (const count of Object.values(seen)) expect(count).toBeGreaterThan(0);
    expect(corpus.length).toBeGreaterThan(2);
  });
});

describe(`back channel (seed ${fuzzSeed})`, () => {
  it('[42] answers what asks for it, closes every descriptor, and never costs the device', async () => {
    const random = seededRandom(fuzzSeed ^ 0xbac);
    const until = performance.now() + fuzzBudgetMs;
    while (performance.now() < until) {
      const { device, ledger } = deviceWorld();
      const { frontend, backend, timers } = connectScripted(dpdkOffer, ledger);
      await device.bringUp(frontend);
      const peer = new BackPeer(backend, ledger);
      const open = ledger.open;
      const cut = pieces(random, stream(random));
      for (const { bytes, descriptors } of cut) {
        const fds = Array.from({ length: descriptors }, () => ledger.make());
        peer.say(bytes, fds);
        for (const fd of fds) fd.close();
      }
      await settle();
      const expected = verdicts(cut);
      expect(peer.answers).toEqual(
        expected
          .filter((verdict) => verdict.endsWith('!'))
          .map((verdict) => `${verdict.split(' ')[0] ?? ''}: ${verdict.includes('served') ? 0 : 1}`),
      );
      expect([peer.closed, ledger.open]).toEqual([expected.includes('violation'), open]);
      expect([await device.probe(5000), backend.violations]).toEqual([true, []]);
      await device.shutDown();
      backend.die();
      await settle();
      expect([ledger.open, timers.pending]).toEqual([0, []]);
    }
  });
});
