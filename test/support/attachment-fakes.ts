/** The surroundings of the attachment life cycle, in memory: what is left in them is what a test asks about. */
import { AsyncLocalStorage } from 'node:async_hooks';
import { randomUUID } from 'node:crypto';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { type FileHandle, open, rename, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CallContext, RemoveRequest } from '../../src/attachment/api.ts';
import type { AttachmentDependencies } from '../../src/attachment/dependencies.ts';
import { DeviceInfoDirectory, deviceInfoDisk } from '../../src/attachment/device-info.ts';
import { attachmentId, derivedMac } from '../../src/attachment/key.ts';
import { AttachmentManager } from '../../src/attachment/manager.ts';
import type { AttachmentSpec } from '../../src/attachment/spec.ts';
import { nodeFiles, type StoreFiles } from '../../src/attachment/store.ts';
import type { Clock } from '../../src/clock.ts';
import type { Anomaly, DeviceOptions, ReadyDevice, VirtioUserDevice } from '../../src/device/api.ts';
import type { Frontend, FrontendSource } from '../../src/device/frontend.ts';
import { initialNetState, type NetState } from '../../src/device/net-state.ts';
import { statusOf } from '../../src/device/state.ts';
import { VirtioUserError } from '../../src/errors.ts';
import type { Ipam, IpamAnswer, IpamCall } from '../../src/ipam/result.ts';
import type {
  NativeBinding,
  NativeFd,
  PodLinkFilter,
  PodLinkState,
  PodLinkWatch,
  Port,
  PortCounters,
  PortEvent,
  PortOptions,
  Pump,
  Session,
} from '../../src/native/binding.ts';
import type { OvsPort, OvsPorts, OvsPortSpec } from '../../src/ovs/ports.ts';
import type { Control } from '../../src/virtio/control.ts';
import { FakeDataPath } from './fake-data-path.ts';
import { RecordingLogger } from './recording-logger.ts';

export class FakeClock implements Clock {
  #now = 1_000_000;
  #timers: { readonly at: number; readonly run: () => void }[] = [];

  now(): number {
    return this.#now;
  }

  wallMs(): number {
    return 1_700_000_000_000 + this.#now;
  }

  after(ms: number, run: () => void): () => void {
    const timer = { at: this.#now + ms, run };
    this.#timers.push(timer);
    return () => void (this.#timers = this.#timers.filter((other) => other !== timer));
  }

  /** Runs what falls due, in order, letting promises settle in between. */
  async advance(ms: number): Promise<void> {
    const end = this.#now + ms;
    for (;;) {
      await settle();
      const [next] = this.#timers.filter(({ at }) => at <= end).sort((one, other) => one.at - other.at);
      if (next === undefined) break;
      this.#timers = this.#timers.filter((timer) => timer !== next);
      this.#now = next.at;
      next.run();
    }
    this.#now = end;
    await settle();
  }
}

/** Lets every promise that can settle without input or a timer do so: many turns of what a fake's operation takes. */
export async function settle(): Promise<void> {
  for (let index = 0; index < 20; index += 1) await turn();
}

/** What an operation of a fake takes: it is never done on the caller's stack. */
function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve));
}

/** Turns of the event loop until the condition holds; a test that hangs here ends at its time limit. */
export async function until(holds: () => boolean): Promise<void> {
  while (!holds()) await settle();
}

export function fault(code: string, syscall = 'fake'): Error {
  return Object.assign(new Error(`${syscall}: ${code}`), { code, errno: 1, syscall });
}

/** Where a process may be killed or an operation may fail: every operation of every fake passes here, counted. */
export class Gate {
  count = 0;
  names: string[] = [];
  #at = 0;
  #kind: 'fail' | 'kill-before' | 'kill-after' = 'fail';
  #filter: (name: string) => boolean = () => true;
  /** Whoever was begun by a process that has died stays dead, however late its disk answers. */
  readonly #lives = new AsyncLocalStorage<{ dead: boolean }>();
  #life = { dead: false };

