/**
 * Every error this project raises on purpose: one class, a closed set of stable codes, and what each code means for
 * the caller. The mapping to CNI error codes lives in `cni/error.ts`, the only place that knows CNI numbers.
 *
 * Messages say what was tried, on what, and what happened, in one line without trailing advice; `remedy` carries the
 * one thing an admin can do.
 */

/** What a failure costs: the request, one backend connection, one attachment, or the whole agent. */
export type ErrorScope = 'request' | 'connection' | 'attachment' | 'agent';

/** What the caller of a failed operation should do. */
export type Recovery = 'reject' | 'retry-later' | 'reconnect' | 'park' | 'cleanup';

interface CodeMeaning {
  readonly scope: ErrorScope;
  readonly recovery: Recovery;
}

const meaning = {
  /** The frame between the executable and the agent is malformed or of another protocol. */
  INPUT_FRAME: { scope: 'request', recovery: 'reject' },
  /** A CNI variable is missing or malformed. */
  INPUT_ENVIRONMENT: { scope: 'request', recovery: 'reject' },
  /** stdin is not JSON, or too large. */
  INPUT_DECODE: { scope: 'request', recovery: 'reject' },
  /** The requested cniVersion is not one we speak. */
  INPUT_VERSION: { scope: 'request', recovery: 'reject' },
  /** An unknown key or an unacceptable value inside `backend`, `device`, `pod` or `ovs`. */
  CONFIG_UNSUPPORTED: { scope: 'request', recovery: 'reject' },
  /** The netconf lacks something mandatory or contradicts itself. */
  CONFIG_INVALID: { scope: 'request', recovery: 'reject' },
  /** CNI_NETNS is not a network namespace, or is the host's own. */
  NETNS_INVALID: { scope: 'request', recovery: 'reject' },
  /** The namespace is gone. */
  NETNS_GONE: { scope: 'attachment', recovery: 'cleanup' },
  /** The interface name is taken in the pod's namespace, or the attachment exists already. */
  CONFLICT_INTERFACE: { scope: 'request', recovery: 'reject' },
  /** Another process owns the socket path. */
  CONFLICT_SOCKET: { scope: 'request', recovery: 'reject' },
  /** A socket path that is too long, outside the allowed directories, or reached through a symbolic link. */
  SOCKET_PATH: { scope: 'request', recovery: 'reject' },
  /** CHECK: what ADD made is missing or different. */
  CHECK_MISMATCH: { scope: 'attachment', recovery: 'reject' },
  /** CHECK or reconnect of an attachment that this agent does not have. */
  ATTACHMENT_UNKNOWN: { scope: 'request', recovery: 'reject' },
  /** A system call failed; details carry syscall and errno name. */
  SYSCALL_FAILED: { scope: 'attachment', recovery: 'reject' },
  /** A durable write of ours failed (disk full, read-only). */
  STATE_WRITE: { scope: 'request', recovery: 'reject' },
  /** A record on disk is corrupt or of a newer schema, and was set aside; or the disk did not give it. */
  STATE_CORRUPT: { scope: 'attachment', recovery: 'cleanup' },
  /** Descriptors, memory or queue slots are exhausted for now. */
  RESOURCE_EXHAUSTED: { scope: 'request', recovery: 'retry-later' },
  /** No hugepages are free. */
  RESOURCE_HUGEPAGES: { scope: 'request', recovery: 'retry-later' },
  /** The IPAM plugin is missing, failed, hung or printed something that is not a result. */
  IPAM_FAILED: { scope: 'request', recovery: 'reject' },
  /** OVSDB is unreachable or refused the transaction. */
  OVS_UNAVAILABLE: { scope: 'request', recovery: 'retry-later' },
  /** The OVSDB answered with an error that a retry does not mend (no such bridge …). */
  OVS_REFUSED: { scope: 'request', recovery: 'reject' },
  /** A backend that ADD waits for did not come in time. */
  BACKEND_ABSENT: { scope: 'connection', recovery: 'retry-later' },
  /** The backend lacks a feature that cannot be stood in for. */
  NOT_NEGOTIATED: { scope: 'attachment', recovery: 'park' },
  /** The peer broke the vhost-user protocol. */
  PROTOCOL_VIOLATION: { scope: 'connection', recovery: 'reconnect' },
  /** The backend answered a request with a failure. */
  BACKEND_REFUSED: { scope: 'connection', recovery: 'reconnect' },
  /** The backend closed the connection. */
  DISCONNECTED: { scope: 'connection', recovery: 'reconnect' },
  /** A deadline passed. */
  TIMEOUT: { scope: 'connection', recovery: 'reconnect' },
  /** The control queue's ring says what cannot be; the device runs on without commands until its next connection. */
  CONTROL_QUEUE_BROKEN: { scope: 'connection', recovery: 'reject' },
  /** The device refused a control command: out of range, or the backend would not follow. */
  CONTROL_REFUSED: { scope: 'request', recovery: 'reject' },
  /** The device does not run, so that it takes no commands. */
  DEVICE_NOT_RUNNING: { scope: 'request', recovery: 'retry-later' },
  /** A used entry that cannot be: the rings of this attachment are void. */
  RING_CORRUPT: { scope: 'attachment', recovery: 'reconnect' },
  /** The caller vanished, or DEL overtook ADD. */
  CANCELLED: { scope: 'request', recovery: 'cleanup' },
  /** The agent is starting or stopping. */
  AGENT_NOT_READY: { scope: 'agent', recovery: 'retry-later' },
  /** A bug of ours. */
  BUG: { scope: 'agent', recovery: 'reject' },
} as const satisfies Record<string, CodeMeaning>;

