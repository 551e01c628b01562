/**
 * Everything that can be asked of a device, asked at random moments. Calls are serialised, so that what each connection
 * sees is known: the messages of one call after those of another, in the order of the calls, cut off where it ended.
 */
import { describe, expect, it } from '@jest/globals';
import { featureMask } from '../../src/virtio/feature.ts';
import { connectScripted, deviceWorld, settle } from '../support/connection.ts';
import { pick, type Random, randomBelow, seededRandom } from '../support/random.ts';
import type { ScriptedBackend } from '../support/scripted-backend.ts';

const queues = 3;

interface Peer {
  readonly features: bigint;
  readonly protocolFeatures: bigint;
  readonly pairs: number;
  readonly acked: string;
  readonly protocol: string;
}

/** No merging: an MTU may need larger buffers, which go into the memory table of the running device. */
const peers: readonly Peer[] = [
  {
    features: featureMask(0, 22, 30, 32),
    protocolFeatures: 0x10019n, // MQ, REPLY_ACK, MTU, STATUS
    pairs: queues,
    acked: `0x${featureMask(0, 22, 30, 32).toString(16)}`,
    protocol: '0x10019',
  },
  {
    features: featureMask(0, 22, 30, 32),
    protocolFeatures: 0x11n, // MQ, MTU
    pairs: queues,
    acked: `0x${featureMask(0, 22, 30, 32).toString(16)}`,
    protocol: '0x11',
  },
  { features: featureMask(0, 32), protocolFeatures: 0n, pairs: 1, acked: '0x100000001', protocol: '' },
];

type Request =
  | { readonly kind: 'bring up' | 'shut down' | 'probe' | 'die' }
  | { readonly kind: 'mtu'; readonly mtu: number }
  | { readonly kind: 'pairs'; readonly pairs: number };

function randomRequest(random: Random): Request {
  const kind = pick(random, [
    'bring up',
    'shut down',
    'probe',
    'probe',
    'die',
    'mtu',
    'mtu',
    'pairs',
    'pairs',
  ] as const);
  switch (kind) {
    case 'mtu':
      return { kind, mtu: pick(random, [1400, 1500, 5000, 9000, 14000]) };
    case 'pairs':
      return { kind, pairs: randomBelow(random, queues + 2) };
    default:
      return { kind };
  }
}

/** What each request puts on the wire of the connection that is in use when its turn comes. */
class Expected {
  readonly #peer: Peer;
  readonly #rings: readonly number[];
  mtu = 1500;
  active: number;
  /** What one receive buffer holds, in whole pages. */
  #pages = 1;
  #regions = 1;

  constructor(peer: Peer) {
    this.#peer = peer;
    this.#rings = Array.from({ length: 2 * peer.pairs }, (_, ring) => ring);
    this.active = peer.pairs;
  }