  arm(at: number, kind: 'fail' | 'kill-before' | 'kill-after', filter: (name: string) => boolean = () => true): void {
    this.count = 0;
    this.names = [];
    this.#at = at;
    this.#kind = kind;
    this.#filter = filter;
    if (this.#life.dead) this.#life = { dead: false };
  }

  disarm(): void {
    this.arm(0, 'fail');
  }

  /** The process is gone; what comes now belongs to the next one. */
  kill(): void {
    this.#life.dead = true;
    this.disarm();
  }

  /** What `work` begins belongs to the process of this moment. */
  within<T>(work: () => T): T {
    return this.#lives.run(this.#life, work);
  }

  get struck(): boolean {
    return this.#at > 0 && this.count >= this.#at;
  }

  /** Resolves when the armed operation was reached by a process that died of it. */
  died: Promise<void> = new Promise(() => undefined);
  #onDeath: () => void = () => undefined;

  expectDeath(): Promise<void> {
    this.died = new Promise((resolve) => {
      this.#onDeath = resolve;
    });
    return this.died;
  }

  async pass<T>(name: string, work: () => T | Promise<T>): Promise<T> {
    const life = this.#lives.getStore() ?? this.#life;
    if (life.dead) return new Promise(() => undefined);
    if (this.#filter(name)) {
      this.count += 1;
      this.names.push(name);
      if (this.count === this.#at) {
        if (this.#kind === 'fail') throw fault('ENOSPC', name);
        life.dead = true;
        if (this.#kind === 'kill-after') await Promise.resolve(work()).catch(() => undefined); // nobody hears of it
        this.#onDeath();
        return new Promise(() => undefined);
      }
    }
    return work();
  }
}

interface FakeLink extends PodLinkState {
  readonly netns: string;
  /** What the pod did to it beside its address. */
  readonly filter?: Partial<PodLinkFilter>;
}

interface FakeWatch extends PodLinkWatch {
  readonly onChange: () => void;
}

const noFilter = { promiscuous: false, allMulticast: false, unicast: [], multicast: [] } as const;

/** What outlives the agent: namespaces and links. */
export class FakeKernel {
  readonly directory: string;
  links: FakeLink[] = [];
  openFds = 0;
  #ifindex = 10;
  #process = 1;

  constructor(directory: string) {
    this.directory = directory;
  }

  addNetns(name: string = randomUUID()): string {
    const path = join(this.directory, name);
    writeFileSync(path, 'netns');
    return path;
  }

  /** Every descriptor of the process goes with it. */
  processDied(): void {
    this.#process += 1;
    this.openFds = 0;
  }

  /** As the runtime does it: the links go with the namespace. */
  removeNetns(path: string): void {
    const inode = String(statSync(path).ino);
    rmSync(path);
    this.links = this.links.filter((link) => link.netns !== inode);
  }

  fd(inode: bigint, device: bigint): NativeFd {
    let open = true;
    const process = this.#process;
    this.openFds += 1;
    return {
      close: () => {
        if (open && process === this.#process) this.openFds -= 1;
        open = false;
      },
      get isOpen() {
        return open;
      },
      identity: () => ({ inode, device }),
    };
  }

  open(path: string): NativeFd {
    if (!existsSync(path)) throw fault('ENOENT', 'open');
    const { ino, dev } = statSync(path, { bigint: true });
    return this.fd(ino, dev);
  }

  create(netns: string, name: string, mac: string, mtu: number): FakeLink {
    this.#ifindex += 1;
    const state = { kind: 'tun', mac, mtu, up: false, carrier: true, addresses: [], routes: [] };
    const link: FakeLink = { ...state, netns, ifindex: this.#ifindex, name } as FakeLink & { name: string };
    this.links.push(link);
    return link;
  }

  find(netns: string, name: string): (FakeLink & { readonly name: string }) | undefined {
    return (this.links as (FakeLink & { readonly name: string })[]).find(
      (link) => link.netns === netns && link.name === name,
    );
  }

  /** Watches that are open. */
  readonly watches = new Set<FakeWatch>();

  watch(netns: string, ifindex: number, onChange: () => void): PodLinkWatch {
    const watch: FakeWatch = {
      onChange,
      read: async () => {
        await turn();
        const link = this.links.find((other) => other.netns === netns && other.ifindex === ifindex);
        return link === undefined ? null : { ...noFilter, mac: link.mac, mtu: link.mtu, ...link.filter };
      },
      close: () => {
        this.watches.delete(watch);
      },
    };
    this.watches.add(watch);
    return watch;
  }

  change(link: FakeLink, change: Partial<FakeLink>): void {
    this.links = this.links.map((other) => (other === link ? { ...other, ...change } : other));
  }
}

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
  | { readonly kind: 'lacking'; readonly missing: readonly string[] }
  | { readonly kind: 'failing'; readonly error: Error }
  | { readonly kind: 'stalling' };

export class FakeFrontend {
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

  constructor(path: string) {
    this.path = path;
  }

  get situation(): string {
    return `listening on ${this.path}`;
  }

  open(onConnection: (frontend: Frontend, released: () => void) => void): void {
    if (this.refusal !== null) throw this.refusal;
    this.isOpen = true;
    this.#onConnection = onConnection;
  }

  connect(backend: Backend = { kind: 'willing' }): FakeFrontend {
    const frontend = new FakeFrontend(backend);
    this.#onConnection?.(frontend as unknown as Frontend, () => {
      frontend.released = true;
    });
    return frontend;
  }

  close(): void {
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
  stalls = false;

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
    else if (this.net !== null && control.kind === 'mac') this.net = { ...this.net, mac: control.mac };
  }

  async bringUp(frontend: Frontend): Promise<ReadyDevice> {
    const { backend } = frontend as unknown as FakeFrontend;
    this.state = { kind: 'negotiating', step: 'GET_FEATURES' };
    await turn();
    if (backend.kind === 'stalling') {
      await new Promise<void>((resolve) => {
        this.#giveUp = resolve;
      });
      this.state = { kind: 'idle' };
      throw new VirtioUserError('CANCELLED', 'handshake given up');
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
    const queuePairs = backend.queuePairs ?? this.#options.queues;
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
      degradedBy: backend.degradedBy ?? [],
    };
    this.state = { kind: 'ready', ready };
    this.#needsReset = false;
    this.activePairs = ready.activePairs;
    this.net = initialNetState(this.#options.mac, 0n);
    this.commands = [];
    return ready;
  }

  /** With `stalls`, a living backend answers nothing until its connection is cut. */
  async shutDown(): Promise<readonly Anomaly[]> {
    this.#giveUp();
    if (this.state.kind === 'ready') {
      const session = this.state.ready.session as unknown as FakeSession;
      if (session.owned) throw new Error('session freed under the port');
      session.closed = true;
    }
    this.state = { kind: 'idle' };
    this.#needsReset = false;
    this.net = null;
    this.activePairs = 0;
    await turn();
    return this.anomalies;
  }
}

export class FakeIpam implements Ipam {
  readonly leases = new Map<string, string>();
  readonly calls: string[] = [];
  failing: 'ADD' | 'DEL' | 'CHECK' | 'GC' | null = null;
  /** ADD takes a lease, fails, and cannot give it back. */
  leaks = false;
  /** ADD prints its result and takes a lease, and ends badly all the same. */
  relents = false;
  /** An ADD that has printed its result ends when this resolves. */
  lingering: Promise<void> = Promise.resolve();
  /** Netconfs that DEL was called with. */
  readonly deletedWith: string[] = [];
  hangs = false;
  readonly #gate: Gate;

  constructor(gate: Gate) {
    this.#gate = gate;
  }

  async add(call: IpamCall, signal: AbortSignal, permission?: Promise<unknown>): Promise<IpamAnswer> {
    await permission;
    const result = await this.#gate.pass('ipam.add', async () => {
      this.#called('ADD');
      if (this.hangs) {
        await new Promise<void>((_resolve, reject) => {
          const onAbort = (): void => reject(new VirtioUserError('CANCELLED', 'IPAM ADD cancelled'));
          if (signal.aborted) onAbort();
          signal.addEventListener('abort', onAbort);
        });
      }
      const key = `${call.containerId}/${call.ifName}`;
      if (this.leases.has(key)) throw new VirtioUserError('IPAM_FAILED', 'duplicate allocation is not allowed');
      const address = `10.77.0.${this.leases.size + 2}`;
      this.leases.set(key, address);
      if (this.leaks) throw new VirtioUserError('IPAM_FAILED', 'no answer', { details: { undone: false } });
      return {
        ips: [
          { address: `${address}/24`, gateway: '10.77.0.1' },
          { address: 'fd77::2/64', gateway: null },
        ],
        routes: [{ dst: '0.0.0.0/0', gw: null, mtu: null, advmss: null, priority: null, table: null, scope: null }],
        dns: null,
      };
    });
    const confirmed = this.#gate.pass('ipam.ended', async () => {
      await this.lingering;
      if (this.relents) throw new VirtioUserError('IPAM_FAILED', 'killed by SIGKILL');
    });
    confirmed.catch(() => undefined);
    return { result, confirmed };
  }

