/**
 * Policy of one attachment's backend connections: what follows a connection, a loss, a refusal. Mechanism (what is legal
 * now) is in `device/`; where connections come from, and how often, is in the source.
 *
 *   waiting ──connection──▶ negotiating ──DRIVER_OK──▶ running
 *      ▲                        │ refused                │ lost
 *      │◀──(5 times: degraded)──┤                        ▼
 *      │                        └─lacks a must──▶ parked  held ──hold time──▶ waiting
 *
 * - held: carrier on, nothing is read, the TAP's queue holds frames for a backend that comes back soon.
 * - waiting, parked, degraded after the hold time: carrier off, frames are read and dropped, so that nothing is delivered
 *   late.
 * - every connection has new memory; the port is quiesced, which waits for the pumps, before that memory is freed.
 *
 * A source offers one connection at a time, so one function tells the life of each (`#serve`). The hold timer runs
 * beside it: a backend that stalls in the handshake does not keep the carrier on.
 */
import type { Clock } from '../clock.ts';
import type { Anomaly, ReadyDevice, VirtioUserDevice } from '../device/api.ts';
import type { Frontend, FrontendSource } from '../device/frontend.ts';
import { messageOf, VirtioUserError } from '../errors.ts';
import { settledMs } from '../frontends/backoff.ts';
import type { Port, PortEvent } from '../native/binding.ts';
import { type AttachmentIdentity, publish } from '../telemetry/channels.ts';
import type { Logger } from '../telemetry/log.ts';
import { featureBit, featureName, featureNames } from '../virtio/feature.ts';

export type LinkState = 'waiting' | 'negotiating' | 'running' | 'held' | 'parked' | 'degraded' | 'tap-gone' | 'closing';

export interface ReconnectParts {
  readonly identity: AttachmentIdentity;
  readonly port: Port;
  readonly device: VirtioUserDevice;
  readonly createSource: () => FrontendSource;
  readonly holdMs: number;
  /** Pairs that the device shall have; a backend may have fewer. */
  readonly configuredPairs: number;
  readonly clock: Clock;
  readonly log: Logger;
  readonly onChange: () => void;
  /** The device runs on a fresh connection (true), or does not any more. */
  readonly onRunning: (running: boolean) => void;
  /** The connection has ended here, and its backend may not be done with it. */
  readonly onCut: () => void;
  /** Frames that tell the switch where the pod is, as of now. Never rejects. */
  readonly announcements: () => Promise<readonly Uint8Array[]>;
  /** All announcements after a start have begun. */
  readonly onAnnounced: () => void;
}

/** Failures in a row at one step after which the state says so. */
export const degradedAfter = 5;
/** A living backend gets this long to let go in order; then the connection is cut. */
export const orderlyStopMs = 500;
/** What a backend that has taken no frames for 5 s gets to answer: with these, three misses of a probe every 5 s. */
export const probeDeadlineMs = 10_000;
/** A socket that could not be opened when the agent restarted is tried again. */
export const reopenMs = 5_000;
/** After start: a switch that has just taken up a port may drop its first frames. */
export const announceAtMs = [0, 100, 500] as const;

/** Of the handshakes since the device ran last. */
interface Failure {
  readonly step: string;
  /** In a row at this step. */
  readonly count: number;
  readonly error: VirtioUserError | null;
}

const noFailure: Failure = { step: '', count: 0, error: null };

class Connection {
  readonly frontend: Frontend;
  readonly released: () => void;
  /** Resolves with the reason once the connection shall end, or has ended. */
  readonly ended: Promise<string>;
  endReason: string | null = null;
  /** The backend ended it, or died. */
  left = false;
  #resolve: (reason: string) => void = () => undefined;

  constructor(frontend: Frontend, released: () => void) {
    this.frontend = frontend;
    this.released = released;
    this.ended = new Promise((resolve) => {
      this.#resolve = resolve;
    });
  }

  end(reason: string): void {
    this.endReason ??= reason;
    this.#resolve(this.endReason);
  }
}

