/** What the attachment life cycle asks of the virtio-user device. Implemented by `device.ts`. */
import type { Session, SessionOptions } from '../native/binding.ts';
import type { OffloadPlan } from '../virtio/offload.ts';
import type { Control } from '../virtio/control.ts';
import type { Frontend } from './frontend.ts';
import type { NetState } from './net-state.ts';

/** The original's devargs, as far as they mean something for a pod. */
export interface DeviceOptions {
  readonly queues: number;
  readonly queueSize: number;
  readonly cq: boolean;
  readonly mac: string;
  readonly mrgRxbuf: boolean;
  readonly inOrder: boolean;
  readonly packedVq: boolean;
  readonly mtu: number;
  readonly memory: SessionOptions['memory'];
  /** false: never segment or coalesce in software (for measurements). */
  readonly softwareOffloads: boolean;
  /** Pairs that the driver asked an earlier device of this interface for; null: it never did, and gets all. */
  readonly wantedPairs: number | null;
}

/** A device that has reached DRIVER_OK; the pump may start. */
export interface ReadyDevice {
  readonly session: Session;
  readonly offeredFeatures: bigint;
  readonly ackedFeatures: bigint;
  /** Served by the frontend itself: MAC, STATUS, and with `cq` the control queue and its commands. */
  readonly localFeatures: bigint;
  /** Of the offered ones: not implemented here, taken away by an option, or of no use (MQ with one pair). */
  readonly unsupportedFeatures: bigint;
  readonly protocolFeatures: readonly string[];
  readonly queuePairs: number;
  /** Pairs that carry traffic from the start; fewer than `queuePairs` where the driver has asked for fewer. */
  readonly activePairs: number;
  readonly offloads: OffloadPlan;
  /** Features that an earlier connection of this device had and this one lacks, by name; software stands in for them. */
  readonly degradedBy: readonly string[];
}

/**
 * - `idle`: no connection
 * - `negotiating`: handshake under way, `step` names the message
 * - `ready`: DRIVER_OK was sent and accepted; the session is shared with the backend
 * - `parked`: the backend lacks what cannot be stood in for; `missing` names it
 * - `failed`: the last handshake failed; `error` says where
 */
export type DeviceState =
  | { readonly kind: 'idle' }
  | { readonly kind: 'negotiating'; readonly step: string }
  | { readonly kind: 'ready'; readonly ready: ReadyDevice }
  | { readonly kind: 'parked'; readonly missing: readonly string[] }
  | { readonly kind: 'failed'; readonly error: Error };

/**
 * What was not as it should be when a device was shut down.
 * - `vring-base`: the backend named an index of a ring that cannot be; nothing of it was used
 * - `no-answer`: the backend was gone or silent, as one that died is
 * - `memory-kept`: the session could not be freed
 */
export interface Anomaly {
  readonly kind: 'vring-base' | 'no-answer' | 'memory-kept';
  readonly what: string;
}

export interface VirtioUserDevice {
  readonly state: DeviceState;
  /** The virtio status byte as we hold it. */
  readonly status: number;
  /** What the control queue has set since DRIVER_OK; null while the device does not run. */
  readonly net: NetState | null;
  /** The address that the driver has set, on whatever connection; null: none yet. */
  readonly driverMac: string | null;
  /** What the backend is told on this connection and the next. */
  readonly mtu: number;
  /** Pairs that carry traffic; 0 while the device does not run. */
  readonly activePairs: number;
  /**
   * The last connection's backend was given rings that it has not given back. When such a connection was cut here, the
   * backend may still be ending the device after nothing of it is to be seen any more.
   */
  readonly ringsOut: boolean;
  /**
   * Runs the whole handshake on a fresh connection with fresh memory, up to DRIVER_OK.
   * On rejection the connection is closed, the session freed, nothing is half set.
   * @throws VirtioUserError NOT_NEGOTIATED (parked), or what the frontend threw
   */
  bringUp(frontend: Frontend): Promise<ReadyDevice>;
  /**
   * The driver's side of the control queue: sends a command through the ring and waits for the answer. A number of pairs
   * is remembered and restored on later connections, and an address.
   * @throws VirtioUserError DEVICE_NOT_RUNNING; CONTROL_REFUSED, then nothing has changed; CONTROL_QUEUE_BROKEN;
   *   NOT_NEGOTIATED without a control queue
   */
  control(control: Control): Promise<void>;
  /**
   * The pod's interface has another MTU: the backend is told, and gets larger receive buffers to fill where a frame must
   * fit one. Holds for later connections too.
   * @throws VirtioUserError DEVICE_NOT_RUNNING; BACKEND_REFUSED, RESOURCE_EXHAUSTED: the device runs on with the MTU
   *   before; others when the connection has ended
   */
  setMtu(mtu: number): Promise<void>;
  /**
   * Asks a backend that takes no frames whether it is there. @returns false: the device does not run
   * @throws VirtioUserError TIMEOUT, BACKEND_REFUSED, …; the connection is closed then
   */
  probe(deadlineMs: number): Promise<boolean>;
  /**
   * Ends the session in order on a living connection (rings disabled, GET_VRING_BASE), or locally on a dead one, then
   * closes connection and memory. The pump must have quiesced. Never rejects; returns what was not as it should be.
   */
  shutDown(): Promise<readonly Anomaly[]>;
  /** The port cannot go on with this session: the status has NEEDS_RESET until `shutDown`. */
  needReset(): void;
}

export type CreateSession = (options: SessionOptions) => Session;