  async del(call: IpamCall, _signal?: AbortSignal, permission?: Promise<unknown>): Promise<void> {
    await permission;
    return this.#gate.pass('ipam.del', () => {
      this.deletedWith.push(call.netconf);
      this.#called('DEL');
      this.leases.delete(`${call.containerId}/${call.ifName}`);
    });
  }

  async check(): Promise<void> {
    this.#called('CHECK');
  }

  /** What the last GC said to keep. */
  valid: readonly string[] = [];

  async gc(_call: unknown, valid: readonly { readonly containerId: string; readonly ifName: string }[]): Promise<void> {
    this.valid = valid.map(({ containerId, ifName }) => `${containerId}/${ifName}`);
    this.#called('GC');
  }

  async status(): Promise<void> {
    this.calls.push('STATUS');
  }

  #called(verb: 'ADD' | 'DEL' | 'CHECK' | 'GC'): void {
    this.calls.push(verb);
    if (this.failing === verb) throw new VirtioUserError('IPAM_FAILED', `IPAM plugin ${verb}: the pool is on fire`);
  }
}

export class FakeOvs implements OvsPorts {
  readonly ports = new Map<string, OvsPortSpec>();
  away = false;
  /** How often a port was asked for. */
  asked = 0;
  readonly #gate: Gate;

