/**
 * The virtio-user device: DPDK's `struct virtio_user_dev` with its order of messages, and what it leaves out: every
 * failed step unwinds all of it, and calls are serialised, so that no message of one sequence falls into another.
 *
 * Order (each line explains itself by the peer that insists on it):
 * - SET_OWNER, GET_FEATURES … first: the session's shape depends on the features.
 * - SET_VRING_CALL of every ring next: VPP creates queues on this message only.
 * - SET_FEATURES before SET_VRING_NUM and _BASE: DPDK decides by it how to read them.
 * - SET_MEM_TABLE before SET_VRING_ADDR: backends translate at once.
 * - per ring NUM, BASE, ADDR, and KICK last: KICK starts the ring.
 * - SET_VRING_ENABLE, always, whatever an earlier connection had: enable state dies with the connection.
 * - DRIVER_OK last, and only when everything before succeeded.
 *
 * A new connection gets a new session; nothing of the memory of a dead one is used again.
 */
import { errnoOf, isExhaustion, messageOf, VirtioUserError } from '../errors.ts';
import type { Session, SessionOptions } from '../native/binding.ts';
import type { Control } from '../virtio/control.ts';
import { featureBit, featureMask, formatMask, hasFeature } from '../virtio/feature.ts';
import { statusBit, statusDriverOk, statusFeaturesOk } from '../virtio/status.ts';
import { freshBase, plausibleBase } from '../virtio/vring-base.ts';
import type { Anomaly, CreateSession, DeviceOptions, DeviceState, ReadyDevice, VirtioUserDevice } from './api.ts';
import { exchangeControl } from './control-path.ts';
import type { Frontend, MemoryRegion } from './frontend.ts';
import { type Agreement, negotiate, type Negotiation, rxBufferBytes } from './negotiate.ts';
import { applyControl, initialNetState, type NetState, rxFilterOf } from './net-state.ts';
import { type DataPath, switchQueuePairs } from './queue-pairs.ts';
import { firstRegion, growReceiveBuffers } from './receive-buffers.ts';
import { startRing, stopRings } from './rings.ts';
import { statusOf } from './state.ts';

/** What a backend that told of a change gets to say what has changed. */
const lookDeadlineMs = 5000;

type Agreed = Extract<Negotiation, { readonly kind: 'agreed' }>;

/** @param path the pod's port: what control commands have an effect on */
export function createVirtioUserDevice(
  options: DeviceOptions,
  createSession: CreateSession,
  path: DataPath,
): VirtioUserDevice {
  return new Device(options, createSession, path);
}

class Device implements VirtioUserDevice {
  readonly #options: DeviceOptions;
  readonly #createSession: CreateSession;
  readonly #path: DataPath;
  #state: DeviceState = { kind: 'idle' };
  #featuresAgreed = false;
  /** Of the session. */
  #needsReset = false;
  /** Of the first connection that reached DRIVER_OK; later ones are measured by it. */
  #remembered: Agreement | null = null;
  #mtu: number;
  /** Of the session: what the backend has mapped, and how large a receive buffer is. */
  #regions: readonly MemoryRegion[] = [];
  #rxBufferBytes = 0;
  /** What the driver asked for, whatever connection it was on; null: all there are. */
  #wantedPairs: number | null;
  #activePairs = 0;
  #driverMac: string | null = null;
  #ringsOut = false;
  #net: NetState | null = null;
  /** The connection under negotiation or in use. */
  #frontend: Frontend | null = null;
  /** Bumped by shutDown: what began under an earlier epoch ends. */
  #epoch = 0;
  /** A look at the backend waits for its turn. */
  #lookQueued = false;
  #tail: Promise<unknown> = Promise.resolve();

  constructor(options: DeviceOptions, createSession: CreateSession, path: DataPath) {
    this.#options = options;
    this.#createSession = createSession;
    this.#path = path;
    this.#mtu = options.mtu;
    this.#wantedPairs = options.wantedPairs;
  }

  get state(): DeviceState {
    return this.#state;
  }

