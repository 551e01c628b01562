import { describe, expect, it } from '@jest/globals';
import { noPrevResult, parsePrevResult } from '../../../src/cni/prev-result.ts';

const parse = (prevResult: unknown): unknown => parsePrevResult({ prevResult });

describe('the result of the plugins before us', () => {
  it('is none without prevResult, and may be empty', () => {
    for (const json of [{}, { prevResult: null }, { prevResult: {} }, { prevResult: { ips: null, dns: null } }])
      expect(parsePrevResult(json)).toEqual(noPrevResult);
  });

  it('is read whatever version it has; unknown keys and empty values are left out', () => {
    const old = {
      cniVersion: '0.4.0',
      interfaces: [{ name: 'a0', mac: '', sandbox: '/ns', more: 1 }],
      ips: [{ version: '4', address: '10.0.0.2/24', gateway: '', interface: 0 }],
      dns: {},
    };
    expect(parse(old)).toEqual({
      interfaces: [{ name: 'a0', mac: null, mtu: null, sandbox: '/ns', socketPath: null, pciID: null }],
      ips: [{ address: '10.0.0.2/24', gateway: null, interface: 0 }],
      routes: [],
      dns: { nameservers: [], domain: null, search: [], options: [] },
    });
  });

  const interfaces = [{ name: 'a0' }];
  const refused: readonly (readonly [unknown, string])[] = [
    ['x', 'prevResult: "x"'],
    [[], 'prevResult: []'],
    [{ interfaces: {} }, 'prevResult.interfaces: {}'],
    [{ interfaces: [{ mac: 'x' }] }, 'prevResult.interfaces.0.name: missing'],
    [{ interfaces: [{ name: 'x'.repeat(256) }] }, 'prevResult.interfaces.0.name: "xxx'],
    [{ interfaces: Array.from({ length: 65 }, () => interfaces[0]) }, 'prevResult.interfaces: [{'],
    [{ ips: [{ address: '10.0.0.2' }] }, 'prevResult.ips.0.address: "10.0.0.2"; not an address with a prefix length'],
    [{ ips: [{ address: '10.0.0.2/24', gateway: 'x' }] }, 'prevResult.ips.0.gateway: "x"; not an IP address'],
    [{ interfaces, ips: [{ address: '10.0.0.2/24', interface: 1 }] }, 'prevResult.ips.0.interface: 1; not the index'],
    [{ interfaces, ips: [{ address: '10.0.0.2/24', interface: -1 }] }, 'prevResult.ips.0.interface: -1'],
    [{ routes: [{ dst: 'default' }] }, 'prevResult.routes.0.dst: "default"'],
    [{ dns: { nameservers: 'x' } }, 'prevResult.dns.nameservers: "x"'],
  ];
  it.each(refused)('%j is refused by key and value', (prevResult, told) => {
    expect(() => parse(prevResult)).toThrow(
      expect.objectContaining({ code: 'CONFIG_INVALID', message: expect.stringContaining(told) }),
    );
  });

  it('that would fill the answer by itself is refused', () => {
    const long = 'x'.repeat(4_096);
    const many = Array.from({ length: 64 }, () => ({ name: 'a', sandbox: long, socketPath: long }));
    expect(() => parse({ interfaces: many })).toThrow(/^prevResult: \d+ bytes; accepted: at most 262144$/);
  });
});
