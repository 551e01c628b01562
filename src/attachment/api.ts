/** What the verbs (`cni/`) and the agent ask of the attachment life cycle. Implemented by `manager.ts`. */
import type { NativeFd, PortCounters } from '../native/binding.ts';
import type { AttachmentKey } from './key.ts';
import type { AttachmentResult, AttachmentSpec, IpamSpec } from './spec.ts';

/** One call's limits and identity. Abort = deadline passed, caller vanished, or shutdown: roll back. */
export interface CallContext {
  readonly requestId: string;
  readonly signal: AbortSignal;
}

export interface RemoveRequest {
  readonly key: AttachmentKey;
  /** May be empty. */
  readonly netnsPath: string;
  readonly cniArgs: string;
  readonly cniPath: string;
  /** From stdin; used when no record tells, and when a removal that failed is asked for again. */
  readonly ipam: IpamSpec | null;
  /** Milliseconds since the epoch when the caller asked; a record made later is not touched (queued DEL). */
  readonly askedAtMs: number;
}

export interface GarbageRequest {
  readonly networkName: string;
  readonly valid: readonly { readonly containerId: string; readonly ifName: string }[];
  readonly ipam: IpamSpec | null;
  readonly cniPath: string;
}

export interface CheckRequest {
  readonly spec: AttachmentSpec;
  /** As parsed JSON: for the IPAM plugin, and for what was changed after ADD on purpose. */
  readonly prevResult: unknown;
}

/** What a person or a metric may see of one attachment. */
export interface AttachmentView {
  readonly id: string;
  readonly key: AttachmentKey;
  readonly pod: AttachmentSpec['pod'];
  readonly netnsPath: string;
  readonly backendPath: string;
  readonly server: boolean;
  readonly ovsPort: string | null;
  readonly mac: string;
  readonly mtu: number;
  readonly addresses: readonly string[];
  /** `waiting`, `negotiating`, `running`, `held`, `parked`, `closing`, … */
  readonly state: string;
  /** For people: why it is not running, or null. */
  readonly reason: string | null;
  readonly carrier: boolean;
  readonly statusNames: readonly string[];
  readonly offeredFeatures: bigint | null;
  readonly ackedFeatures: bigint | null;
  readonly protocolFeatures: readonly string[];
  readonly localFeatures: bigint | null;
  /** Offered, and not implemented here, taken away by an option, or of no use. */
  readonly unsupportedFeatures: bigint | null;
  readonly queuePairs: number;
  /** `device.queues`; a backend may have fewer. */
  readonly configuredPairs: number;
  /** Pairs that carry traffic now. */
  readonly activePairs: number;
  /** Pairs that `setQueuePairs` asked for, which a backend may have fewer of; null: all there are. */
  readonly wantedPairs: number | null;
  /** What the control queue has set; null while the device does not run. */
  readonly control: ControlView | null;
  readonly backendPid: number | null;
  readonly connections: number;
  readonly lastOutageMs: number | null;
  readonly counters: PortCounters | null;
}

/** What of the pod's interface the device has been told. */
export interface ControlView {
  readonly mac: string;
  /** `promiscuous`, `allMulticast`, … */
  readonly rxModes: readonly string[];
  readonly unicast: readonly string[];
  readonly multicast: readonly string[];
  /** The driver has not confirmed yet that it announced itself. */
  readonly announce: boolean;
}

export interface Attachments {
  /** All or nothing. @throws VirtioUserError; after it nothing of the attachment is left, or its undo is recorded. */
  add(spec: AttachmentSpec, netns: NativeFd, context: CallContext): Promise<AttachmentResult>;
  /** Idempotent. Succeeds when things are already gone. */
  remove(request: RemoveRequest, context: CallContext): Promise<void>;
  /** @throws VirtioUserError CHECK_MISMATCH, ATTACHMENT_UNKNOWN, IPAM_FAILED */
  check(request: CheckRequest, context: CallContext): Promise<void>;
  /** Removes what is recorded under the network name and not valid. Goes on after errors, then reports them together. */
  collectGarbage(request: GarbageRequest, context: CallContext): Promise<void>;
  /** @throws VirtioUserError when ADD could not work now */
  status(ipam: IpamSpec | null, cniPath: string, context: CallContext): Promise<void>;
  list(): readonly AttachmentView[];
  /**
   * Drops the current backend connection and starts anew; takes up again what an earlier agent made and does not run.
   * @throws VirtioUserError ATTACHMENT_UNKNOWN; SYSCALL_FAILED when it cannot be taken up
   */
  reconnect(id: string): Promise<void>;
  /**
   * How many queue pairs carry traffic, also on later connections and under later agents, as far as their backend has
   * so many. On disk when it resolves.
   * @throws VirtioUserError ATTACHMENT_UNKNOWN, DEVICE_NOT_RUNNING, CONTROL_REFUSED, STATE_WRITE, …; the pairs are the
   *   ones before
   */
  setQueuePairs(id: string, pairs: number): Promise<void>;
}