  get status(): number {
    return statusOf(this.#state, this.#featuresAgreed, this.#needsReset);
  }

  get net(): NetState | null {
    return this.#net;
  }

  get driverMac(): string | null {
    return this.#driverMac;
  }

  get ringsOut(): boolean {
    return this.#ringsOut;
  }

  get mtu(): number {
    return this.#mtu;
  }

  get activePairs(): number {
    return this.#activePairs;
  }

  bringUp(frontend: Frontend): Promise<ReadyDevice> {
    const epoch = this.#epoch;
    return this.#serialised(() => this.#bringUp(frontend, epoch));
  }

  control(control: Control): Promise<void> {
    return this.#serialised(() => this.#control(control));
  }

  setMtu(mtu: number): Promise<void> {
    return this.#serialised(() => this.#changeMtu(mtu));
  }

  probe(deadlineMs: number): Promise<boolean> {
    return this.#serialised(async () => {
      if (this.#state.kind !== 'ready' || this.#frontend === null) return false;
      await this.#look(this.#frontend, deadlineMs);
      return true;
    });
  }

  needReset(): void {
    this.#needsReset = true;
  }

  shutDown(): Promise<readonly Anomaly[]> {
    this.#epoch += 1;
    // A handshake in flight ends now, not at its deadline.
    if (this.#state.kind === 'negotiating') this.#frontend?.close();
    return this.#serialised(() => this.#shutDown());
  }

  #serialised<T>(task: () => Promise<T>): Promise<T> {
    const run = this.#tail.then(task);
    this.#tail = run.catch(() => undefined);
    return run;
  }

