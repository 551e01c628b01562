/** A virtio-user device as the attachments see it, with its port and the frontend to a backend, in memory. */
import type { Anomaly, DeviceOptions, ReadyDevice, VirtioUserDevice } from '../../src/device/api.ts';
import type { Frontend, FrontendSource } from '../../src/device/frontend.ts';
import { initialNetState, type NetState } from '../../src/device/net-state.ts';
import { statusOf } from '../../src/device/state.ts';
import { VirtioUserError } from '../../src/errors.ts';
import type { Port, PortCounters, PortEvent, PortOptions, Session } from '../../src/native/binding.ts';
import type { Control } from '../../src/virtio/control.ts';
import { turn } from './fake-clock.ts';
import { FakeDataPath } from './fake-data-path.ts';
import { fault } from './gate.ts';

export class FakePort extends FakeDataPath implements Port {
  state: 'held' | 'running' | 'discarding' | 'closed' = 'held';
  carrier = true;
  offload = 0;
  injected: Uint8Array[] = [];
  history: string[] = [];
  readonly options: PortOptions;
  onStart: () => void = () => {};
  #session: FakeSession | null = null;

  constructor(options: PortOptions) {
    super();
    this.options = options;
  }

  emit(event: PortEvent): void {
    this.options.onEvent(event);
  }

  setOffload(mask: number): void {
    this.offload = mask;
  }

  setCarrier(up: boolean): void {
    if (this.state === 'closed') throw new TypeError('setCarrier on a closed port');
    this.carrier = up;
    this.history.push(up ? 'carrier on' : 'carrier off');
  }

  async start(session: Session): Promise<void> {
    if (this.state === 'running' || this.state === 'closed') throw fault('EBUSY', 'start');
    this.state = 'running';
    this.history.push('start');
    this.#session = session as unknown as FakeSession;
    this.#session.owned = true;
    this.onStart();
    await turn();
  }

  async quiesce(): Promise<void> {
    if (this.state === 'closed') return;
    this.state = 'held';
    this.history.push('quiesce');
    await turn();
    this.#release();
  }

  discard(): void {
    if (this.state === 'running' || this.state === 'closed') throw new TypeError(`discard on a ${this.state} port`);
    if (this.state !== 'discarding') this.history.push('discard');
    this.state = 'discarding';
  }

  inject(frame: Uint8Array): void {
    if (this.state === 'running') this.injected.push(frame);
  }

  counters(): PortCounters {
    return { txFrames: 0n, txBytes: 0n, rxFrames: 0n, rxBytes: 0n, drops: {}, events: {} };
  }

  async close(): Promise<void> {
    if (this.state === 'closed') return;
    this.state = 'closed';
    this.history.push('close');
    await turn();
    this.#release();
    for (const tap of this.options.taps) tap.close();
  }

  #release(): void {
    if (this.#session !== null) this.#session.owned = false;
    this.#session = null;
  }
}

export class FakeSession {
  owned = false;
  closed = false;
}

/** What the backend behind a connection does in the handshake. */
export type Backend =
  | { readonly kind: 'willing'; readonly degradedBy?: readonly string[]; readonly queuePairs?: number }
  /** Has its rings, and takes until `started` for the rest. */
  | { readonly kind: 'starting'; readonly started: Promise<void> }
  | { readonly kind: 'lacking'; readonly missing: readonly string[] }
  | { readonly kind: 'failing'; readonly error: Error }
  | { readonly kind: 'stalling' };

export class FakeConnection {
  readonly generation = 1;
  readonly backendPid = 4711;
  onDisconnect: ((error: Error) => void) | null = null;
  onConfigChange: (() => void) | null = null;
  onClosed: () => void = () => undefined;
  closed = false;
  released = false;
  readonly backend: Backend;

  constructor(backend: Backend) {
    this.backend = backend;
  }

  /** The backend hangs up. */
  hangUp(): void {
    this.onDisconnect?.(new VirtioUserError('DISCONNECTED', 'connection closed by the backend'));
  }

  close(): void {
    this.closed = true;
    this.onClosed();
  }
}

export class FakeSource implements FrontendSource {
  readonly path: string;
  isOpen = false;
  #onConnection: ((frontend: Frontend, released: () => void) => void) | null = null;
  refusal: Error | null = null;

  readonly #files: Set<string>;

  /** @param files paths of the sockets that lie on disk */
  constructor(path: string, files: Set<string>) {
    this.path = path;
    this.#files = files;
  }

  get situation(): string {
    return `listening on ${this.path}`;
  }

  open(onConnection: (frontend: Frontend, released: () => void) => void): void {
    if (this.refusal !== null) throw this.refusal;
    this.isOpen = true;
    this.#files.add(this.path);
    this.#onConnection = onConnection;
  }

  connect(backend: Backend = { kind: 'willing' }): FakeConnection {
    const frontend = new FakeConnection(backend);
    this.#onConnection?.(frontend as unknown as Frontend, () => {
      frontend.released = true;
    });
    return frontend;
  }

  close(): void {
    if (this.isOpen) this.#files.delete(this.path);
    this.isOpen = false;
  }

  clear(): void {
    if (!this.isOpen) this.#files.delete(this.path);
  }

  /** Its file stays. */
  processDied(): void {
    this.isOpen = false;
  }
}

