/** The surroundings of the attachment life cycle, in memory: what is left in them is what a test asks about. */
import { existsSync, mkdirSync, mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { type FileHandle, open, rename, unlink } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { CallContext, RemoveRequest } from '../../src/attachment/api.ts';
import type { AttachmentDependencies } from '../../src/attachment/dependencies.ts';
import { CutConnections } from '../../src/attachment/cut-connections.ts';
import { DeviceInfoDirectory, deviceInfoDisk } from '../../src/attachment/device-info.ts';
import { attachmentId, derivedMac } from '../../src/attachment/key.ts';
import { AttachmentManager } from '../../src/attachment/manager.ts';
import type { AttachmentSpec } from '../../src/attachment/spec.ts';
import { nodeFiles, type StoreFiles } from '../../src/attachment/store.ts';
import type { NativeBinding, NativeFd, Pump } from '../../src/native/binding.ts';
import { FakeClock, settle } from './fake-clock.ts';
import { type Backend, FakeDevice, type FakeConnection, FakePort, FakeSource } from './fake-device.ts';
import { FakeIpam } from './fake-ipam.ts';
import { FakeKernel } from './fake-kernel.ts';
import { FakeOvs } from './fake-ovs.ts';
import { fault, Gate } from './gate.ts';
import { RecordingLogger } from './recording-logger.ts';

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
  readonly #socketFiles = new Set<string>();
  ports: FakePort[] = [];
  /** Of the agent; filled before the first attachment. */
  readonly pumps: Pump[] = [];
  devices: FakeDevice[] = [];
  /** Thrown where a source is asked for: its path is none that is allowed. */
  pathRefusal: Error | null = null;
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

  /** The process dies where it stands: its descriptors go, nothing else does. */
  async killAndRestart(beforeStart: () => void = () => undefined): Promise<void> {
    this.gate.kill();
    await this.#closeFiles();
    this.kernel.processDied();
    for (const source of this.sources) source.processDied();
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
  async connect(backend: Backend = { kind: 'willing' }): Promise<FakeConnection> {
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
      ...[...this.#socketFiles].map((path) => `socket ${path}`),
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
      cuts: new CutConnections(this.clock),
      createDevice: (options) => {
        const device = new FakeDevice(options);
        this.devices.push(device);
        return device;
      },
      createSource: (backend) => {
        if (this.pathRefusal !== null) throw this.pathRefusal;
        const source = new FakeSource(backend.path, this.#socketFiles);
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
          const known = ({ ifindex, netns: where }: { readonly ifindex: number; readonly netns: string }): boolean =>
            ifindex === tap.adoptIfindex && where === inodeOf(netns);
          const existing = tap.adoptIfindex === null ? kernel.find(inodeOf(netns), tap.name) : kernel.links.find(known);
          if (tap.adoptIfindex === null && existing !== undefined) throw fault('EEXIST', 'TUNSETIFF');
          if (tap.adoptIfindex !== null && existing === undefined) throw fault('ENODEV', 'TUNSETIFF');
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
      deletePodLink: (netns, _name, ifindex) =>
        gate.pass('deletePodLink', () => {
          const link = kernel.links.find((other) => other.ifindex === ifindex && other.netns === inodeOf(netns));
          if (link === undefined) return false;
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