  async #bringUp(frontend: Frontend, epoch: number): Promise<ReadyDevice> {
    if (epoch !== this.#epoch) {
      frontend.close();
      throw cancelled();
    }
    if (this.#state.kind === 'ready') {
      frontend.close();
      throw new VirtioUserError('BUG', 'device brought up on a second connection without shutting down the first');
    }
    this.#frontend = frontend;
    frontend.onConfigChange = () => this.#lookAgain(frontend);
    this.#featuresAgreed = false;
    this.#needsReset = false;
    this.#ringsOut = false;
    const handshake = new Handshake(frontend, (step) => {
      if (epoch !== this.#epoch) throw cancelled();
      this.#state = { kind: 'negotiating', step };
    });
    try {
      const offered = await this.#offer(handshake);
      const agreed = this.#agree(frontend, offered);
      const session = handshake.own(this.#makeSession(agreed));
      const activePairs = Math.min(this.#wantedPairs ?? agreed.queuePairs, agreed.queuePairs);
      await this.#setFeatures(handshake, session, agreed);
      await this.#start(handshake, session, agreed.ackedFeatures, activePairs);
      if (epoch !== this.#epoch) throw cancelled();
      const ready: ReadyDevice = {
        session,
        offeredFeatures: offered,
        ackedFeatures: agreed.ackedFeatures,
        localFeatures: agreed.localFeatures,
        unsupportedFeatures: agreed.unsupportedFeatures,
        protocolFeatures: frontend.abilities.protocolFeatures,
        queuePairs: agreed.queuePairs,
        activePairs,
        offloads: agreed.offloads,
        degradedBy: agreed.degradedBy,
      };
      this.#state = { kind: 'ready', ready };
      this.#activePairs = activePairs;
      this.#regions = [firstRegion(session)];
      this.#rxBufferBytes = agreed.rxBufferBytes;
      this.#net = initialNetState(this.#driverMac ?? this.#options.mac, agreed.localFeatures);
      this.#remembered ??= { ackedFeatures: agreed.ackedFeatures, queuePairs: agreed.queuePairs };
      return ready;
    } catch (thrown) {
      throw this.#unwind(handshake, epoch === this.#epoch ? VirtioUserError.from(thrown, 'handshake') : cancelled());
    }
  }

  /** @returns the features offered; the frontend's abilities are known then */
  async #offer(handshake: Handshake): Promise<bigint> {
    await handshake.step('SET_OWNER', (frontend) => frontend.setOwner());
    return handshake.step('GET_FEATURES', (frontend) => frontend.getFeatures());
  }

  #agree(frontend: Frontend, offered: bigint): Agreed {
    const offer = { features: offered, maxQueuePairs: frontend.abilities.maxQueuePairs };
    const result = negotiate(offer, { ...this.#options, mtu: this.#mtu }, this.#remembered);
    if (result.kind === 'refused') throw notNegotiated(result.missing, `it offers ${formatMask(offered)}`);
    return result;
  }

  #makeSession(agreed: Agreed): Session {
    const options: SessionOptions = {
      pairs: agreed.queuePairs,
      queueSize: this.#options.queueSize,
      rxBufferBytes: agreed.rxBufferBytes,
      features: agreed.ackedFeatures | (agreed.localFeatures & featureMask(featureBit.CTRL_VQ)),
      memory: this.#options.memory,
    };
    try {
      return this.#createSession(options);
    } catch (thrown) {
      throw sessionFailure(thrown, options);
    }
  }

  async #setFeatures(handshake: Handshake, session: Session, agreed: Agreed): Promise<void> {
    for (const [ring, call] of session.calls.entries()) {
      await handshake.step('SET_VRING_CALL', (frontend) => frontend.setVringCall(ring, call));
    }
    await handshake.step('SET_FEATURES', (frontend) => frontend.setFeatures(agreed.ackedFeatures));
    const { status, mtu } = handshake.frontend.abilities;
    if (status) {
      await handshake.step('SET_STATUS FEATURES_OK', (frontend) => frontend.setStatus(statusFeaturesOk));
      const answer = await handshake.step('GET_STATUS', (frontend) => frontend.getStatus());
      if ((answer & statusBit.FEATURES_OK) === 0 || (answer & (statusBit.NEEDS_RESET | statusBit.FAILED)) !== 0) {
        throw new VirtioUserError(
          'BACKEND_REFUSED',
          `backend did not accept features ${formatMask(agreed.ackedFeatures)}: its status is 0x${answer.toString(16)}`,
        );
      }
    }
    this.#featuresAgreed = true;
    if (mtu) await handshake.step('NET_SET_MTU', (frontend) => this.#setMtu(frontend));
  }

  async #setMtu(frontend: Frontend): Promise<void> {
    try {
      await frontend.setMtu(this.#mtu);
    } catch (thrown) {
      if (!(thrown instanceof VirtioUserError) || thrown.code !== 'BACKEND_REFUSED') throw thrown;
      throw notNegotiated([`MTU ${this.#mtu}`], 'it refused NET_SET_MTU', thrown);
    }
  }

  async #start(handshake: Handshake, session: Session, acked: bigint, activePairs: number): Promise<void> {
    const region = firstRegion(session);
    await handshake.step('SET_MEM_TABLE', (frontend) => frontend.setMemoryTable([region]));
    const base = freshBase(hasFeature(acked, featureBit.RING_PACKED));
    this.#ringsOut = true;
    for (const ring of session.rings.keys()) {
      await startRing((name, run) => handshake.step(name, run), session, ring, base);
    }
    const { ringEnable, status } = handshake.frontend.abilities;
    if (ringEnable) {
      // Also those that rest: what an earlier connection said of them died with it.
      for (const ring of session.rings.keys()) {
        const active = ring < 2 * activePairs;
        await handshake.step('SET_VRING_ENABLE', (frontend) => frontend.setVringEnable(ring, active));
      }
    }
    if (status) await handshake.step('SET_STATUS DRIVER_OK', (frontend) => frontend.setStatus(statusDriverOk));
    await handshake.step('barrier', (frontend) => frontend.barrier());
  }

  #unwind(handshake: Handshake, error: VirtioUserError): VirtioUserError {
    handshake.abandon();
    this.#frontend = null;
    this.#featuresAgreed = false;
    const missing = error.details['missing'];
    this.#state =
      error.code === 'CANCELLED'
        ? { kind: 'idle' }
        : error.code === 'NOT_NEGOTIATED' && typeof missing === 'string'
          ? { kind: 'parked', missing: missing.split(', ') }
          : { kind: 'failed', error };
    return error;
  }

