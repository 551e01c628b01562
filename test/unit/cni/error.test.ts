import { describe, expect, it } from '@jest/globals';
import { cniError, errorBody } from '../../../src/cni/error.ts';
import { supportedVersions } from '../../../src/cni/netconf-schema.ts';
import { type ErrorCode, errorCodes, VirtioUserError } from '../../../src/errors.ts';
import { golden } from '../../support/golden.ts';

/** Published: operators and tools depend on them. Changing one is a breaking change. */
const published: Readonly<Record<ErrorCode, number>> = {
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

describe.each(supportedVersions)('an error in version %s', (version) => {
  const inUse = new VirtioUserError('CONFLICT_INTERFACE', "interface eth0 exists already in the pod's namespace", {
    details: { errno: 'EEXIST' },
    remedy: 'The runtime must DEL before it ADDs again.',
  });
  const noPlugin = new VirtioUserError('IPAM_FAILED', 'IPAM plugin host-local is in none of /opt/cni/bin: not found');
  it.each([
    ['ADD', inUse],
    ['CHECK', new VirtioUserError('CHECK_MISMATCH', 'eth0: address 10.77.0.2/24 is not there')],
    ['DEL', noPlugin],
    ['GC', noPlugin],
    ['STATUS', noPlugin],
  ])('%s is what the golden file says', (verb, error) => {
    const body: unknown = JSON.parse(errorBody(error, verb, version));
    expect(body).toEqual(golden(`errors/${verb.toLowerCase()}-${version}`, body));
  });
});

describe('an error as a runtime sees it', () => {
  it.each(errorCodes)('%s has its published number, its text and its stable code', (code) => {
    const error = new VirtioUserError(code, 'open /x: EIO', { remedy: 'mend the disk', details: { path: '/x' } });
    expect(JSON.parse(errorBody(error, 'ADD', '0.4.0'))).toEqual({
      cniVersion: '0.4.0',
      code: published[code],
      msg: 'open /x: EIO; mend the disk',
      details: `code=${code}; path=/x`,
    });
  });

  it.each(errorCodes)('%s: STATUS says 50, unless the caller erred', (code) => {
    const callers = ['INPUT_FRAME', 'INPUT_ENVIRONMENT', 'INPUT_DECODE', 'INPUT_VERSION', 'CONFIG_INVALID'];
    const expected = callers.includes(code) ? published[code] : 50;
    expect(cniError(new VirtioUserError(code, 'x'), 'STATUS').code).toBe(expected);
  });

  it.each(errorCodes)(
    '%s: DEL is never told that the container is unknown, nor that something was not found',
    (code) => {
      const error = new VirtioUserError(code, 'ovsdb: port NOT FOUND, not\n\tfound, not\u00a0found', {
        details: { why: 'Not Found' },
        remedy: 'not found? look again',
      });
      const { code: number, msg, details } = cniError(error, 'DEL');
      expect(number).not.toBe(3);
      expect(`${msg} ${details}`).not.toMatch(/not\s+found/i);
      expect(cniError(error, 'ADD').msg).toContain('NOT FOUND');
    },
  );

  it.each(['EPERM', 'EACCES'])('a system call that failed with %s is a matter of permissions', (errno) => {
    expect(cniError(new VirtioUserError('SYSCALL_FAILED', 'x', { details: { errno } }), 'ADD').code).toBe(105);
  });

  it('is one line without control characters', () => {
    const { msg, details } = cniError(
      new VirtioUserError('BUG', ' a\r\n\tb\u001b[31m\u0000c \u2028d', { details: { x: 'y\nz' } }),
      'ADD',
    );
    expect(msg).toBe('a b [31m c d');
    expect(details).toBe('code=BUG; x=y z');
  });

  it.each(['x', 'ü', '💥'])('has at most 1 KiB of %s, cut between characters, and keeps its remedy', (character) => {
    const error = new VirtioUserError('BUG', character.repeat(2000), {
      remedy: 'do this',
      details: { long: character.repeat(2000) },
    });
    const { msg, details } = cniError(error, 'ADD');
    for (const text of [msg, details]) {
      expect(Buffer.byteLength(text)).toBeLessThanOrEqual(1024);
      expect(Buffer.byteLength(text)).toBeGreaterThan(1000);
      expect(text).not.toContain('\ufffd');
    }
    expect(msg.endsWith('…; do this')).toBe(true);
  });
});
