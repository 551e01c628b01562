/**
 * One connection to one vhost backend: the original's ops table (`struct virtio_user_backend_ops`). The device speaks
 * to every kind of backend through this interface; `frontends/` implements it, one file per kind, same operation under
 * the same name, so that the files read side by side.
 *
 * Every operation rejects with a VirtioUserError: DISCONNECTED, TIMEOUT, PROTOCOL_VIOLATION, BACKEND_REFUSED, or
 * NOT_NEGOTIATED for an operation that this connection never agreed on. After any rejection the connection is closed,
 * but for a refusal (BACKEND_REFUSED) of `setVringEnable` and `setMtu`, without which the rest goes on.
 */
import type { VirtioUserError } from '../errors.ts';
import type { NativeFd, RingLayout } from '../native/binding.ts';

export interface MemoryRegion {
  readonly fd: NativeFd;
  /** Guest-physical and user address in the table: one label for both. */
  readonly label: bigint;
  readonly sizeBytes: bigint;
  readonly offsetBytes: bigint;
}

/** What the frontend and the backend agreed on beside the virtio features. */
export interface FrontendAbilities {
  /** Names of acked protocol features, for people. */
  readonly protocolFeatures: readonly string[];
  /** Most queue pairs the backend serves (GET_QUEUE_NUM, or 1 without MQ). */
  readonly maxQueuePairs: number;
  /** SET_VRING_ENABLE exists (bit 30 acked). */
  readonly ringEnable: boolean;
  /** SET_STATUS and GET_STATUS exist. */
  readonly status: boolean;
  /** NET_SET_MTU exists. */
  readonly mtu: boolean;
}

export interface Frontend {
  /** Counts connections of one attachment; events of an older generation are stale. */
  readonly generation: number;
  readonly backendPid: number | null;
  readonly isOpen: boolean;
  /** Valid after `getFeatures`. */
  readonly abilities: FrontendAbilities;

  setOwner(): Promise<void>;
  /**
   * GET_FEATURES, then the protocol features where bit 30 is offered, then GET_QUEUE_NUM where MQ is, and the back
   * channel where BACKEND_REQ is.
   */
  getFeatures(): Promise<bigint>;
  /** `features` as negotiated; bits that do not go on this wire are stripped here, transport bits added. */
  setFeatures(features: bigint): Promise<void>;
  setMemoryTable(regions: readonly MemoryRegion[]): Promise<void>;
  setVringNum(ring: number, size: number): Promise<void>;
  setVringBase(ring: number, base: number): Promise<void>;
  setVringAddr(ring: number, layout: RingLayout): Promise<void>;
  setVringKick(ring: number, eventfd: NativeFd): Promise<void>;
  setVringCall(ring: number, eventfd: NativeFd): Promise<void>;
  setVringEnable(ring: number, enabled: boolean): Promise<void>;
  getVringBase(ring: number): Promise<number>;
  setStatus(status: number): Promise<void>;
  getStatus(): Promise<number>;
  setMtu(mtu: number): Promise<void>;
  /**
   * Is anybody there? Resolves with an answer of a backend that is well.
   * @throws VirtioUserError TIMEOUT; BACKEND_REFUSED when it asks to be reset (NEEDS_RESET, FAILED)
   */
  probe(deadlineMs: number): Promise<void>;
  /** Resolves when the backend has worked off everything sent before. */
  barrier(): Promise<void>;

  /**
   * Called once when the connection ends other than by `close`: the peer left, or an operation failed (it rejects
   * first). Set before any operation.
   */
  onDisconnect: ((error: Error) => void) | null;
  /** The backend says that its configuration has changed. At most ten times a second, not after the connection's end. */
  onConfigChange: (() => void) | null;
  /** Ends the connection; operations under way reject. Idempotent. */
  close(): void;
  /** The same, and `onDisconnect` is told: for a connection whose state the two sides do not agree on any more. */
  fail(error: VirtioUserError): void;
}

/** Told of a fresh connection; the next one is offered only after `released` is called for it. */
export type OnConnection = (frontend: Frontend, released: () => void) => void;

/** Where connections come from: listens or connects, again and again, until closed. */
export interface FrontendSource {
  /** @throws VirtioUserError SOCKET_PATH, CONFLICT_SOCKET, SYSCALL_FAILED when it can never work (synchronous part) */
  open(onConnection: OnConnection): void;
  /** Why there is no connection at the moment, for people: "listening on …", "connect …: ECONNREFUSED". */
  readonly situation: string;
  close(): void;
  /**
   * Instead of `open`: removes the file of a socket of ours on which nobody answers, as a process that was killed leaves
   * it. @throws VirtioUserError as `open` does
   */
  clear(): void;
}