  handshake(): string[] {
    const { protocol, acked } = this.#peer;
    this.#pages = this.#pagesOf(this.mtu);
    this.#regions = 1;
    const resting = this.#rings.slice(2 * this.active);
    return [
      'SET_OWNER',
      'GET_FEATURES',
      ...this.#with(30, ['GET_PROTOCOL_FEATURES', `SET_PROTOCOL_FEATURES ${protocol}`, 'GET_QUEUE_NUM']),
      ...this.#rings.map((ring) => this.#told(`SET_VRING_CALL ${ring}`)),
      this.#told(`SET_FEATURES ${acked}`),
      ...(this.#status ? [this.#told('SET_STATUS 0xb'), 'GET_STATUS'] : []),
      ...this.#tellMtu(),
      ...this.#table(),
      ...this.#rings.flatMap((ring) => this.#start(ring)),
      ...this.#with(30, [
        ...this.#enable(this.#rings.slice(0, 2 * this.active), true),
        ...this.#enable(resting, false),
      ]),
      ...this.#end(resting.length > 0),
    ];
  }

  changeMtu(mtu: number): string[] {
    if (mtu === this.mtu) return [];
    this.mtu = mtu;
    const pages = this.#pagesOf(mtu);
    if (pages <= this.#pages) return this.#tellMtu();
    this.#pages = pages;
    this.#regions += 1;
    const active = this.#rings.slice(0, 2 * this.active);
    if ((this.#peer.features & featureMask(30)) !== 0n) {
      return [...this.#enable(active, false), ...this.#table(), ...this.#enable(active, true), ...this.#tellMtu()];
    }
    return [
      ...this.#rings.map((ring) => `GET_VRING_BASE ${ring} 0`),
      ...this.#table(),
      ...this.#rings.map((ring) => this.#told(`SET_VRING_CALL ${ring}`)),
      ...this.#rings.flatMap((ring) => this.#start(ring)),
    ];
  }

  switchPairs(pairs: number): string[] {
    const [from, to] = [this.active, pairs];
    this.active = pairs;
    if (to < from) return this.#enable(this.#rings.slice(2 * to, 2 * from), false);
    return this.#enable(this.#rings.slice(2 * from, 2 * to), true);
  }

  probe(): string[] {
    return [this.#status ? 'GET_STATUS' : 'GET_FEATURES'];
  }

  stop(): string[] {
    return [
      ...this.#with(30, this.#enable(this.#rings, false)),
      ...this.#rings.map((ring) => `GET_VRING_BASE ${ring} 0`),
    ];
  }

  /** @param confirmed by a barrier just now */
  #end(confirmed: boolean): string[] {
    if (this.#status) return [this.#told('SET_STATUS 0xf')];
    return confirmed ? [] : ['GET_FEATURES'];
  }

  get #status(): boolean {
    return (this.#peer.protocolFeatures & 0x10000n) !== 0n;
  }

  #pagesOf(mtu: number): number {
    return Math.ceil((12 + 18 + mtu) / 4096);
  }

  #with(bit: number, lines: readonly string[]): readonly string[] {
    return (this.#peer.features & featureMask(bit)) === 0n ? [] : lines;
  }

  /** With the mark of one that asks for an acknowledgement, where those were agreed on. */
  #told(line: string): string {
    return (this.#peer.protocolFeatures & 8n) === 0n ? line : line.replace(/^\w+/, '$&!');
  }

  /** Followed by a barrier, where there are no acknowledgements. */
  #confirmed(line: string): string[] {
    return (this.#peer.protocolFeatures & 8n) === 0n ? [line, 'GET_FEATURES'] : [line];
  }

  #table(): string[] {
    return this.#confirmed(this.#told(`SET_MEM_TABLE ${this.#regions}`));
  }

  #tellMtu(): string[] {
    return (this.#peer.protocolFeatures & 0x10n) === 0n ? [] : [this.#told(`NET_SET_MTU ${this.mtu}`)];
  }

  #enable(rings: readonly number[], enabled: boolean): string[] {
    return rings.flatMap((ring) => {
      const line = this.#told(`SET_VRING_ENABLE ${ring} ${enabled ? 1 : 0}`);
      return enabled ? [line] : this.#confirmed(line);
    });
  }

  #start(ring: number): string[] {
    return [`NUM ${ring} 1024`, `BASE ${ring} 0`, `ADDR ${ring}`, `KICK ${ring}`].map((line) =>
      this.#told(`SET_VRING_${line}`),
    );
  }
}

interface Asked {
  readonly request: Request;
  /** Of a bring-up. */
  readonly backend: ScriptedBackend | null;
  readonly outcome: PromiseSettledResult<unknown>;
}

