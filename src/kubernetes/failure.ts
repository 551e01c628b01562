/** What went wrong with a call to the API server, and whether trying again can help. */
import { messageOf } from '../errors.ts';
import { ApiException } from './client-node.ts';

export interface ApiFailure {
  /** HTTP status, or null when there was no answer. */
  readonly status: number | null;
  readonly reason: string;
  /** false: the same call will fail the same way. */
  readonly retryable: boolean;
  /** From Retry-After, or null. */
  readonly retryAfterMs: number | null;
}

/** Of a namespace that ends, a quota, a webhook, a policy. */
const admissionRefusal = /because it is being terminated|exceeded quota|denied (the )?request/;

function statusReason(body: unknown): string | null {
  if (typeof body !== 'string') return null;
  try {
    const parsed: unknown = JSON.parse(body);
    if (typeof parsed === 'object' && parsed !== null && 'message' in parsed) return String(parsed.message);
  } catch {
    // an API server also answers plain text
  }
  return body.trim().slice(0, 300);
}

export function apiFailure(error: unknown): ApiFailure {
  if (error instanceof ApiException) {
    const reason = statusReason(error.body) ?? `HTTP ${error.code}`;
    const retryAfter = Number(error.headers['retry-after']);
    // A type error in a server-side apply (an agent newer than the CRD) comes as 500 and stays one.
    const typeError = error.code === 500 && reason.includes('failed to create typed patch object');
    // An API server that has just started knows no roles yet and forbids everything; what admission says stays so.
    const notAdmitted = error.code === 403 && admissionRefusal.test(reason);
    const passes = error.code >= 500 || [401, 403, 408, 409, 410, 429].includes(error.code);
    const retryable = passes && !typeError && !notAdmitted;
    return {
      status: error.code,
      reason,
      retryable,
      retryAfterMs: Number.isFinite(retryAfter) ? retryAfter * 1000 : null,
    };
  }
  if (typeof error === 'object' && error !== null && 'statusCode' in error && typeof error.statusCode === 'number') {
    return { status: error.statusCode, reason: messageOf(error), retryable: true, retryAfterMs: null };
  }
  const cause = typeof error === 'object' && error !== null && 'cause' in error ? `: ${messageOf(error.cause)}` : '';
  return { status: null, reason: `${messageOf(error)}${cause}`, retryable: true, retryAfterMs: null };
}
