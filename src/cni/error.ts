/** The only place that knows CNI error numbers (CNI 1.1.0, "Error"; 100 and above are ours and never renumbered). */
import type { ErrorCode, VirtioUserError } from '../errors.ts';

const cniCode: Readonly<Record<ErrorCode, number>> = {
  INPUT_FRAME: 107,
  INPUT_ENVIRONMENT: 4,
  INPUT_DECODE: 6,
  INPUT_VERSION: 1,
  CONFIG_UNSUPPORTED: 2,
  CONFIG_INVALID: 7,
  NETNS_INVALID: 8,
  NETNS_GONE: 3,
  CONFLICT_INTERFACE: 106,
  CONFLICT_SOCKET: 106,
  SOCKET_PATH: 104,
  CHECK_MISMATCH: 109,
  ATTACHMENT_UNKNOWN: 3,
  SYSCALL_FAILED: 103,
  STATE_WRITE: 5,
  STATE_CORRUPT: 5,
  RESOURCE_EXHAUSTED: 11,
  RESOURCE_HUGEPAGES: 102,
  IPAM_FAILED: 110,
  OVS_UNAVAILABLE: 11,
  OVS_REFUSED: 108,
  BACKEND_ABSENT: 11,
  NOT_NEGOTIATED: 100,
  PROTOCOL_VIOLATION: 11,
  BACKEND_REFUSED: 11,
  DISCONNECTED: 11,
  TIMEOUT: 11,
  RING_CORRUPT: 11,
  CONTROL_QUEUE_BROKEN: 11,
  CONTROL_REFUSED: 11,
  DEVICE_NOT_RUNNING: 11,
  CANCELLED: 11,
  AGENT_NOT_READY: 11,
  BUG: 111,
};

/** A system call that was not permitted, whatever it was for. */
const permissionCode = 105;
const tryAgainCode = 11;
const unavailableCode = 50;
/** "Container unknown": the caller skips its cleanup, so never an answer to DEL. */
const containerUnknownCode = 3;

/** What STATUS says in its own number; anything else means that ADD would not work now. */
const callersFault: readonly ErrorCode[] = [
  'INPUT_DECODE',
  'INPUT_VERSION',
  'INPUT_ENVIRONMENT',
  'CONFIG_INVALID',
  'INPUT_FRAME',
];

const messageLimitBytes = 1024;

export interface CniError {
  readonly code: number;
  /** What happened and what to do, one line of at most 1 KiB: the most of it that a kubelet event shows. */
  readonly msg: string;
  /** `code=…; key=value; …` */
  readonly details: string;
}

/** @param verb STATUS answers 50; a DEL error must not contain what kubelet takes for "already gone" */
export function cniError(error: VirtioUserError, verb: string): CniError {
  const remedy = error.remedy === null ? '' : `; ${oneLine(error.remedy, messageLimitBytes / 2)}`;
  const message = oneLine(error.message, messageLimitBytes - Buffer.byteLength(remedy));
  const facts = Object.entries(error.details).map(([key, value]) => `${key}=${String(value)}`);
  const details = oneLine([`code=${error.code}`, ...facts].join('; '), messageLimitBytes);
  const worded = verb === 'DEL' ? withoutNotFound : (text: string): string => text;
  return { code: codeOf(error, verb), msg: worded(message + remedy), details: worded(details) };
}

export function errorBody(error: VirtioUserError, verb: string, cniVersion: string): string {
  return JSON.stringify({ cniVersion, ...cniError(error, verb) });
}

function codeOf(error: VirtioUserError, verb: string): number {
  if (verb === 'STATUS' && !callersFault.includes(error.code)) return unavailableCode;
  const errno = error.details['errno'];
  if (error.code === 'SYSCALL_FAILED' && (errno === 'EPERM' || errno === 'EACCES')) return permissionCode;
  const code = cniCode[error.code];
  return verb === 'DEL' && code === containerUnknownCode ? tryAgainCode : code;
}

function oneLine(text: string, limitBytes: number): string {
  const line = text.replaceAll(/[\s\u0000-\u001f\u007f-\u009f]+/g, ' ').trim();
  if (Buffer.byteLength(line) <= limitBytes) return line;
  const cut = Buffer.from(line).subarray(0, limitBytes - 3); // the ellipsis has 3 bytes
  return `${cut.toString('utf8').replace(/\ufffd+$/, '')}…`;
}

/** Shorter than what it replaces, so bounds hold. Any white space has become one blank before. */
function withoutNotFound(text: string): string {
  return text.replaceAll(/not found/gi, 'absent');
}