  /**
   * The backend says that its configuration has changed. What this device has of it is the status: a backend that asks
   * to be reset loses the connection by this, and gets a fresh one.
   */
  #lookAgain(frontend: Frontend): void {
    // One that has not begun sees this change too.
    if (this.#lookQueued) return;
    this.#lookQueued = true;
    const look = this.#serialised(async () => {
      this.#lookQueued = false;
      if (this.#state.kind === 'ready' && this.#frontend === frontend) await this.#look(frontend, lookDeadlineMs);
    });
    // The frontend has ended the connection, and said why.
    look.catch(() => undefined);
  }

  async #look(frontend: Frontend, deadlineMs: number): Promise<void> {
    try {
      await frontend.probe(deadlineMs);
    } catch (thrown) {
      if (thrown instanceof VirtioUserError && thrown.code === 'BACKEND_REFUSED') this.#needsReset = true;
      throw thrown;
    }
  }

  async #changeMtu(mtu: number): Promise<void> {
    const { ready, frontend } = this.#runningDevice(`MTU ${mtu}`);
    if (mtu === this.#mtu) return;
    const needed = rxBufferBytes(ready.ackedFeatures, mtu);
    if (needed > this.#rxBufferBytes) {
      const { session } = ready;
      const growing = {
        frontend,
        path: this.#path,
        session,
        regions: this.#regions,
        activePairs: this.#activePairs,
      };
      try {
        this.#regions = await growReceiveBuffers(growing, needed);
      } catch (thrown) {
        throw VirtioUserError.from(thrown, `receive buffers of ${needed} bytes`, 'RESOURCE_EXHAUSTED');
      }
      this.#rxBufferBytes = needed;
    }
    if (frontend.abilities.mtu) await frontend.setMtu(mtu);
    this.#mtu = mtu;
  }

  #runningDevice(doing: string): { readonly ready: ReadyDevice; readonly frontend: Frontend } {
    if (this.#state.kind === 'ready' && this.#frontend !== null) {
      return { ready: this.#state.ready, frontend: this.#frontend };
    }
    throw new VirtioUserError('DEVICE_NOT_RUNNING', `${doing}: the device does not run`, {
      remedy: 'Wait until the attachment is running: its backend is not connected.',
    });
  }

  async #control(control: Control): Promise<void> {
    const { ready } = this.#runningDevice(`control command ${control.kind}`);
    const queue = ready.session.control;
    if (queue === null) {
      throw new VirtioUserError('NOT_NEGOTIATED', `control command ${control.kind}: the device has no control queue`, {
        details: { missing: 'CTRL_VQ' },
        remedy: 'Set "cq": true in the network configuration.',
      });
    }
    let why: unknown = null;
    const accepted = await exchangeControl(queue, control, async (command) => {
      try {
        return await this.#decide(command, ready);
      } catch (thrown) {
        why = thrown;
        return false;
      }
    });
    if (accepted) return;
    throw new VirtioUserError(
      'CONTROL_REFUSED',
      `the device refused the control command ${describe(control)}${because(why)}`,
      {
        details: { command: control.kind },
        ...(why === null ? {} : { cause: why }),
      },
    );
  }

  /** The device's side of the control queue. @returns false: refused. A throw is a refusal with its reason */
  async #decide(control: Control, ready: ReadyDevice): Promise<boolean> {
    if (control.kind === 'queue-pairs') return this.#switchPairs(control.pairs, ready);
    const net = this.#net;
    const next = net === null ? null : applyControl(net, control, ready.localFeatures);
    if (next === null) return false;
    if (control.kind !== 'announced') await this.#path.setRxFilter(rxFilterOf(next));
    this.#net = next;
    if (control.kind === 'mac') this.#driverMac = control.mac;
    return true;
  }

  async #switchPairs(pairs: number, ready: ReadyDevice): Promise<boolean> {
    const frontend = this.#frontend;
    if (pairs < 1 || pairs > ready.queuePairs || frontend === null) return false;
    await switchQueuePairs(frontend, this.#path, this.#activePairs, pairs);
    this.#activePairs = pairs;
    this.#wantedPairs = pairs;
    return true;
  }

  async #shutDown(): Promise<readonly Anomaly[]> {
    const anomalies: Anomaly[] = [];
    const frontend = this.#frontend;
    if (this.#state.kind === 'ready' && frontend !== null) {
      const { ready } = this.#state;
      const { session } = ready;
      try {
        await this.#stop(frontend, ready, anomalies);
      } catch (thrown) {
        anomalies.push({ kind: 'no-answer', what: `stopped without the backend: ${messageOf(thrown)}` });
      }
      frontend.close();
      try {
        session.close();
      } catch (thrown) {
        anomalies.push({ kind: 'memory-kept', what: `memory of the connection not freed: ${messageOf(thrown)}` });
      }
    }
    this.#frontend = null;
    this.#featuresAgreed = false;
    this.#needsReset = false;
    this.#activePairs = 0;
    this.#net = null;
    this.#state = { kind: 'idle' };
    return anomalies;
  }

  /** Disables all rings, then takes each one back (GET_VRING_BASE stops it). */
  async #stop(frontend: Frontend, ready: ReadyDevice, anomalies: Anomaly[]): Promise<void> {
    const { session } = ready;
    const packed = hasFeature(ready.ackedFeatures, featureBit.RING_PACKED);
    if (frontend.abilities.ringEnable) {
      for (const ring of session.rings.keys()) await frontend.setVringEnable(ring, false);
    }
    const bases = await stopRings(frontend, session);
    this.#ringsOut = false;
    for (const [ring, base] of bases.entries()) {
      const expected = session.expectedBase(ring);
      const size = session.rings[ring]?.size ?? 0;
      if (!plausibleBase(base, expected, { size, packed })) {
        anomalies.push({ kind: 'vring-base', what: `ring ${ring}: backend stopped at ${base}, expected ${expected}` });
      }
    }
  }
}

