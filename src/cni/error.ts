/** The only place that knows CNI error numbers (CNI 1.1.0, "Error"; 100 and above are ours and never renumbered). */
import { type ErrorCode, VirtioUserError } from '../errors.ts';

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
  CANCELLED: 11,
  AGENT_NOT_READY: 11,
  BUG: 999,
};

const messageLimitBytes = 1024;

/** One line of at most 1 KiB. */
function oneLine(text: string): string {
  const line = text.replaceAll(/[\s\u0000-\u001f]+/g, ' ').trim();
  return Buffer.byteLength(line) <= messageLimitBytes
    ? line
    : `${Buffer.from(line)
        .subarray(0, messageLimitBytes - 4)
        .toString('utf8')
        .replace(/\ufffd+$/, '')}…`;
}

export interface CniError {
  readonly code: number;
  readonly msg: string;
  readonly details: string;
}

/** @param verb STATUS answers 50; a DEL error must not contain what containerd takes for "already gone" */
export function cniError(error: VirtioUserError, verb: string): CniError {
  const facts = Object.entries(error.details).map(([key, value]) => `${key}=${String(value)}`);
  let msg = error.message + (error.remedy === null ? '' : `; ${error.remedy}`);
  let details = [`code=${error.code}`, ...facts].join('; ');
  if (verb === 'DEL') [msg, details] = [withoutNotFound(msg), withoutNotFound(details)];
  const statusFailure =
    verb === 'STATUS' &&
    !['INPUT_DECODE', 'INPUT_VERSION', 'INPUT_ENVIRONMENT', 'CONFIG_INVALID', 'INPUT_FRAME'].includes(error.code);
  return {
    code: statusFailure ? 50 : cniCode[error.code],
    msg: oneLine(msg),
    details: oneLine(details),
  };
}

function withoutNotFound(text: string): string {
  return text.replaceAll(/not found/gi, 'absent');
}

export function errorBody(error: VirtioUserError, verb: string, cniVersion: string): string {
  return JSON.stringify({ cniVersion, ...cniError(error, verb) });
}