  constructor(gate: Gate) {
    this.#gate = gate;
  }

  ensure(spec: OvsPortSpec): Promise<void> {
    this.asked += 1;
    return this.#gate.pass('ovs.ensure', () => {
      this.#reach('no');
      this.ports.set(spec.name, spec);
    });
  }

  remove(name: string): Promise<boolean> {
    return this.#gate.pass('ovs.remove', () => {
      this.#reach('no');
      return this.ports.delete(name);
    });
  }

  list(nodeName: string): Promise<readonly OvsPort[]> {
    return this.#gate.pass('ovs.list', () => {
      this.#reach('no');
      return [...this.ports.values()].filter((port) => port.externalIds['virtio-user-node'] === nodeName);
    });
  }

  close(): void {}

  #reach(committed: string): void {
    if (!this.away) return;
    throw new VirtioUserError('OVS_UNAVAILABLE', 'OVSDB: ECONNREFUSED', { details: { committed } });
  }
}

const nodeName = 'node-1';

/** One node with one agent, which can be killed and started again. */
export class FakeNode {
  readonly log = new RecordingLogger();
  readonly directory = mkdtempSync(join(tmpdir(), 'vu-att-'));
  readonly stateDir = join(this.directory, 'state');
  readonly deviceInfoDir = join(this.directory, 'devinfo');
  readonly #handles = new Set<FileHandle>();
  readonly gate = new Gate();
  readonly kernel: FakeKernel;
  readonly clock = new FakeClock();
  readonly ipam = new FakeIpam(this.gate);
  readonly ovs = new FakeOvs(this.gate);
  bootId = 'boot-1';
  holdMs = 1000;
  /** `namespace/name` → why nothing of that pod may be removed on suspicion. */
  readonly keptPods = new Map<string, string>();
  sources: FakeSource[] = [];
  ports: FakePort[] = [];
  /** Of the agent; filled before the first attachment. */
  readonly pumps: Pump[] = [];
  devices: FakeDevice[] = [];
  /** Thrown by `open` of the next source. */
  socketRefusal: Error | null = null;
  /** Operation of the binding for which no descriptor is left. */
  withoutDescriptors: 'openTap' | 'setupPodLink' | null = null;
  manager: AttachmentManager;

