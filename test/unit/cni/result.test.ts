import { describe, expect, it } from '@jest/globals';
import type { AttachmentResult } from '../../../src/attachment/spec.ts';
import { supportedVersions } from '../../../src/cni/netconf-schema.ts';
import { parsePrevResult, type PrevResult } from '../../../src/cni/prev-result.ts';
import { renderResult } from '../../../src/cni/result.ts';
import { golden } from '../../support/golden.ts';

const noRouteExtras = { mtu: null, advmss: null, priority: null, table: null, scope: null };

/** Everything that a result can have. */
const full: AttachmentResult = {
  ifName: 'eth0',
  netnsPath: '/var/run/netns/cni-35bf48b2',
  mac: '02:00:00:00:00:01',
  mtu: 1500,
  socketPath: '/run/virtio-user/vhost/vu0123456789ab.sock',
  ovsPort: 'vu0123456789ab',
  ipam: {
    ips: [
      { address: '10.77.1.3/24', gateway: '10.77.1.1' },
      { address: 'fd00::3/64', gateway: null },
    ],
    routes: [
      { dst: '0.0.0.0/0', gw: null, ...noRouteExtras },
      { dst: '10.9.0.0/16', gw: '10.77.1.9', mtu: 1400, advmss: 1360, priority: 10, table: 100, scope: 0 },
    ],
    dns: { nameservers: ['10.96.0.10'], domain: 'cluster.local', search: ['a.b'], options: ['ndots:5'] },
  },
};

/** Without IPAM and OVS. */
const bare: AttachmentResult = { ...full, ovsPort: null, ipam: { ips: [], routes: [], dns: null } };

/** What plugins before us in a list made. */
const before: PrevResult = {
  interfaces: [
    { name: 'br0', mac: '02:00:00:00:00:10', mtu: null, sandbox: null, socketPath: null, pciID: null },
    {
      name: 'first0',
      mac: '02:00:00:00:00:11',
      mtu: 9000,
      sandbox: '/var/run/netns/cni-35bf48b2',
      socketPath: '/run/other/first0.sock',
      pciID: '0000:03:00.1',
    },
  ],
  ips: [
    { address: '10.1.1.2/24', gateway: '10.1.1.1', interface: 1 },
    { address: 'fd01::2/64', gateway: null, interface: null },
  ],
  routes: [{ ...noRouteExtras, dst: '10.1.0.0/16', gw: null, mtu: 8000 }],
  dns: { nameservers: ['10.1.1.53'], domain: null, search: ['first.local'], options: [] },
};

describe.each(supportedVersions)('a result of version %s', (version) => {
  it('with everything is what the golden file says', () => {
    expect(renderResult(full, version)).toEqual(golden(`results/full-${version}`, renderResult(full, version)));
  });

  it('without addresses is what the golden file says', () => {
    expect(renderResult(bare, version)).toEqual(golden(`results/bare-${version}`, renderResult(bare, version)));
  });

  it.each([
    ['chained', full],
    ['chained-bare', bare],
  ])('after other plugins (%s) is what the golden file says', (name, result) => {
    const rendered = renderResult(result, version, before);
    expect(rendered).toEqual(golden(`results/${name}-${version}`, rendered));
  });

  it('after other plugins begins with all that theirs has, and can be handed on in turn', () => {
    const theirs = renderResult({ ...bare, ifName: 'first0' }, version);
    const both = renderResult(full, version, parsePrevResult({ prevResult: theirs }));
    expect(both['interfaces']).toEqual([
      ...(theirs['interfaces'] as unknown[]),
      ...(renderResult(full, version)['interfaces'] as unknown[]),
    ]);
    expect(both['ips']).toMatchObject([
      { address: '10.77.1.3/24', interface: 1 },
      { address: 'fd00::3/64', interface: 1 },
    ]);
    const { interfaces } = parsePrevResult({ prevResult: both });
    expect(interfaces.map(({ name }) => name)).toEqual(['first0', 'eth0', 'vu0123456789ab']);
  });

  it('has the names of whoever says some: ours before theirs', () => {
    expect(renderResult(full, version, before)['dns']).toMatchObject({ nameservers: ['10.96.0.10'] });
    const silent = { ...full, ipam: { ...full.ipam, dns: { nameservers: [], domain: null, search: [], options: [] } } };
    const theirs = { nameservers: ['10.1.1.53'], search: ['first.local'] };
    expect(renderResult(silent, version, before)['dns']).toEqual(theirs);
  });

  it('has the pod’s interface first and alone in the namespace, and addresses that point to it', () => {
    const { interfaces, ips } = renderResult(full, version) as {
      interfaces: Record<string, unknown>[];
      ips: Record<string, unknown>[];
    };
    expect(interfaces[0]).toMatchObject({ name: 'eth0', mac: full.mac, sandbox: full.netnsPath });
    expect(interfaces.slice(1).filter((one) => 'sandbox' in one)).toEqual([]);
    expect(ips.map((ip) => ip['interface'])).toEqual([0, 0]);
  });

  it('has keys of its version only', () => {
    const text = JSON.stringify(renderResult(full, version));
    const modern = version === '1.0.0' || version === '1.1.0';
    expect(text.includes('"socketPath"')).toBe(modern);
    expect(text.includes('"mtu"')).toBe(modern);
    expect(text.includes('"version"')).toBe(!modern);
    expect(text).not.toContain('null');
    const chained = JSON.stringify(renderResult(full, version, before));
    expect(chained.includes('"pciID"')).toBe(modern);
    expect(chained.includes('8000')).toBe(modern);
    expect(chained).not.toContain('null');
  });
});