export class FakeDevice implements VirtioUserDevice {
  state: VirtioUserDevice['state'] = { kind: 'idle' };
  #needsReset = false;
  net: NetState | null = null;
  activePairs = 0;
  /** Of the connection. */
  commands: Control[] = [];
  /** Thrown by the next command. */
  refusal: Error | null = null;
  /** One kind of command, or the message of another MTU, that is refused. */
  refuses: Control['kind'] | 'mtu' | null = null;
  readonly #options: DeviceOptions;
  #wantedPairs: number | null;
  #giveUp: () => void = () => undefined;
  #connection: FakeConnection | null = null;
  stalls = false;
  /** A stalling backend was asked to let go. */
  asked = false;

  constructor(options: DeviceOptions) {
    this.#options = options;
    this.#wantedPairs = options.wantedPairs;
    this.mtu = options.mtu;
  }

  get status(): number {
    return statusOf(this.state, false, this.#needsReset);
  }

  needReset(): void {
    this.#needsReset = true;
  }

  /** What `probe` does with the connection's frontend; default: it answers. */
  onProbe: (() => void) | null = null;
  /** What `shutDown` reports. */
  anomalies: readonly Anomaly[] = [];
  probes = 0;

  async probe(): Promise<boolean> {
    this.probes += 1;
    await turn();
    if (this.onProbe !== null) {
      this.onProbe();
      throw new VirtioUserError('TIMEOUT', 'no answer to GET_STATUS');
    }
    return this.state.kind === 'ready';
  }

  mtu: number;
  driverMac: string | null = null;
  ringsOut = false;

  async setMtu(mtu: number): Promise<void> {
    await turn();
    if (this.refuses === 'mtu') throw new VirtioUserError('BACKEND_REFUSED', 'mtu');
    this.mtu = mtu;
  }

  async control(control: Control): Promise<void> {
    await turn();
    if (this.state.kind !== 'ready') throw new VirtioUserError('DEVICE_NOT_RUNNING', 'the device does not run');
    if (this.refusal !== null) throw this.refusal;
    if (this.refuses === control.kind) throw new VirtioUserError('CONTROL_REFUSED', control.kind);
    this.commands.push(control);
    if (control.kind === 'queue-pairs') this.activePairs = this.#wantedPairs = control.pairs;
    else if (this.net !== null && control.kind === 'mac') {
      this.net = { ...this.net, mac: control.mac };
      this.driverMac = control.mac;
    }
  }

  async bringUp(frontend: Frontend): Promise<ReadyDevice> {
    const connection = frontend as unknown as FakeConnection;
    const { backend } = connection;
    this.ringsOut = false;
    this.#connection = connection;
    this.state = { kind: 'negotiating', step: 'GET_FEATURES' };
    await turn();
    if (backend.kind === 'stalling') {
      await new Promise<void>((resolve) => {
        this.#giveUp = resolve;
      });
      this.state = { kind: 'idle' };
      throw new VirtioUserError('CANCELLED', 'handshake given up');
    }
    if (backend.kind === 'starting') {
      this.ringsOut = true;
      const givenUp = new Promise<'given up'>((resolve) => {
        this.#giveUp = () => resolve('given up');
      });
      if ((await Promise.race([backend.started, givenUp])) === 'given up') {
        connection.close();
        this.state = { kind: 'idle' };
        throw new VirtioUserError('CANCELLED', 'handshake given up');
      }
    }
    if (backend.kind === 'failing') {
      this.state = { kind: 'failed', error: backend.error };
      throw backend.error;
    }
    if (backend.kind === 'lacking') {
      this.state = { kind: 'parked', missing: backend.missing };
      const details = { missing: backend.missing.join(', ') };
      throw new VirtioUserError('NOT_NEGOTIATED', `backend lacks ${details.missing}`, { details });
    }
    const { queuePairs = this.#options.queues, degradedBy = [] } = backend.kind === 'willing' ? backend : {};
    const ready: ReadyDevice = {
      session: new FakeSession() as unknown as Session,
      offeredFeatures: 0x1_0000_0020n,
      ackedFeatures: 0x1_0000_0020n,
      protocolFeatures: ['MQ'],
      localFeatures: 0n,
      unsupportedFeatures: 0x0400_0000n,
      queuePairs,
      activePairs: Math.min(this.#wantedPairs ?? queuePairs, queuePairs),
      offloads: { tapMask: 7, softwareGso: false, softwareChecksum: false, softwareGro: false },
      degradedBy,
    };
    this.state = { kind: 'ready', ready };
    this.#needsReset = false;
    this.activePairs = ready.activePairs;
    this.net = initialNetState(this.driverMac ?? this.#options.mac, 0n);
    this.ringsOut = true;
    this.commands = [];
    return ready;
  }

  /** With `stalls`, a living backend answers nothing until its connection is cut. */
  async shutDown(): Promise<readonly Anomaly[]> {
    this.#giveUp();
    const connection = this.#connection;
    if (this.stalls && this.state.kind === 'ready' && connection?.closed === false) {
      this.asked = true;
      await new Promise<void>((resolve) => (connection.onClosed = resolve));
    }
    if (this.state.kind === 'ready') {
      const session = this.state.ready.session as unknown as FakeSession;
      if (session.owned) throw new Error('session freed under the port');
      session.closed = true;
      this.ringsOut = connection?.closed === true;
    }
    this.state = { kind: 'idle' };
    this.#needsReset = false;
    this.net = null;
    this.activePairs = 0;
    await turn();
    return this.anomalies;
  }
}
