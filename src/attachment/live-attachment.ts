/**
 * One attachment as it runs: the pod's TAP (port), the source of backend connections, and the device on the current one.
 * Policy lives here: what follows a connection, a loss, a refusal.
 *
 *   waiting ──connection──▶ negotiating ──DRIVER_OK──▶ running
 *      ▲                        │ refused                │ lost
 *      │◀───────────────────────┤                        ▼
 *      │                        └─lacks a must──▶ parked  held ──hold time──▶ waiting (carrier off, frames discarded)
 *
 * Events are worked off one at a time in the order they came; an event of a connection that is no longer the current one
 * is dropped. After a loss the port is quiesced first, which waits for the pump, and only then is the session freed.
 */
import type { DeviceState, ReadyDevice, VirtioUserDevice } from '../device/api.ts';
import type { Frontend, FrontendSource } from '../device/frontend.ts';
import { messageOf, VirtioUserError } from '../errors.ts';
import type { NativeFd, Port, PortCounters } from '../native/binding.ts';
import { publish } from '../telemetry/channels.ts';
import type { Logger } from '../telemetry/log.ts';
import { featureNames } from '../virtio/feature.ts';
import { statusNames } from '../virtio/status.ts';
import { announcements } from './announce.ts';
import type { AttachmentDependencies } from './dependencies.ts';
import type { AttachmentSpec } from './spec.ts';

export type LiveState = 'waiting' | 'negotiating' | 'running' | 'held' | 'parked' | 'tap-gone' | 'closed';

interface Connection {
  readonly frontend: Frontend;
  readonly released: () => void;
}

/** Failures in a row after which a view says so. */
const degradedAfterFailures = 5;

export class LiveAttachment {
  readonly id: string;
  readonly spec: AttachmentSpec;
  readonly #dependencies: AttachmentDependencies;
  readonly #log: Logger;
  readonly #port: Port;
  readonly #source: FrontendSource;
  readonly #device: VirtioUserDevice;
  readonly #waiters = new Set<() => void>();
  #addresses: readonly string[];
  #state: LiveState = 'waiting';
  #reason: string | null = null;
  #ready: ReadyDevice | null = null;
  #connection: Connection | null = null;
  #carrier = false;
  #connections = 0;
  #failures = 0;
  #lostAtMs: number | null = null;
  #lastOutageMs: number | null = null;
  #holdTimer: { cancel(): void } | null = null;
  #tail: Promise<void> = Promise.resolve();
  #closing = false;