export class Reconnect {
  readonly #parts: ReconnectParts;
  #source: FrontendSource | null = null;
  #state: LinkState = 'waiting';
  #reason: string | null = null;
  #ready: ReadyDevice | null = null;
  #connection: Connection | null = null;
  #serving: Promise<void> = Promise.resolve();
  #carrier = false;
  #probing = false;
  /** Of the connection. */
  #stallTold = false;
  #connections = 0;
  #orderlyStopMs = orderlyStopMs;
  /** The device takes up a connection whose memory no pump has seen yet. */
  #negotiating = false;
  #portStarted = false;
  #portClosed: Promise<void> | null = null;
  #failure: Failure = noFailure;
  #missing = '';
  #lostAtMs: number | null = null;
  #lastOutageMs: number | null = null;
  #cancelHold: (() => void) | null = null;
  #cancelReopen: (() => void) | null = null;
  /** What is due while the device runs. */
  #cancelRun: (() => void)[] = [];
  #runningSinceMs = 0;
  /** Runs in a row that ended before they had settled. */
  #shortRuns = 0;

  constructor(parts: ReconnectParts) {
    this.#parts = parts;
  }

  get state(): LinkState {
    return this.#state;
  }

  get carrier(): boolean {
    return this.#carrier;
  }

  get ready(): ReadyDevice | null {
    return this.#ready;
  }

  get connections(): number {
    return this.#connections;
  }

  get lastOutageMs(): number | null {
    return this.#lastOutageMs;
  }

  get backendPid(): number | null {
    return this.#connection?.frontend.backendPid ?? null;
  }

  /** Why the last backend that came could not be used; null: none came, or it runs. */
  get failure(): VirtioUserError | null {
    return this.#failure.error;
  }