/** Plays the requests on a model, in the order of the calls, and compares what every connection saw. */
function judge(peer: Peer, asked: readonly Asked[], died: ReadonlySet<ScriptedBackend>): void {
  const expected = new Expected(peer);
  let inUse: ScriptedBackend | null = null;
  const traces = new Map<ScriptedBackend, string[]>();
  const say = (lines: () => string[]): void => {
    if (inUse !== null) traces.get(inUse)?.push(...lines());
  };
  for (const { request, backend, outcome } of asked) {
    // What a dead connection cut short has had no effect.
    const worked = outcome.status === 'fulfilled';
    switch (request.kind) {
      case 'bring up':
        if (backend === null) break;
        if (inUse === null) traces.set(backend, expected.handshake());
        else traces.set(backend, []);
        if (worked) inUse = backend;
        break;
      case 'mtu': {
        const before = expected.mtu;
        say(() => expected.changeMtu(request.mtu));
        if (!worked) expected.mtu = before;
        break;
      }
      case 'pairs': {
        const before = expected.active;
        if (request.pairs >= 1 && request.pairs <= peer.pairs) say(() => expected.switchPairs(request.pairs));
        if (!worked) expected.active = before;
        break;
      }
      case 'probe':
        say(() => expected.probe());
        break;
      case 'shut down':
        say(() => expected.stop());
        inUse = null;
        break;
      case 'die':
      // Where the trace was cut off.
    }
  }
  for (const [backend, lines] of traces) {
    expect(backend.violations).toEqual([]);
    const cameUp = asked.some((one) => one.backend === backend && one.outcome.status === 'fulfilled');
    expect(backend.trace).toEqual(cameUp && !died.has(backend) ? lines : lines.slice(0, backend.trace.length));
  }
}

async function play(seed: number): Promise<void> {
  const random = seededRandom(seed);
  const peer = pick(random, peers);
  const { device, ledger } = deviceWorld({ mrgRxbuf: false, queues });
  const died = new Set<ScriptedBackend>();
  const backends: ScriptedBackend[] = [];
  const asked: {
    readonly request: Request;
    readonly backend: ScriptedBackend | null;
    readonly promise: Promise<unknown>;
  }[] = [];
  let seen = 0;

  const ask = (request: Request): void => {
    let backend: ScriptedBackend | null = null;
    const begin = (): Promise<unknown> => {
      switch (request.kind) {
        case 'bring up': {
          const connection = connectScripted(
            { ...peer, queuePairs: queues, onMessage: () => fire((seen += 1)) },
            ledger,
          );
          ({ backend } = connection);
          backends.push(backend);
          return device.bringUp(connection.frontend);
        }
        case 'mtu':
          return device.setMtu(request.mtu);
        case 'pairs':
          return device.control({ kind: 'queue-pairs', pairs: request.pairs });
        case 'probe':
          return device.probe(5000);
        case 'shut down':
          return device.shutDown();
        case 'die': {
          const last = backends.at(-1);
          if (last !== undefined) died.add(last);
          last?.die();
          return Promise.resolve();
        }
      }
    };
    const promise = begin();
    promise.catch(() => undefined);
    asked.push({ request, backend, promise });
  };
  const waiting = Array.from({ length: 14 }, () => ({ at: randomBelow(random, 140), request: randomRequest(random) }));
  const fire = (at: number): void => {
    for (const due of waiting.filter((one) => one.at <= at)) {
      waiting.splice(waiting.indexOf(due), 1);
      ask(due.request);
    }
  };

  ask({ kind: 'bring up' });
  for (let played = 0; played < asked.length;) {
    played = asked.length;
    await Promise.allSettled(asked.map(({ promise }) => promise));
    await settle();
    // Nothing moves any more: the next one need not wait for a message.
    const next = waiting.shift();
    if (next !== undefined) ask(next.request);
  }
  ask({ kind: 'shut down' });
  const outcomes = await Promise.allSettled(asked.map(({ promise }) => promise));
  await settle();
  judge(
    peer,
    asked.map(({ request, backend }, index) => ({
      request,
      backend,
      outcome: outcomes[index] ?? { status: 'rejected', reason: null },
    })),
    died,
  );
  for (const backend of backends) backend.die();
  await settle();
  expect(ledger.open).toBe(0);
}

describe('a device of which everything is asked at random moments', () => {
  it.each(Array.from({ length: 4 }, (_, index) => [index]))(
    '[50] [39] says one sequence after another on every connection (seeds from %d00)',
    async (hundred) => {
      for (let seed = 100 * hundred; seed < 100 * hundred + 100; seed += 1) {
        try {
          await play(seed);
        } catch (thrown) {
          throw new Error(`seed ${seed}`, { cause: thrown });
        }
      }
    },
  );
});
