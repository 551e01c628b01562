/** A frontend without a wire: records the operations, fails or stops where the test says. */
import { VirtioUserError } from '../../src/errors.ts';
import type { Frontend, FrontendAbilities, MemoryRegion } from '../../src/device/frontend.ts';
import type { NativeFd, RingLayout } from '../../src/native/binding.ts';

export interface FakeFrontendOptions {
  readonly features: bigint;
  readonly abilities?: Partial<FrontendAbilities>;
  /** Operation number from 0 that fails. */
  readonly failAt?: number;
  /** What it fails with; default DISCONNECTED. */
  readonly failure?: Error;
  /** Operation number from 0 that never ends (until `close`). */
  readonly stopAt?: number;
  /** Called at the start of each operation. */
  readonly onCall?: (call: string) => void;
  /** GET_STATUS; default: what was set last. */
  readonly status?: number;
  /** GET_VRING_BASE; default 0. */
  readonly base?: number;
}

export class FakeFrontend implements Frontend {
  readonly generation = 1;
  readonly backendPid = 4711;
  readonly abilities: FrontendAbilities;
  onDisconnect: ((error: Error) => void) | null = null;
  onConfigChange: (() => void) | null = null;
  readonly calls: string[] = [];
  readonly regions: MemoryRegion[] = [];
  closed = 0;

  get isOpen(): boolean {
    return this.closed === 0;
  }

  readonly #options: FakeFrontendOptions;
  #status = 0;
  #reject: ((error: Error) => void) | null = null;
  /** Resolves when the operation `stopAt` has begun. */
  readonly stopped: Promise<void>;
  #stopped: () => void = () => {};

  constructor(options: FakeFrontendOptions) {
    this.#options = options;
    this.abilities = {
      protocolFeatures: ['MQ', 'REPLY_ACK', 'MTU', 'STATUS'],
      maxQueuePairs: 128,
      ringEnable: true,
      status: true,
      mtu: true,
      ...options.abilities,
    };
    this.stopped = new Promise((resolve) => {
      this.#stopped = resolve;
    });
  }

  setOwner(): Promise<void> {
    return this.#operation('setOwner', undefined);
  }

  getFeatures(): Promise<bigint> {
    return this.#operation('getFeatures', this.#options.features);
  }

  setFeatures(features: bigint): Promise<void> {
    return this.#operation(`setFeatures 0x${features.toString(16)}`, undefined);
  }

  setMemoryTable(regions: readonly MemoryRegion[]): Promise<void> {
    this.regions.push(...regions);
    return this.#operation(`setMemoryTable ${regions.length}`, undefined);
  }

  setVringNum(ring: number, size: number): Promise<void> {
    return this.#operation(`setVringNum ${ring} ${size}`, undefined);
  }

  setVringBase(ring: number, base: number): Promise<void> {
    return this.#operation(`setVringBase ${ring} ${base}`, undefined);
  }

  setVringAddr(ring: number, _layout: RingLayout): Promise<void> {
    return this.#operation(`setVringAddr ${ring}`, undefined);
  }

  setVringKick(ring: number, _eventfd: NativeFd): Promise<void> {
    return this.#operation(`setVringKick ${ring}`, undefined);
  }

  setVringCall(ring: number, _eventfd: NativeFd): Promise<void> {
    return this.#operation(`setVringCall ${ring}`, undefined);
  }

  setVringEnable(ring: number, enabled: boolean): Promise<void> {
    return this.#operation(`setVringEnable ${ring} ${enabled ? 1 : 0}`, undefined);
  }

  getVringBase(ring: number): Promise<number> {
    return this.#operation(`getVringBase ${ring}`, this.#options.base ?? 0);
  }

  setStatus(status: number): Promise<void> {
    this.#status = status;
    return this.#operation(`setStatus 0x${status.toString(16)}`, undefined);
  }

  getStatus(): Promise<number> {
    return this.#operation('getStatus', this.#options.status ?? this.#status);
  }

  setMtu(mtu: number): Promise<void> {
    return this.#operation(`setMtu ${mtu}`, undefined);
  }

  probe(deadlineMs: number): Promise<void> {
    return this.#operation(`probe ${deadlineMs}`, undefined);
  }

  barrier(): Promise<void> {
    return this.#operation('barrier', undefined);
  }

  fail(error: VirtioUserError): void {
    this.close();
    this.onDisconnect?.(error);
  }

  close(): void {
    this.closed += 1;
    this.#reject?.(new VirtioUserError('DISCONNECTED', 'closed by the agent'));
  }

  #operation<T>(call: string, result: T): Promise<T> {
    if (this.closed > 0) return Promise.reject(new VirtioUserError('DISCONNECTED', 'closed'));
    const number = this.calls.length;
    this.calls.push(call);
    this.#options.onCall?.(call);
    if (number === this.#options.failAt) {
      return Promise.reject(this.#options.failure ?? new VirtioUserError('DISCONNECTED', `${call}: backend gone`));
    }
    if (number !== this.#options.stopAt) return Promise.resolve(result);
    this.#stopped();
    return new Promise((_resolve, reject) => {
      this.#reject = reject;
    });
  }
}
