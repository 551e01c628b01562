/**
 * Fuzzing led by coverage, as libFuzzer does it for native code: an input that gets where none got before, or there
 * another order of times, is kept, and what comes next is made of those. V8 counts the blocks (its profiler's precise
 * coverage); reading the counts costs as much as many runs, so that inputs are judged in bursts, which are halved where
 * they brought something new.
 */
import { type Profiler, Session } from 'node:inspector';
import { pick, type Random, randomBelow, seededRandom } from './random.ts';

/** Of every fuzz test; VIRTIO_USER_FUZZ_MS makes it longer. */
export const fuzzBudgetMs = Number(process.env['VIRTIO_USER_FUZZ_MS'] ?? 2000);
/** Names of tests show it; VIRTIO_USER_FUZZ_SEED repeats a run. */
export const fuzzSeed = Number(process.env['VIRTIO_USER_FUZZ_SEED'] ?? Date.now() % 0x100000000);

export interface FuzzTarget<Input> {
  /** Files whose coverage counts. */
  readonly covers: RegExp;
  readonly generate: (random: Random) => Input;
  /** @param other another kept input, to splice with */
  readonly mutate: (random: Random, input: Input, other: Input) => Input;
  /** Throws what it finds. */
  readonly run: (input: Input) => void;
}

export interface FuzzLimits {
  readonly seed: number;
  readonly budgetMs: number;
  readonly maximumRuns?: number;
  /** false: keeps nothing, and every input is made anew. */
  readonly guided?: boolean;
}

export interface FuzzReport<Input> {
  readonly runs: number;
  readonly corpus: readonly Input[];
}

/** A burst that brings nothing new makes the next twice as long. */
const burstInputs = { least: 256, most: 4096 } as const;
/** One in so many is looked at in any case: it may have got to a known place another number of times. */
const sampled = 64;
const mostMutations = 3;

/** @throws what `run` throws, as the cause of an error that names the run */
export function fuzz<Input>(target: FuzzTarget<Input>, limits: FuzzLimits): FuzzReport<Input> {
  const random = seededRandom(limits.seed);
  const corpus: Input[] = [];
  const seen = new Seen();
  let runs = 0;

  const run = (input: Input): void => {
    runs += 1;
    try {
      target.run(input);
    } catch (thrown) {
      throw new Error(`seed ${limits.seed}, run ${runs}`, { cause: thrown });
    }
  };
  const next = (): Input => {
    if (limits.guided === false || corpus.length === 0 || random() < 0.2) return target.generate(random);
    // The latest got furthest.
    const recent = corpus.slice(-4);
    let input = pick(random, random() < 0.5 ? recent : corpus);
    for (let left = 1 + randomBelow(random, mostMutations); left > 0; left -= 1) {
      input = target.mutate(random, input, pick(random, corpus));
    }
    return input;
  };
  const consider = (input: Input): void => {
    run(input);
    if (seen.add(take(target.covers))) corpus.push(input);
  };
  /** @param inputs just run, and one of them went where none was before */
  const halve = (inputs: readonly Input[]): void => {
    const [only, ...more] = inputs;
    if (only === undefined) return;
    if (more.length === 0) {
      consider(only);
      return;
    }
    const middle = inputs.length >> 1;
    for (const half of [inputs.slice(0, middle), inputs.slice(middle)]) {
      for (const input of half) run(input);
      // What the first half has shown is no news in the second.
      if (seen.lacks(take(target.covers))) halve(half);
    }
  };

  take(target.covers);
  const end = performance.now() + limits.budgetMs;
  let length: number = burstInputs.least;
  while (performance.now() < end && runs < (limits.maximumRuns ?? Infinity)) {
    const burst = Array.from({ length }, next);
    for (const input of burst) run(input);
    if (limits.guided === false) continue;
    const fresh = seen.lacks(take(target.covers));
    if (fresh) halve(burst);
    length = fresh ? burstInputs.least : Math.min(2 * length, burstInputs.most);
    for (const input of burst.slice(0, burst.length / sampled)) consider(input);
  }
  return { runs, corpus };
}

/** By file: for each character of it, 0 where it was not run, else 1 plus the logarithm of how often. */
type Orders = ReadonlyMap<string, Uint8Array>;

/** Orders that there were before, a bit each. */
class Seen {
  readonly #files = new Map<string, Uint8Array>();

  /** Whether these get where none got. */
  lacks(orders: Orders): boolean {
    return [...orders].some(([url, file]) => {
      const known = this.#files.get(url);
      return file.some((order, at) => order > 0 && (known?.[at] ?? 0) === 0);
    });
  }

  /** @returns whether there was a place, or an order, that was new */
  add(orders: Orders): boolean {
    let fresh = false;
    for (const [url, file] of orders) {
      const before = this.#files.get(url) ?? new Uint8Array(0);
      const known = new Uint8Array(Math.max(before.length, file.length));
      known.set(before);
      for (const [at, order] of file.entries()) {
        const bits = known[at] ?? 0;
        const wanted = order === 0 ? bits : bits | (1 << (order - 1));
        if (wanted === bits) continue;
        known[at] = wanted;
        fresh = true;
      }
      this.#files.set(url, known);
    }
    return fresh;
  }
}

/** For the life of the process: V8 counts blocks only in what it compiles from now on, and not again after a stop. */
const profiler = new Session();
profiler.connect();
profiler.post('Profiler.enable');
profiler.post('Profiler.startPreciseCoverage', { callCount: true, detailed: true });

/** What was run of these files since the last look. */
function take(files: RegExp): Orders {
  // Within one isolate the answer is there before `post` returns.
  let scripts: readonly Profiler.ScriptCoverage[] = [];
  profiler.post('Profiler.takePreciseCoverage', (error, { result }) => {
    if (error !== null) throw error;
    scripts = result;
  });
  return new Map(scripts.filter(({ url }) => files.test(url)).map((script) => [script.url, ordersOf(script)]));
}

/** Ranges are nested, and one that is run as often as what is around it is not named: so the inner paints over the outer. */
function ordersOf({ functions }: Profiler.ScriptCoverage): Uint8Array {
  const ranges = functions.flatMap((one) => one.ranges);
  const orders = new Uint8Array(Math.max(0, ...ranges.map(({ endOffset }) => endOffset)));
  for (const { startOffset, endOffset, count } of ranges) {
    orders.fill(count === 0 ? 0 : Math.min(32 - Math.clz32(count), 8), startOffset, endOffset);
  }
  return orders;
}
