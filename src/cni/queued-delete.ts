/** A DEL that the executable left on disk while the agent was away: the request frame as it would have been sent. */
import type { RemoveRequest } from '../attachment/api.ts';
import { parseEnvironment } from './environment.ts';
import { RequestDecoder } from './frame.ts';
import { parseRawNetconf } from './netconf.ts';
import { removeRequest } from './verbs.ts';

/** `{seconds}.{nanoseconds}-{pid}.req` */
const fileName = /^(\d{1,12})\.(\d{1,9})-(\d{1,10})\.req$/;

export type QueuedDelete =
  { readonly kind: 'delete'; readonly request: RemoveRequest } | { readonly kind: 'corrupt'; readonly reason: string };

export function parseQueuedDelete(name: string, content: Buffer): QueuedDelete {
  const match = fileName.exec(name);
  if (match === null) return { kind: 'corrupt', reason: `the name ${name} is not that of a queued DEL` };
  const askedAtMs = Number(match[1]) * 1000 + Math.floor(Number(match[2]) / 1e6);
  const step = new RequestDecoder().push(content);
  if (step.kind !== 'frame') {
    const reason =
      step.kind === 'malformed' ? step.what : step.kind === 'incomplete' ? 'it is cut short' : 'foreign protocol';
    return { kind: 'corrupt', reason };
  }
  if (step.frame.verb !== 'DEL') return { kind: 'corrupt', reason: `it holds a ${step.frame.verb}` };
  try {
    const environment = parseEnvironment('DEL', step.frame.environment);
    return { kind: 'delete', request: removeRequest(parseRawNetconf(step.frame.stdin, 'DEL'), environment, askedAtMs) };
  } catch (error) {
    return { kind: 'corrupt', reason: String(error) };
  }
}
