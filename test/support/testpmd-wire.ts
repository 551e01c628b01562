/** Two pods of ours, testpmd's two net_vhost ports between them as a wire, and traffic whose ends and counters agree. */
import { chmodSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { NativeBinding } from '../../src/native/binding.ts';
import type { Cleanup } from './cleanup.ts';
import { Connections, Pod, ringFrames, type Running } from './pod.ts';
import { until } from './process.ts';
import type { Load, Reflected } from './reflect.ts';
import { Testpmd, type TestpmdOptions } from './testpmd.ts';

export interface WireOptions {
  readonly pairs: number;
  /** We listen, testpmd connects. */
  readonly server: boolean;
  readonly tso: boolean;
}

export interface RingOptions {
  readonly packed: boolean;
  readonly mergeable: boolean;
  readonly inOrder: boolean;
}

/** Sent and received of pod 0, then of pod 1; and what testpmd could not hand to each (its ring was full). */
export interface WireCounters {
  readonly frames: readonly bigint[];
  readonly refused: readonly bigint[];
}

export const wireMtu = 1500;
const script = fileURLToPath(new URL('./reflect.ts', import.meta.url));
const node = [process.execPath, '--no-warnings', script] as const;
const port = 5300;

const difference = (now: readonly bigint[], then: readonly bigint[]): bigint[] =>
  now.map((n, i) => n - (then[i] ?? 0n));

export class TestpmdWire {
  testpmd: Testpmd;
  readonly #directory: string;
  readonly pods: readonly [Pod, Pod];
  readonly #options: WireOptions;
  readonly #binding: NativeBinding;

  private constructor(
    directory: string,
    pods: readonly [Pod, Pod],
    testpmd: Testpmd,
    options: WireOptions,
    binding: NativeBinding,
  ) {
    this.#directory = directory;
    this.pods = pods;
    this.testpmd = testpmd;
    this.#options = options;
    this.#binding = binding;
  }

  static async create(binding: NativeBinding, options: WireOptions, cleanup: Cleanup): Promise<TestpmdWire> {
    const directory = mkdtempSync(join(tmpdir(), 'vu-wire-'));
    chmodSync(directory, 0o755);
    cleanup.add('directory', () => rmSync(directory, { recursive: true }));
    const pumps = [0, 1].map((pump) => binding.createPump({ name: `vu-wire-${pump}`, spinUs: 0 }));
    for (const pump of pumps) cleanup.add('pump', () => pump.close());
    const pod = (side: number): Promise<Pod> =>
      Pod.create(
        binding,
        pumps,
        {
          name: `vu-wire-${process.pid}-${side}`,
          address: `10.88.0.${side + 1}`,
          prefixLength: 24,
          mac: `02:00:00:00:88:0${side + 1}`,
          mtu: wireMtu,
          queues: options.pairs,
        },
        cleanup,
      );
    const pods = [await pod(0), await pod(1)] as const;
    const log = join(directory, 'reflector.log');
    const reflector = pods[1].netns.daemon('reflector', log, ...node, 'serve', String(port));
    cleanup.add('reflector', () => reflector.stop('SIGKILL'));
    const testpmd = await Testpmd.start(testpmdOptions(directory, options), cleanup);
    await until('the reflector', () => readFileSync(log, 'utf8').includes('listening'));
    return new TestpmdWire(directory, pods, testpmd, options, binding);
  }

  /** Another testpmd in the place of one that was killed. */
  async restart(cleanup: Cleanup): Promise<void> {
    this.testpmd = await Testpmd.start(testpmdOptions(this.#directory, this.#options), cleanup);
  }

  /** Connects both pods. `ended` disconnects them, in order, and fails on an anomaly. */
  async connect(rings: RingOptions, queueSize: number, ended: Cleanup): Promise<readonly [Running, Running]> {
    const up = async (side: 0 | 1): Promise<Running> => {
      const path = { baseDirectory: this.#directory, relativePath: `${side}.sock` };
      const pod = this.pods[side];
      const device = pod.device({
        queueSize,
        cq: true,
        mrgRxbuf: rings.mergeable,
        inOrder: rings.inOrder,
        packedVq: rings.packed,
        memory: 'memfd',
        softwareOffloads: true,
        wantedPairs: null,
      });
      const connections = new Connections(this.#binding, path, this.#options.server, ended);
      const running = await pod.run(device, await connections.next());
      ended.add(`pod ${side}`, async () => {
        const anomalies = await running.stop();
        if (anomalies.length > 0) throw new Error(anomalies.join('; '));
      });
      await until(`link of port ${side}`, () => this.testpmd.linkUp(side));
      return running;
    };
    return [await up(0), await up(1)];
  }

  /** Traffic from pod 0 to pod 1 and back. @throws when a frame was lost or changed where none may be */
  async drive(load: Load, timeoutMs = 50_000): Promise<Reflected> {
    const args = [...node.slice(1), 'drive', '10.88.0.2', String(port), JSON.stringify(load)];
    const driver = await this.pods[0].netns.runAny(node[0], args, { timeoutMs });
    if (driver.code !== 0) throw new Error(`driver (${driver.code}): ${driver.stderr.trim()}\n${this.testpmd.log}`);
    return JSON.parse(driver.stdout) as Reflected;
  }

  async counters(): Promise<WireCounters> {
    return { frames: this.#ours(), refused: (await this.testpmd.dropped()).map(BigInt) };
  }

  /** What passed since `before`, as soon as both sides count the same. @throws when they do not within 10 s */
  async agreed(before: WireCounters, theirsBefore: readonly bigint[]): Promise<WireCounters> {
    return until('equal counters on both sides', async () => {
      const now = await this.counters();
      const frames = difference(now.frames, before.frames);
      if (frames.join() !== difference(await this.theirs(), theirsBefore).join()) return null;
      return { frames, refused: difference(now.refused, before.refused) };
    });
  }

  /** testpmd's side of {@link WireCounters.frames}. */
  async theirs(): Promise<bigint[]> {
    const ports = [await this.testpmd.statistics(0), await this.testpmd.statistics(1)];
    return ports.flatMap(({ rxFrames, txFrames }) => [BigInt(rxFrames), BigInt(txFrames)]);
  }

  #ours(): bigint[] {
    return this.pods.map((pod) => ringFrames(pod.counters())).flatMap(({ sent, received }) => [sent, received]);
  }
}

function testpmdOptions(directory: string, { pairs, server, tso }: WireOptions): TestpmdOptions {
  const ports = [0, 1].map((side) => ({ path: join(directory, `${side}.sock`), queues: pairs, client: server, tso }));
  return { ports, forward: 'io' };
}