/** One pass over one connection: names the step under way, checks that it is still wanted, owns what must unwind. */
class Handshake {
  readonly frontend: Frontend;
  readonly #enter: (step: string) => void;
  #session: Session | null = null;

  /** @param enter throws when the handshake is no longer wanted */
  constructor(frontend: Frontend, enter: (step: string) => void) {
    this.frontend = frontend;
    this.#enter = enter;
  }

  own(session: Session): Session {
    this.#session = session;
    return session;
  }

  async step<T>(name: string, run: (frontend: Frontend) => Promise<T>): Promise<T> {
    this.#enter(name);
    const result = await run(this.frontend);
    this.#enter(name);
    return result;
  }

  abandon(): void {
    this.frontend.close();
    this.#session?.close();
  }
}

function describe(control: Control): string {
  return control.kind === 'queue-pairs' ? `queue-pairs ${control.pairs}` : control.kind;
}

function because(why: unknown): string {
  return why === null ? '' : `: ${messageOf(why)}`;
}

function cancelled(): VirtioUserError {
  return new VirtioUserError('CANCELLED', 'handshake given up: the device was shut down');
}

function notNegotiated(missing: readonly string[], why: string, cause?: unknown): VirtioUserError {
  return new VirtioUserError('NOT_NEGOTIATED', `backend lacks ${missing.join(', ')}: ${why}`, {
    details: { missing: missing.join(', ') },
    remedy: 'Configure the switch to offer it; the device starts with the next connection that does.',
    ...(cause === undefined ? {} : { cause }),
  });
}

function sessionFailure(thrown: unknown, { pairs, queueSize, memory }: SessionOptions): VirtioUserError {
  const errno = errnoOf(thrown);
  const what = `memory (${memory}) for ${pairs} queue pairs of ${queueSize} entries: ${messageOf(thrown)}`;
  const details = { errno, memory };
  if ((errno === 'ENOMEM' || errno === 'ENOSPC') && memory === 'hugetlb') {
    return new VirtioUserError('RESOURCE_HUGEPAGES', what, {
      details,
      remedy:
        'Reserve hugepages on the node and let the agent have them (hugepages-2Mi), or set device.memory to memfd.',
      cause: thrown,
    });
  }
  const exhausted = isExhaustion(errno) || errno === 'ENOSPC';
  return new VirtioUserError(exhausted ? 'RESOURCE_EXHAUSTED' : 'SYSCALL_FAILED', what, { details, cause: thrown });
}
