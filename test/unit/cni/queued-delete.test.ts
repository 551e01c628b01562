import { describe, expect, it } from '@jest/globals';
import { parseQueuedDelete } from '../../../src/cni/queued-delete.ts';
import { requestFrame } from '../../support/cni-request.ts';
import { recordedCall } from '../../support/recorded-call.ts';

const { env, stdin } = recordedCall('del-after-reboot');
const name = '1764012345.000000999-4242.req';

describe('a queued DEL', () => {
  it('says what to remove, and when that was asked', () => {
    expect(parseQueuedDelete(name, requestFrame(env, stdin))).toEqual({
      kind: 'delete',
      request: {
        key: { networkName: 'dpdk-net', containerId: env['CNI_CONTAINERID'], ifName: 'eth0' },
        netnsPath: '',
        cniArgs: env['CNI_ARGS'],
        cniPath: '/opt/cni/bin',
        ipam: { type: 'host-local', netconf: stdin },
        askedAtMs: 1_764_012_345_000,
      },
    });
    const later = parseQueuedDelete('1764012345.999000000-1.req', requestFrame(env, stdin));
    expect(later).toMatchObject({ request: { askedAtMs: 1_764_012_345_999 } });
  });

  it('may come from a configuration that was never right', () => {
    const frame = requestFrame(env, '{"name":"net","cniVersion":"7","ipam":5,"device":5}');
    expect(parseQueuedDelete(name, frame)).toMatchObject({ kind: 'delete', request: { ipam: null } });
  });

  const good = requestFrame(env, stdin);
  it.each([
    ['is cut short', good.subarray(0, 100), 'cut short'],
    ['is empty', Buffer.alloc(0), 'cut short'],
    ['has bytes after its end', Buffer.concat([good, Buffer.of(0)]), 'after the request'],
    ['is no frame', Buffer.alloc(1000), 'magic'],
    ['is of another protocol', requestFrame(env, stdin, { protocol: 9 }), 'protocol'],
    ['holds an ADD', requestFrame({ ...env, CNI_COMMAND: 'ADD' }, stdin), 'ADD'],
    ['lacks a container', requestFrame({ CNI_COMMAND: 'DEL', CNI_IFNAME: 'eth0' }, stdin), 'CNI_CONTAINERID'],
    ['lacks a network', requestFrame(env, '{"cniVersion":"1.0.0"}'), 'name'],
    ['holds no JSON', requestFrame(env, 'oops'), 'JSON'],
  ])('that %s is corrupt, and why', (_title, content, reason) => {
    expect(parseQueuedDelete(name, content)).toEqual({ kind: 'corrupt', reason: expect.stringContaining(reason) });
  });

  it.each(['x.req', '1.2.req', '1764012345.000000999-4242.tmp', '../1.2-3.req', '1e3.0-1.req'])(
    'with the name %s is corrupt',
    (wrong) => {
      expect(parseQueuedDelete(wrong, good)).toMatchObject({ kind: 'corrupt' });
    },
  );
});