export type ErrorCode = keyof typeof meaning;

/** All codes, for documentation and for tests that walk every one. */
export const errorCodes = Object.keys(meaning) as readonly ErrorCode[];

export type ErrorDetails = Readonly<Record<string, string | number | boolean | null>>;

export interface FailureOptions {
  readonly details?: ErrorDetails;
  /** One actionable sentence for the admin. */
  readonly remedy?: string;
  readonly cause?: unknown;
}

export class VirtioUserError extends Error {
  readonly code: ErrorCode;
  readonly details: ErrorDetails;
  readonly remedy: string | null;

  constructor(code: ErrorCode, message: string, options: FailureOptions = {}) {
    super(message, options.cause === undefined ? undefined : { cause: options.cause });
    this.name = 'VirtioUserError';
    this.code = code;
    this.details = options.details ?? {};
    this.remedy = options.remedy ?? null;
  }

  get scope(): ErrorScope {
    return meaning[this.code].scope;
  }

  get recovery(): Recovery {
    return meaning[this.code].recovery;
  }

  /**
   * Turns anything thrown into one of ours, once: an error of ours comes back unchanged. What ran out is no bug, wherever
   * it was noticed.
   */
  static from(thrown: unknown, doing: string, fallback: ErrorCode = 'BUG'): VirtioUserError {
    if (thrown instanceof VirtioUserError) return thrown;
    const code = isExhaustion(errnoOf(thrown)) ? 'RESOURCE_EXHAUSTED' : fallback;
    return new VirtioUserError(code, `${doing}: ${messageOf(thrown)}`, { cause: thrown });
  }
}

/** The message of anything thrown. Native errors come from another realm, so `instanceof Error` is not asked. */
export function messageOf(thrown: unknown): string {
  if (typeof thrown === 'object' && thrown !== null && 'message' in thrown) return String(thrown.message);
  return String(thrown);
}

/** The errno name (`ENOENT`) of a Node or native error, or null. */
export function errnoOf(thrown: unknown): string | null {
  if (typeof thrown !== 'object' || thrown === null || !('code' in thrown)) return null;
  return typeof thrown.code === 'string' && /^E[A-Z0-9]+$/.test(thrown.code) ? thrown.code : null;
}

/** Whether a system call failed for want of descriptors or memory: another try may succeed. */
export function isExhaustion(errno: string | null): boolean {
  return errno !== null && ['EMFILE', 'ENFILE', 'ENOMEM', 'ENOBUFS'].includes(errno);
}

/** For the default arm of an exhaustive switch. */
export function assertNever(value: never): never {
  throw new VirtioUserError('BUG', `unreachable value ${JSON.stringify(value)}`);
}