  /** For people: why it does not run, or what it lacks. */
  get reason(): string | null {
    if (this.#state === 'running' || this.#state === 'tap-gone') return this.#reason;
    return this.#reason ?? (this.#state === 'closing' ? null : (this.#source?.situation ?? null));
  }

  /** A new interface: without carrier until there is a backend. @throws VirtioUserError when it can never work */
  open(): void {
    this.#unattended('waiting', null);
    this.#openSource();
  }

  /** An interface of an earlier agent: its backend is expected back within the hold time. Failures are retried. */
  resume(): void {
    this.#beginHold('the agent was restarted');
    this.#setCarrier(true);
    this.#openOrRetry();
  }

  /** Drops what there is and starts anew, without back-off. */
  reconnect(): void {
    if (this.#state === 'closing' || this.#state === 'tap-gone') return;
    if (this.#connection !== null) {
      this.#cut(this.#connection, 'a reconnect was asked for');
      return;
    }
    this.#openOrRetry();
  }

  announce(): void {
    if (this.#state === 'running') void this.#announceOn(this.#connection);
  }

  portEvent(event: PortEvent): void {
    if (this.#state === 'closing' || this.#state === 'tap-gone') return;
    if (event.kind === 'tap-gone') {
      this.#tapGone(event.reason);
    } else if (event.kind === 'backend-stalled') {
      void this.#probe();
    } else if (this.#connection?.endReason === null) {
      // Also while the device starts: a port that broke then would never run.
      publish('portBroken', { attachment: this.#parts.identity, kind: event.kind, reason: event.reason });
      this.#parts.device.needReset();
      this.#connection.end(`${event.kind}: ${event.reason}`);
    }
  }

  /** No frame moves after it resolves, and the TAP's descriptors are let go. Idempotent. */
  stopTraffic(): Promise<void> {
    if (this.#portClosed === null) {
      this.#cancelTimers();
      this.#stopReopening();
      this.#portClosed = this.#parts.port.close();
      this.#setState('closing', null);
    }
    return this.#portClosed;
  }

  /**
   * Traffic, connection, memory, socket; the TAP itself stays. Idempotent.
   * @param patienceMs what a living backend gets to let go in order, unless it is being asked already
   */
  async close(patienceMs = orderlyStopMs): Promise<void> {
    this.#orderlyStopMs = patienceMs;
    const stopped = this.stopTraffic();
    this.#source?.close();
    if (this.#connection !== null) this.#cut(this.#connection, 'the attachment is closed');
    await stopped;
    await this.#serving;
  }

  #openSource(): void {
    this.#source?.close();
    this.#source = this.#parts.createSource();
    this.#source.open((frontend, released) => {
      const connection = new Connection(frontend, released);
      this.#serving = this.#serving.then(() => this.#serve(connection));
    });
  }

  #openOrRetry(): void {
    this.#stopReopening();
    if (this.#over()) return;
    try {
      this.#openSource();
    } catch (error) {
      this.#parts.log.error({ error }, 'the socket of the backend cannot be opened');
      this.#setState(this.#state, messageOf(error));
      this.#cancelReopen = this.#parts.clock.after(reopenMs, () => this.#openOrRetry());
    }
  }

  /** The life of one connection. Never rejects. */
  async #serve(connection: Connection): Promise<void> {
    const { log } = this.#parts;
    try {
      if (this.#over()) {
        connection.frontend.close();
        return;
      }
      this.#connection = connection;
      this.#connections += 1;
      this.#stallTold = false;
      connection.frontend.onDisconnect = (error) => {
        connection.left = error instanceof VirtioUserError && error.code === 'DISCONNECTED';
        connection.end(messageOf(error));
      };
      this.#setState('negotiating', this.#reason);
      const failure = await this.#bringUp(connection);
      if (failure === null) {
        const reason = await connection.ended;
        this.#lost(reason);
      }
      await this.#quiesce();
      const anomalies = await this.#shutDown(connection);
      if (this.#parts.device.ringsOut && !connection.left) this.#parts.onCut();
      this.#tellAnomalies(anomalies);
      if (failure !== null) this.#failed(failure);
    } catch (error) {
      log.error({ error }, 'connection could not be ended in order');
    } finally {
      this.#connection = null;
      connection.released();
    }
  }

  /** @returns null when the device runs (or ran: the connection may have ended meanwhile) */
  async #bringUp(connection: Connection): Promise<VirtioUserError | null> {
    const { device, port } = this.#parts;
    try {
      this.#negotiating = true;
      const ready = await device.bringUp(connection.frontend).finally(() => {
        this.#negotiating = false;
      });
      if (!this.#over() && connection.endReason === null) {
        port.setOffload(ready.offloads.tapMask);
        this.#portStarted = true;
        const { softwareGso, softwareChecksum, softwareGro } = ready.offloads;
        const { activePairs } = ready;
        await port.start(ready.session, { softwareGso, softwareChecksum, softwareGro, activePairs });
      }
      if (this.#over()) return null;
      if (connection.endReason !== null) {
        return new VirtioUserError('DISCONNECTED', `connection ended as the device started: ${connection.endReason}`);
      }
      this.#running(ready);
      return null;
    } catch (error) {
      return VirtioUserError.from(error, 'start of the device', 'SYSCALL_FAILED');
    }
  }

  async #announceOn(connection: Connection | null): Promise<void> {
    const frames = await this.#parts.announcements();
    if (this.#state !== 'running' || this.#connection !== connection) return;
    for (const frame of frames) this.#parts.port.inject(frame);
  }

  async #quiesce(): Promise<void> {
    const started = this.#portStarted;
    this.#portStarted = false;
    if (started && this.#portClosed === null) await this.#parts.port.quiesce();
    // A closing port answers `quiesce` at once; only its own promise tells that the pumps are out.
    if (this.#portClosed !== null) await this.#portClosed;
  }

  #running(ready: ReadyDevice): void {
    const { clock, identity: attachment, log } = this.#parts;
    const { degradedBy, ackedFeatures: features } = ready;
    this.#cancelHold?.();
    this.#cancelHold = null;
    this.#failure = noFailure;
    this.#ready = ready;
    this.#runningSinceMs = clock.now();
    this.#setCarrier(true);
    const missing = missingOf(ready, this.#parts.configuredPairs);
    this.#setState(
      'running',
      missing.length === 0 ? null : `runs without what the backend lacks: ${missing.join(', ')}`,
    );
    this.#parts.onRunning(true);
    for (const delay of announceAtMs) {
      if (delay === 0) this.announce();
      else this.#cancelRun.push(clock.after(delay, () => this.announce()));
    }
    const last = announceAtMs[announceAtMs.length - 1] ?? 0;
    this.#cancelRun.push(clock.after(last, () => this.#parts.onAnnounced()));
    const outageMs = this.#lostAtMs === null ? null : Math.round(clock.now() - this.#lostAtMs);
    this.#lostAtMs = null;
    this.#tellMismatch(false, missing);
    const fields = { acked: featureNames(features), pairs: ready.queuePairs, degradedBy };
    if (outageMs === null) {
      publish('backendConnected', { attachment, features });
      log.info(fields, 'backend connected');
    } else {
      this.#lastOutageMs = outageMs;
      publish('backendReconnected', { attachment, outageMs, features });
      const tell = (): void => log.info({ ...fields, outageMs }, 'backend reconnected');
      // Of a backend that comes and goes only what lasts is news.
      if (this.#shortRuns < 2) tell();
      else this.#cancelRun.push(clock.after(settledMs, tell));
    }
  }

  #lost(reason: string): void {
    this.#ready = null;
    this.#parts.onRunning(false);
    if (this.#over()) return;
    const { clock, identity: attachment, log } = this.#parts;
    this.#shortRuns = clock.now() - this.#runningSinceMs < settledMs ? this.#shortRuns + 1 : 0;
    this.#beginHold(reason);
    publish('backendDisconnected', { attachment, reason });
    const level = this.#shortRuns < 2 || this.#shortRuns % 100 === 0 ? 'warn' : 'debug';
    log[level]({ reason, shortRuns: this.#shortRuns }, 'backend disconnected');
  }

  #failed(error: VirtioUserError): void {
    if (this.#over()) return;
    if (error.code === 'CANCELLED') {
      this.#idle(null);
      return;
    }
    const step = error.details['step'] ?? error.code;
    const again = this.#failure.step === String(step);
    this.#failure = { step: String(step), count: again ? this.#failure.count + 1 : 1, error };
    const { count } = this.#failure;
    const level = count === 1 || count % 100 === 0 ? 'warn' : 'debug';
    this.#parts.log[level]({ error, failures: count }, 'backend could not be used');
    if (error.code === 'NOT_NEGOTIATED') {
      const missing = error.details['missing'];
      this.#park(error.message, typeof missing === 'string' ? missing.split(', ') : []);
      return;
    }
    this.#idle(error.message);
    if (count === degradedAfter) {
      const reason = error.message;
      publish('attachmentDegraded', { attachment: this.#parts.identity, failures: count, reason });
    }
  }

  #park(reason: string, missing: readonly string[]): void {
    this.#cancelHold?.();
    this.#cancelHold = null;
    this.#unattended('parked', reason);
    this.#tellMismatch(true, missing);
  }

  /** Once per change: a parked backend comes back every second. */
  #tellMismatch(parked: boolean, missing: readonly string[]): void {
    const now = missing.length === 0 ? '' : `${parked} ${missing.join(' ')}`;
    if (now !== this.#missing && now !== '') {
      publish('featureMismatch', { attachment: this.#parts.identity, parked, missing });
      this.#parts.log.warn({ missing, parked }, 'the backend lacks features');
    }
    this.#missing = now;
  }

  /** No connection, and none that worked: held as long as the hold time lasts. */
  #idle(reason: string | null): void {
    const state = this.#failure.count >= degradedAfter ? 'degraded' : this.#cancelHold === null ? 'waiting' : 'held';
    const often = this.#failure.count > 1 ? ` (${this.#failure.count} times in a row)` : '';
    const told = reason === null ? null : `${reason}${often}`;
    if (this.#cancelHold === null) this.#unattended(state, told);
    else this.#setState(state, told);
  }

  #beginHold(reason: string): void {
    const { clock, holdMs } = this.#parts;
    this.#cancelTimers();
    this.#lostAtMs ??= clock.now();
    this.#setState('held', reason);
    this.#cancelHold = clock.after(holdMs, () => {
      this.#cancelHold = null;
      this.#unattended(this.#state === 'held' ? 'waiting' : this.#state, this.#reason);
    });
  }

  /** Carrier off; what the pod sends is read and dropped. */
  #unattended(state: LinkState, reason: string | null): void {
    this.#setCarrier(false);
    if (!this.#portStarted) this.#parts.port.discard();
    this.#setState(state, reason);
  }

  #tapGone(reason: string): void {
    this.#cancelTimers();
    this.#stopReopening();
    this.#source?.close();
    this.#parts.log.warn({ reason }, 'the interface was removed from the pod');
    this.#carrier = false;
    this.#setState('tap-gone', `the interface was removed from the pod: ${reason}`);
    if (this.#connection !== null) this.#cut(this.#connection, reason);
  }

  /**
   * Ends a connection in whatever state it is: a handshake under way is given up now, not at its deadline. One that has
   * come to the rings gets the time of an orderly stop to go through, since the backend may be starting the device.
   */
  #cut(connection: Connection, reason: string): void {
    const { clock, device } = this.#parts;
    connection.end(reason);
    // After the handshake the memory is the port's until it has quiesced: `#serve` goes that way, or is on it.
    const giveUp = (): void => {
      if (this.#negotiating && this.#connection === connection) void device.shutDown();
    };
    if (device.ringsOut) clock.after(this.#orderlyStopMs, giveUp);
    else giveUp();
  }

  async #shutDown(connection: Connection): Promise<readonly Anomaly[]> {
    const { clock, device } = this.#parts;
    const cancelTimer = clock.after(this.#orderlyStopMs, () => connection.frontend.close());
    try {
      return await device.shutDown();
    } finally {
      cancelTimer();
    }
  }

  /** A backend that died is told of as disconnected; one that lives and names an index that cannot be is an incident. */
  #tellAnomalies(anomalies: readonly Anomaly[]): void {
    const { identity: attachment, log } = this.#parts;
    if (anomalies.length === 0) return;
    const bases = anomalies.filter(({ kind }) => kind === 'vring-base').map(({ what }) => what);
    if (bases.length > 0) publish('vringBaseImplausible', { attachment, reason: bases.join('; ') });
    const level = bases.length > 0 ? 'warn' : 'debug';
    log[level]({ anomalies: anomalies.map(({ what }) => what) }, 'connection ended with anomalies');
  }

  /**
   * A socket stays open when its process is stopped. What does not answer is cut off by the frontend, which ends the
   * connection as any loss does; a switch that answers has a stalled dataplane, which a new connection would not mend.
   */
  async #probe(): Promise<void> {
    if (this.#state !== 'running' || this.#probing) return;
    this.#probing = true;
    const { device, log } = this.#parts;
    try {
      const living = await device.probe(probeDeadlineMs);
      if (living && !this.#stallTold)
        log.warn({}, 'the backend answers and takes no frames: is a PMD thread assigned?');
      this.#stallTold = true;
    } catch (error) {
      log.warn({ error }, 'the backend takes no frames and does not answer');
    } finally {
      this.#probing = false;
    }
  }

  /** Nothing new is to begin. */
  #over(): boolean {
    return this.#state === 'closing' || this.#state === 'tap-gone';
  }

  #cancelTimers(): void {
    this.#cancelHold?.();
    this.#cancelHold = null;
    for (const cancel of this.#cancelRun) cancel();
    this.#cancelRun = [];
  }

  #stopReopening(): void {
    this.#cancelReopen?.();
    this.#cancelReopen = null;
  }

  #setCarrier(up: boolean): void {
    try {
      this.#parts.port.setCarrier(up);
      this.#carrier = up;
    } catch (error) {
      this.#parts.log.warn({ error, up }, 'carrier could not be set');
    }
  }

  #setState(state: LinkState, reason: string | null): void {
    this.#state = state;
    this.#reason = reason;
    this.#parts.onChange();
  }
}

/**
 * What a running device has to do without. Fewer pairs are told by their number, on the first connection too, which is
 * measured by the configuration alone; the feature says of them only that there were more before.
 */
function missingOf({ degradedBy, queuePairs }: ReadyDevice, configuredPairs: number): readonly string[] {
  if (queuePairs >= configuredPairs) return degradedBy;
  const others = degradedBy.filter((name) => name !== featureName(featureBit.MQ));
  return [...others, `${configuredPairs - queuePairs} of ${configuredPairs} queue pairs`];
}