  constructor() {
    const netnsDir = join(this.directory, 'netns');
    mkdirSync(netnsDir);
    this.kernel = new FakeKernel(netnsDir);
    this.manager = this.#newManager();
  }

  async start(): Promise<void> {
    await this.gate.within(() => this.manager.restore());
    await this.manager.settled();
  }

  /** The process dies where it stands: its descriptors and sockets go, nothing else does. */
  async killAndRestart(beforeStart: () => void = () => undefined): Promise<void> {
    this.gate.kill();
    await this.#closeFiles();
    this.kernel.processDied();
    this.sources = [];
    this.ports = [];
    this.devices = [];
    this.manager = this.#newManager();
    beforeStart();
    await this.start();
  }

  async destroy(): Promise<void> {
    this.gate.disarm();
    await this.manager.close();
    await this.#closeFiles();
    rmSync(this.directory, { recursive: true, force: true });
  }

  spec(netnsPath: string, change: Partial<AttachmentSpec> = {}): AttachmentSpec {
    const key = change.key ?? { networkName: 'net', containerId: 'container-1', ifName: 'eth0' };
    return {
      key,
      netnsPath,
      pod: { namespace: 'ns', name: 'pod', uid: 'uid' },
      cniArgs: '',
      cniPath: '/opt/cni/bin',
      backend: {
        type: 'vhost-user',
        path: `/run/vhost/${attachmentId(key)}.sock`,
        server: true,
        wait: 'optional',
        waitTimeoutMs: 5000,
      },
      device: {
        queues: 1,
        queueSize: 1024,
        cq: true,
        mac: derivedMac(nodeName, key),
        mrgRxbuf: true,
        inOrder: true,
        packedVq: false,
        mtu: 1500,
        memory: 'memfd',
      },
      ovs: { bridge: 'br-dpdk', vlan: null },
      ipam: { type: 'host-local', netconf: '{"name":"net"}' },
      addresses: [],
      deviceInfoPath: join(this.deviceInfoDir, `net-${key.containerId}_${key.ifName}`),
      ...change,
    };
  }

  async add(spec: AttachmentSpec, context: CallContext = untroubled): Promise<unknown> {
    const netns = this.kernel.open(spec.netnsPath);
    try {
      return await this.gate.within(() => this.manager.add(spec, netns, context));
    } finally {
      netns.close();
    }
  }

  del(spec: AttachmentSpec, change: Partial<RemoveRequest> = {}, context: CallContext = untroubled): Promise<void> {
    const request: RemoveRequest = {
      key: spec.key,
      netnsPath: spec.netnsPath,
      cniArgs: '',
      cniPath: '/opt/cni/bin',
      ipam: spec.ipam,
      askedAtMs: this.clock.wallMs(),
      ...change,
    };
    return this.gate.within(() => this.manager.remove(request, context));
  }