  /** Takes the TAP queues. */
  constructor(
    id: string,
    spec: AttachmentSpec,
    taps: readonly NativeFd[],
    addresses: readonly string[],
    dependencies: AttachmentDependencies,
  ) {
    this.id = id;
    this.spec = spec;
    this.#addresses = addresses;
    this.#dependencies = dependencies;
    this.#log = dependencies.log.child({ id, containerId: spec.key.containerId, network: spec.key.networkName });
    this.#port = dependencies.binding.createPort({
      taps,
      pumps: dependencies.pumps,
      onEvent: (event) => {
        if (event.kind === 'tap-gone') this.#enqueue(() => this.#tapGone(event.reason));
        else this.#enqueue(() => this.#lost(this.#connection, `ring corrupt: ${event.reason}`));
      },
    });
    this.#device = dependencies.createDevice({
      queues: spec.device.queues,
      queueSize: spec.device.queueSize,
      cq: spec.device.cq,
      mac: spec.device.mac,
      mrgRxbuf: spec.device.mrgRxbuf,
      inOrder: spec.device.inOrder,
      packedVq: spec.device.packedVq,
      mtu: spec.device.mtu,
      memory: spec.device.memory,
      softwareOffloads: dependencies.options.softwareOffloads,
    });
    this.#source = dependencies.createSource(spec.backend);
    this.#port.setCarrier(false);
    this.#port.discard(); // until there is a backend nothing may wait in the TAP
  }

  get state(): LiveState {
    return this.#state;
  }

  /** Starts to listen or connect. @throws VirtioUserError when it can never work */
  open(): void {
    this.#source.open((frontend, released) => this.#enqueue(() => this.#connected({ frontend, released })));
  }

  /** Told once IPAM has answered; announced when the backend is there already. */
  setAddresses(addresses: readonly string[]): void {
    this.#addresses = addresses;
    if (this.#state === 'running') this.#announce();
  }

  /** Resolves when the device runs. @throws BACKEND_ABSENT after the time; CANCELLED on abort */
  async waitUntilRunning(timeoutMs: number, signal: AbortSignal): Promise<void> {
    if (this.#state === 'running') return;
    await new Promise<void>((resolve, reject) => {
      const finish = (error: Error | null): void => {
        timer.cancel();
        signal.removeEventListener('abort', onAbort);
        this.#waiters.delete(onChange);
        if (error === null) resolve();
        else reject(error);
      };
      const path = this.spec.backend.path;
      const timer = this.#dependencies.clock.setTimeout(() => {
        const detail = this.#reason ?? this.#source.situation;
        finish(
          new VirtioUserError('BACKEND_ABSENT', `backend ${path} did not come up within ${timeoutMs} ms: ${detail}`, {
            remedy: 'start the switch, or use backend.wait "optional"',
          }),
        );
      }, timeoutMs);
      const onAbort = (): void =>
        finish(new VirtioUserError('CANCELLED', `waiting for backend ${path}: the caller is gone`));
      const onChange = (): void => {
        if (this.#state === 'running') finish(null);
      };
      signal.addEventListener('abort', onAbort, { once: true });
      this.#waiters.add(onChange);
      if (signal.aborted) onAbort();
    });
  }

  /** Drops the connection and starts anew. */
  reconnect(): void {
    this.#enqueue(() => this.#lost(this.#connection, 'reconnect was asked for'));
  }

  /** No packet moves after it resolves; the TAP's descriptors are let go. Idempotent. */
  async stopTraffic(): Promise<void> {
    this.#closing = true;
    this.#holdTimer?.cancel();
    await this.#port.close();
  }

  /** The whole end: traffic, connection, memory, socket. The TAP itself stays. Idempotent. */
  async close(): Promise<void> {
    await this.stopTraffic();
    this.#source.close();
    const connection = this.#connection;
    if (this.#device.state.kind === 'negotiating') connection?.frontend.close();
    await this.#tail;
    const anomalies = await this.#device.shutDown();
    if (anomalies.length > 0) this.#log.debug({ anomalies }, 'device stopped');
    this.#connection?.released();
    this.#connection = null;
    this.#setState('closed', null);
  }

  counters(): PortCounters | null {
    return this.#state === 'closed' || this.#closing ? null : this.#port.counters();
  }

  get view(): {
    readonly state: LiveState;
    readonly reason: string | null;
    readonly carrier: boolean;
    readonly statusNames: readonly string[];
    readonly ready: ReadyDevice | null;
    readonly backendPid: number | null;
    readonly connections: number;
    readonly lastOutageMs: number | null;
  } {
    const waiting = this.#state === 'waiting' ? this.#source.situation : null;
    const often = this.#failures >= degradedAfterFailures ? ` (${this.#failures} failures in a row)` : '';
    const reason = this.#reason ?? waiting;
    return {
      state: this.#state,
      reason: reason === null ? null : `${reason}${often}`,
      carrier: this.#carrier,
      statusNames: statusNames(this.#device.status),
      ready: this.#ready,
      backendPid: this.#connection?.frontend.backendPid ?? null,
      connections: this.#connections,
      lastOutageMs: this.#lastOutageMs,
    };
  }

  #enqueue(work: () => Promise<void>): void {
    this.#tail = this.#tail.then(work).catch((error: unknown) => {
      this.#log.error({ error }, 'attachment event failed');
    });
  }

  async #connected(connection: Connection): Promise<void> {
    if (this.#closing || this.#state === 'tap-gone') {
      connection.frontend.close();
      connection.released();
      return;
    }
    this.#connection = connection;
    this.#connections += 1;
    if (this.#lostAtMs === null) this.#setState('negotiating', null);
    connection.frontend.onDisconnect = (error) => this.#enqueue(() => this.#lost(connection, messageOf(error)));
    let ready: ReadyDevice;
    try {
      ready = await this.#device.bringUp(connection.frontend);
    } catch (error) {
      this.#refused(connection, VirtioUserError.from(error, 'handshake'));
      return;
    }
    if (this.#closing) return; // close() shuts the device down
    try {
      this.#port.setOffload(ready.offloads.tapMask);
      await this.#port.start(ready.session, { ...ready.offloads, activePairs: ready.queuePairs });
    } catch (error) {
      this.#connection = null;
      await this.#device.shutDown();
      this.#setState(this.#lostAtMs === null ? 'waiting' : 'held', `start of the pump: ${messageOf(error)}`);
      connection.released();
      return;
    }
    this.#running(ready);
  }

  #running(ready: ReadyDevice): void {
    this.#ready = ready;
    this.#failures = 0;
    this.#holdTimer?.cancel();
    this.#holdTimer = null;
    this.#setCarrier(true);
    const degraded =
      ready.degradedBy.length === 0 ? null : `degraded, the backend lacks ${ready.degradedBy.join(', ')}`;
    this.#setState('running', degraded);
    this.#announce();
    const outageMs = this.#lostAtMs === null ? null : Math.round(this.#dependencies.clock.now() - this.#lostAtMs);
    this.#lostAtMs = null;
    const acked = featureNames(ready.ackedFeatures);
    if (outageMs === null) {
      publish('attachmentReady', { ...this.#identity(), acked });
      this.#log.info({ acked, pairs: ready.queuePairs }, 'backend connected');
    } else {
      this.#lastOutageMs = outageMs;
      publish('backendReconnected', { ...this.#identity(), outageMs, degradedBy: ready.degradedBy });
      this.#log.info({ outageMs, degradedBy: ready.degradedBy }, 'backend reconnected');
    }
  }

  #refused(connection: Connection, error: VirtioUserError): void {
    this.#connection = null;
    this.#failures += 1;
    const state: DeviceState = this.#device.state;
    if (state.kind === 'parked') {
      this.#holdTimer?.cancel();
      this.#holdTimer = null;
      this.#setCarrier(false);
      if (!this.#closing) this.#port.discard();
      if (this.#state !== 'parked') publish('featureMismatch', { ...this.#identity(), missing: state.missing });
      this.#setState('parked', error.message);
    } else {
      this.#setState(this.#holdTimer === null ? 'waiting' : 'held', error.message);
    }
    const log = this.#failures === 1 || this.#failures % 100 === 0 ? 'warn' : 'debug';
    this.#log[log]({ error, failures: this.#failures }, 'backend refused');
    connection.released();
  }

  async #lost(connection: Connection | null, reason: string): Promise<void> {
    if (connection === null || connection !== this.#connection || this.#state !== 'running' || this.#closing) return;
    this.#lostAtMs = this.#dependencies.clock.now();
    this.#setState('held', reason);
    this.#ready = null;
    await this.#port.quiesce();
    const anomalies = await this.#device.shutDown();
    this.#connection = null;
    this.#log.warn({ reason, anomalies }, 'backend disconnected');
    publish('backendDisconnected', { ...this.#identity(), reason });
    this.#holdTimer = this.#dependencies.clock.setTimeout(
      () => this.#enqueue(() => this.#holdEnded()),
      this.#dependencies.options.holdMs,
    );
    connection.released();
  }

  async #holdEnded(): Promise<void> {
    this.#holdTimer = null;
    if (this.#closing || this.#state === 'running' || this.#state === 'tap-gone') return;
    this.#setCarrier(false);
    this.#port.discard();
    if (this.#state === 'held') this.#setState('waiting', this.#reason);
    await Promise.resolve();
  }

  async #tapGone(reason: string): Promise<void> {
    if (this.#closing) return;
    this.#log.warn({ reason }, 'the interface was removed from the pod');
    this.#holdTimer?.cancel();
    this.#source.close();
    await this.#port.quiesce();
    await this.#device.shutDown();
    this.#connection?.released();
    this.#connection = null;
    this.#ready = null;
    this.#carrier = false;
    this.#setState('tap-gone', `the interface was removed from the pod: ${reason}`);
  }

  #announce(): void {
    for (const frame of announcements(this.spec.device.mac, this.#addresses)) this.#port.inject(frame);
  }

  #setCarrier(up: boolean): void {
    if (this.#closing) return;
    try {
      this.#port.setCarrier(up);
      this.#carrier = up;
    } catch (error) {
      this.#log.warn({ error, up }, 'carrier could not be set');
    }
  }

  #setState(state: LiveState, reason: string | null): void {
    this.#state = state;
    this.#reason = reason;
    for (const waiter of [...this.#waiters]) waiter();
  }

  #identity(): {
    readonly id: string;
    readonly networkName: string;
    readonly containerId: string;
    readonly ifName: string;
    readonly podNamespace: string;
    readonly podName: string;
    readonly podUid: string;
  } {
    const { key, pod } = this.spec;
    return {
      id: this.id,
      ...key,
      podNamespace: pod?.namespace ?? '',
      podName: pod?.name ?? '',
      podUid: pod?.uid ?? '',
    };
  }
}
