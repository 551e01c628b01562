/**
 * A pod without cluster and agent: namespace, TAP, port and device of the product, driven step by step, for tests that
 * look at one backend closely.
 */
import type { CreateSession, DeviceOptions, ReadyDevice, VirtioUserDevice } from '../../src/device/api.ts';
import { createVirtioUserDevice } from '../../src/device/device.ts';
import type { Frontend, FrontendSource } from '../../src/device/frontend.ts';
import { createVhostUserSource } from '../../src/frontends/source.ts';
import type { NativeBinding, Port, PortCounters, Pump, SocketPath } from '../../src/native/binding.ts';
import { silentLogger } from '../../src/telemetry/log.ts';
import type { Cleanup } from './cleanup.ts';
import { Netns } from './netns.ts';

export interface Connected {
  readonly frontend: Frontend;
  readonly released: () => void;
}

/** Connections to a backend, one by one, as the attachment's policy takes them. */
export class Connections {
  readonly #source: FrontendSource;
  readonly #arrived: Connected[] = [];
  readonly #waiting: ((connected: Connected) => void)[] = [];

  constructor(binding: NativeBinding, path: SocketPath, server: boolean, cleanup: Cleanup, logger = silentLogger) {
    this.#source = createVhostUserSource({ binding, path, server, mode: 0o660, groupId: null, logger });
    cleanup.add(`source ${path.relativePath}`, () => this.#source.close());
    this.#source.open((frontend, released) => {
      const take = this.#waiting.shift();
      if (take === undefined) this.#arrived.push({ frontend, released });
      else take({ frontend, released });
    });
  }

  next(): Promise<Connected> {
    const first = this.#arrived.shift();
    return first === undefined ? new Promise((resolve) => this.#waiting.push(resolve)) : Promise.resolve(first);
  }
}

export interface PodOptions {
  readonly name: string;
  readonly address: string;
  readonly prefixLength: number;
  readonly mac: string;
  readonly mtu: number;
  readonly queues: number;
}

/** A connection of the pod's that carries frames. */
export interface Running {
  readonly ready: ReadyDevice;
  readonly frontend: Frontend;
  /** Resolves when the backend is gone. */
  readonly lost: Promise<Error>;
  /** Takes the traffic off, then lets the backend go. @returns anomalies */
  stop(): Promise<readonly string[]>;
}

export class Pod {
  readonly netns: Netns;
  readonly options: PodOptions;
  readonly port: Port;
  readonly ifindex: number;
  readonly #binding: NativeBinding;

  private constructor(netns: Netns, options: PodOptions, port: Port, ifindex: number, binding: NativeBinding) {
    this.netns = netns;
    this.options = options;
    this.port = port;
    this.ifindex = ifindex;
    this.#binding = binding;
  }

  /** @param pumps borrowed; pair i is moved by pumps[i % pumps.length] */
  static async create(
    binding: NativeBinding,
    pumps: readonly Pump[],
    options: PodOptions,
    cleanup: Cleanup,
  ): Promise<Pod> {
    const netns = await Netns.create(options.name, cleanup);
    // Frames that nobody asked for (router solicitations, multicast reports) would be counted among the test's.
    await netns.run('sysctl', '-qw', 'net.ipv6.conf.default.disable_ipv6=1');
    const file = binding.openNetns(netns.path);
    try {
      const tap = await binding.openTap(file, {
        name: 'eth0',
        queues: options.queues,
        headerBytes: 12,
        adoptIfindex: null,
        mac: options.mac,
        mtu: options.mtu,
        txQueueLength: 1000,
        gsoMaxBytes: 65536,
      });
      const port = binding.createPort({ taps: tap.queues, pumps, onEvent: () => undefined });
      cleanup.add(`port of ${options.name}`, () => port.close());
      port.setCarrier(false);
      await binding.setupPodLink(file, {
        ifindex: tap.ifindex,
        addresses: [{ address: options.address, prefixLength: options.prefixLength }],
        routes: [],
      });
      return new Pod(netns, options, port, tap.ifindex, binding);
    } finally {
      file.close();
    }
  }

  counters(): PortCounters {
    return this.port.counters();
  }

  device(options: Omit<DeviceOptions, 'mac' | 'mtu' | 'queues'>): VirtioUserDevice {
    const { mac, mtu, queues } = this.options;
    const createSession: CreateSession = (session) => this.#binding.createSession(session);
    return createVirtioUserDevice({ ...options, mac, mtu, queues }, createSession, this.port);
  }

  /** Handshake, then traffic. On failure nothing runs and the connection is released. */
  async run(device: VirtioUserDevice, { frontend, released }: Connected): Promise<Running> {
    const lost = new Promise<Error>((resolve) => {
      frontend.onDisconnect = resolve;
    });
    const stop = async (): Promise<readonly string[]> => {
      await this.port.quiesce();
      const anomalies = await device.shutDown();
      released();
      return anomalies.map(({ what }) => what);
    };
    try {
      const ready = await device.bringUp(frontend);
      this.port.setOffload(ready.offloads.tapMask);
      await this.port.start(ready.session, { ...ready.offloads, activePairs: ready.activePairs });
      this.port.setCarrier(true);
      return { ready, frontend, lost, stop };
    } catch (error) {
      await stop();
      throw error;
    }
  }
}

/** Frames on the rings, as the backend counts them: segments where frames are segmented in software. */
export function ringFrames({ txFrames, rxFrames, drops, events }: PortCounters): {
  readonly sent: bigint;
  readonly received: bigint;
} {
  const dropped = Object.entries(drops).reduce(
    (sum, [reason, frames]) => sum + (reason.startsWith('rx_') ? frames : 0n),
    0n,
  );
  return {
    sent: txFrames + (events['gso_segments'] ?? 0n) - (events['gso_frames'] ?? 0n),
    received: rxFrames + dropped,
  };
}