  get source(): FakeSource {
    return last(this.sources, 'source');
  }

  get port(): FakePort {
    return last(this.ports, 'port');
  }

  get device(): FakeDevice {
    return last(this.devices, 'device');
  }

  get state(): string {
    return this.manager.list()[0]?.state ?? 'none';
  }

  /** The backend connects and the handshake is over. */
  async connect(backend: Backend = { kind: 'willing' }): Promise<FakeFrontend> {
    const frontend = this.source.connect(backend);
    await settle();
    await settle();
    return frontend;
  }

  records(): string[] {
    const directory = join(this.stateDir, 'attachments');
    return existsSync(directory) ? readdirSync(directory) : [];
  }

  deviceInfoFiles(): string[] {
    return existsSync(this.deviceInfoDir) ? readdirSync(this.deviceInfoDir) : [];
  }

  /** Everything that an attachment is made of and that exists at this moment. */
  leftovers(): string[] {
    return [
      ...this.kernel.links.map((link) => `link ${link.ifindex}`),
      ...[...this.ipam.leases.keys()].map((key) => `lease ${key}`),
      ...[...this.ovs.ports.keys()].map((name) => `OVS port ${name}`),
      ...this.sources.filter((source) => source.isOpen).map((source) => `socket ${source.path}`),
      ...this.ports.filter((port) => port.state !== 'closed').map(() => 'port'),
      ...this.records().map((name) => `record ${name}`),
      ...this.deviceInfoFiles().map((name) => `device info ${name}`),
      ...(this.kernel.openFds === 0 ? [] : [`${this.kernel.openFds} descriptors`]),
    ];
  }

  #newManager(): AttachmentManager {
    const dependencies: AttachmentDependencies = {
      binding: this.#binding(),
      pumps: this.pumps,
      deviceInfo: new DeviceInfoDirectory(this.deviceInfoDir, this.#deviceInfoDisk()),
      ipam: this.ipam,
      ovs: this.ovs,
      createDevice: (options) => {
        const device = new FakeDevice(options);
        this.devices.push(device);
        return device;
      },
      createSource: (backend) => {
        const source = new FakeSource(backend.path);
        source.refusal = this.socketRefusal;
        this.sources.push(source);
        return source;
      },
      clock: this.clock,
      log: this.log,
      whyKeepPod: (pod) => this.keptPods.get(pod === null ? '' : `${pod.namespace}/${pod.name}`) ?? null,
      options: {
        nodeName,
        stateDir: this.stateDir,
        holdMs: this.holdMs,
        softwareOffloads: true,
        bootId: this.bootId,
      },
      files: this.#files(),
    };
    return new AttachmentManager(dependencies);
  }

  /** As the kernel does for a process that has ended. */
  async #closeFiles(): Promise<void> {
    const open = [...this.#handles];
    this.#handles.clear();
    await Promise.all(open.map((handle) => handle.close()));
  }

