/**
 * Fuzz of the request frame: random bytes and mutations of good frames, cut anywhere, as a root process gone wrong or a
 * torn file of the delete queue would have them. Time-boxed: FUZZ_SECONDS, default 2; VIRTIO_USER_FUZZ_SEED repeats a run.
 */
import { describe, expect, it } from '@jest/globals';
import { type FrameStep, RequestDecoder, verbs } from '../../src/cni/frame.ts';
import { parseQueuedDelete } from '../../src/cni/queued-delete.ts';
import {
  cutShort,
  type Mutation,
  noise,
  unchanged,
  withFlippedBits,
  withSurplus,
  withWord,
} from '../support/byte-mutations.ts';
import { requestFrame } from '../support/cni-request.ts';
import { pick, type Random, randomBelow, seededRandom } from '../support/random.ts';
import { recordedCall, recordedCallNames } from '../support/recorded-call.ts';

const budgetMs = Number(process.env['FUZZ_SECONDS'] ?? 2) * 1000;
const seed = Number(process.env['VIRTIO_USER_FUZZ_SEED'] ?? Date.now() % 0x1_0000_0000);

const good = recordedCallNames.map((name) => {
  const { env, stdin } = recordedCall(name);
  return requestFrame(env, stdin, { fdCount: 1, roles: [1] });
});
const words = [0, 1, 2, 47, 48, 65_535, 65_536, 65_537, 4 << 20, (4 << 20) + 1, 0x7fff_ffff, 0x8000_0000, 0xffff_ffff];

const mutations: readonly Mutation[] = [
  unchanged,
  noise(200),
  cutShort,
  withSurplus,
  withWord(words, 12),
  withFlippedBits(4),
];

function cut(random: Random, bytes: Buffer): Buffer[] {
  const chunks: Buffer[] = [];
  for (let at = 0; at < bytes.length;) {
    const length = 1 + randomBelow(random, random() < 0.5 ? 50 : bytes.length);
    chunks.push(bytes.subarray(at, at + length));
    at += length;
  }
  return chunks;
}

function decode(chunks: readonly Buffer[]): FrameStep {
  const decoder = new RequestDecoder();
  for (const chunk of chunks) {
    const step = decoder.push(chunk);
    if (step.kind !== 'incomplete') return step;
  }
  return { kind: 'incomplete' };
}

describe('the request decoder', () => {
  it(
    `survives ${budgetMs} ms of garbage, whole or in pieces (seed ${seed})`,
    () => {
      const random = seededRandom(seed);
      const kinds = new Map<string, number>();
      const until = performance.now() + budgetMs;
      do {
        const bytes = pick(random, mutations)(random, pick(random, good));
        const step = decode([bytes]);
        kinds.set(step.kind, (kinds.get(step.kind) ?? 0) + 1);
        // However it is cut, the same frame or none: pieces that end early may leave surplus bytes unread.
        const pieces = decode(cut(random, bytes));
        if (step.kind === 'frame') {
          expect(pieces).toEqual(step);
          expect(verbs).toContain(step.frame.verb);
          expect(step.frame.environment.get('CNI_COMMAND')).toBe(step.frame.verb);
          expect(step.frame.fdRoles.length).toBeLessThanOrEqual(3);
        } else if (step.kind === 'incomplete') {
          expect(pieces.kind).toBe('incomplete');
        }
        expect(['delete', 'corrupt']).toContain(parseQueuedDelete('1.1-1.req', bytes).kind);
      } while (performance.now() < until);
      for (const kind of ['frame', 'incomplete', 'malformed', 'foreign-protocol']) {
        expect([kind, kinds.get(kind) ?? 0]).not.toEqual([kind, 0]);
      }
    },
    budgetMs + 30_000,
  );
});
