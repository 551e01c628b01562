import { describe, expect, it } from '@jest/globals';
import { ApiException } from '../../../src/kubernetes/client-node.ts';
import { apiFailure } from '../../../src/kubernetes/failure.ts';

const status = (message: string): string => JSON.stringify({ kind: 'Status', message });
const answer = (code: number, body: unknown, headers: Record<string, string> = {}): ApiException<unknown> =>
  new ApiException(code, 'Unknown', body, headers);

describe('what went wrong with a call to the API server', () => {
  it.each([
    [401, true],
    [403, true],
    [404, false],
    [408, true],
    [409, true],
    [410, true],
    [422, false],
    [429, true],
    [500, true],
    [503, true],
    [504, true],
  ])('HTTP %d: trying again can help: %s', (code, retryable) => {
    expect(apiFailure(answer(code, status('why')))).toEqual({
      status: code,
      reason: 'why',
      retryable,
      retryAfterMs: null,
    });
  });

  it.each([
    [true, 'User "agent" cannot create resource "events" in API group "events.k8s.io" in the namespace "ns"'],
    [true, 'not yet ready to handle request'],
    [false, 'unable to create new content in namespace ns because it is being terminated'],
    [false, 'exceeded quota: few, requested: count/events.events.k8s.io=1, used: 5, limited: 5'],
  ])('a start of the API server passes, what admission refuses does not: %s for %s', (retryable, why) => {
    const message = `events.events.k8s.io "x" is forbidden: ${why}`;
    expect(apiFailure(answer(403, status(message)))).toMatchObject({ retryable });
  });

  it.each([
    'admission webhook "policy.example.com" denied the request: no events here',
    "events.events.k8s.io \"x\" is forbidden: ValidatingAdmissionPolicy 'a' with binding 'b' denied request: no",
  ])('a denial lasts: %s', (message) => {
    expect(apiFailure(answer(403, status(message)))).toMatchObject({ retryable: false });
  });

  it('a type error in a server-side apply comes as 500 and stays one', () => {
    const body = status('failed to create typed patch object (...): .status.newField: field not declared in schema');
    expect(apiFailure(answer(500, body))).toMatchObject({ status: 500, retryable: false });
  });

  it('knows how long the server asks to wait', () => {
    expect(apiFailure(answer(429, status('slow down'), { 'retry-after': '7' })).retryAfterMs).toBe(7_000);
  });

  it.each([
    ['404 page not found\n', '404 page not found'],
    [undefined, 'HTTP 404'],
    ['{"a":', '{"a":'],
  ])('a body of %j gives the reason %j', (body, reason) => {
    expect(apiFailure(answer(404, body)).reason).toBe(reason);
  });

  it('a watch that was refused has a status and no headers', () => {
    const error = Object.assign(new Error('Forbidden'), { statusCode: 403 });
    expect(apiFailure(error)).toMatchObject({ status: 403, reason: 'Forbidden', retryable: true });
  });

  it('without an answer the cause is told', () => {
    const error = new TypeError('fetch failed', { cause: new Error('connect ECONNREFUSED') });
    expect(apiFailure(error)).toEqual({
      status: null,
      reason: 'fetch failed: connect ECONNREFUSED',
      retryable: true,
      retryAfterMs: null,
    });
  });
});