  #deviceInfoDisk(): typeof deviceInfoDisk {
    const { gate } = this;
    const { mkdir, rename, rm } = deviceInfoDisk;
    const open: typeof deviceInfoDisk.open = async (...args) => {
      const handle = await deviceInfoDisk.open(...args);
      this.#handles.add(handle);
      return handle;
    };
    const through = <A extends unknown[], R>(name: string, work: (...args: A) => Promise<R>) => {
      return (...args: A): Promise<R> => gate.pass(`device info.${name}`, () => work(...args));
    };
    return {
      mkdir: through('mkdir', mkdir) as typeof mkdir, // overloads have no single type
      open: through('open', open),
      rename: through('rename', rename),
      rm: through('rm', rm),
    };
  }

  /** The addon's durable files in steps that can fail, or be the last of a process. */
  #files(): StoreFiles {
    const { gate } = this;
    const opened = (path: string, flags: string, mode?: number): Promise<FileHandle> =>
      gate.pass('file.open', async () => {
        const handle = await open(path, flags, mode);
        this.#handles.add(handle);
        return handle;
      });
    return {
      ...nodeFiles,
      rename: (...args) => gate.pass('file.rename', () => nodeFiles.rename(...args)),
      rm: (...args) => gate.pass('file.rm', () => nodeFiles.rm(...args)),
      replaceFile: async (temporary, path, contents) => {
        const file = await opened(temporary, 'wx', 0o600);
        try {
          try {
            await file.writeFile(contents);
            await gate.pass('file.fdatasync', () => file.datasync());
          } finally {
            await file.close();
          }
          await gate.pass('file.rename', () => rename(temporary, path));
        } catch (error) {
          await gate.pass('file.unlink', () => unlink(temporary)).catch(() => undefined);
          throw error;
        }
      },
      syncDirectory: async (path) => {
        const directory = await opened(path, 'r');
        try {
          await gate.pass('file.fsync', () => directory.sync());
        } finally {
          await directory.close();
        }
      },
    };
  }

  /** The binding takes a descriptor of its own of the namespace, on the caller's stack. */
  #duplicate(operation: string): void {
    if (this.withoutDescriptors === operation) throw fault('EMFILE', 'fcntl F_DUPFD_CLOEXEC');
  }

  #binding(): NativeBinding {
    const { kernel, gate } = this;
    const inodeOf = (fd: NativeFd): string => String(fd.identity().inode);
    const binding: Partial<NativeBinding> = {
      openNetns: (path) => kernel.open(path),
      openTap: (netns, tap) => {
        this.#duplicate('openTap');
        return gate.pass('openTap', () => {
          const existing = kernel.find(inodeOf(netns), tap.name);
          if (tap.adoptIfindex === null && existing !== undefined) throw fault('EEXIST', 'TUNSETIFF');
          if (tap.adoptIfindex !== null && existing?.ifindex !== tap.adoptIfindex) throw fault('ENODEV', 'TUNSETIFF');
          const link = existing ?? kernel.create(inodeOf(netns), tap.name, tap.mac, tap.mtu);
          return { ifindex: link.ifindex, queues: Array.from({ length: tap.queues }, () => kernel.fd(0n, 0n)) };
        });
      },
      setupPodLink: (netns, setup) => {
        this.#duplicate('setupPodLink');
        return gate.pass('setupPodLink', () => {
          const link = kernel.links.find((other) => other.ifindex === setup.ifindex && other.netns === inodeOf(netns));
          if (link === undefined) throw fault('ENODEV', 'RTM_NEWADDR');
          kernel.change(link, { up: true, addresses: setup.addresses, routes: setup.routes });
        });
      },
      inspectPodLink: (netns, name) => gate.pass('inspectPodLink', () => kernel.find(inodeOf(netns), name) ?? null),
      deletePodLink: (netns, name, ifindex) =>
        gate.pass('deletePodLink', () => {
          const link = kernel.find(inodeOf(netns), name);
          if (link === undefined || link.ifindex !== ifindex) return false;
          kernel.links = kernel.links.filter((other) => other !== link);
          return true;
        }),
      watchPodLink: (netns, ifindex, onChange) =>
        gate.pass('watchPodLink', () => kernel.watch(inodeOf(netns), ifindex, onChange)),
      createPort: (options) => {
        const port = new FakePort(options);
        this.ports.push(port);
        return port;
      },
    };
    return binding as NativeBinding;
  }
}

export const untroubled: CallContext = { requestId: 'test', signal: new AbortController().signal };

function last<T>(items: readonly T[], what: string): T {
  const item = items.at(-1);
  if (item === undefined) throw new Error(`there is no ${what} yet`);
  return item;
}
