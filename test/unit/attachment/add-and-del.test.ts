import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import type { AttachmentSpec } from '../../../src/attachment/spec.ts';
import { VirtioUserError } from '../../../src/errors.ts';
import { FakeNode, untroubled } from '../../support/attachment-fakes.ts';
import { settle, until } from '../../support/fake-clock.ts';
import { fault } from '../../support/gate.ts';

let node: FakeNode;
let netns: string;
let spec: AttachmentSpec;

beforeEach(async () => {
  node = new FakeNode();
  await node.start();
  netns = node.kernel.addNetns();
  spec = node.spec(netns);
});
afterEach(() => node.destroy());

const context = (signal: AbortSignal) => ({ requestId: 'test', signal });

describe('ADD', () => {
  it('makes interface, lease, OVS port, socket and record, and answers what it made', async () => {
    expect(await node.add(spec)).toMatchObject({
      ifName: 'eth0',
      netnsPath: netns,
      mac: spec.device.mac,
      mtu: 1500,
      socketPath: spec.backend.path,
      ipam: { ips: [{ address: '10.77.0.2/24' }, { address: 'fd77::2/64' }] },
    });
    const [link] = node.kernel.links;
    expect(link).toMatchObject({ mac: spec.device.mac, up: true });
    expect(link?.addresses).toEqual([
      { address: '10.77.0.2', prefixLength: 24 },
      { address: 'fd77::2', prefixLength: 64 },
    ]);
    expect(link?.routes).toMatchObject([{ destination: '0.0.0.0', prefixLength: 0, gateway: '10.77.0.1' }]);
    const [port] = node.ovs.ports.values();
    expect(port).toMatchObject({
      bridge: 'br-dpdk',
      type: 'dpdkvhostuserclient',
      socketPath: spec.backend.path,
      externalIds: { 'iface-id': 'ns/pod/eth0', 'attached-mac': spec.device.mac, 'virtio-user-node': 'node-1' },
    });
    expect(node.source.isOpen).toBe(true);
    const [name] = node.records();
    expect(JSON.parse(readFileSync(join(node.stateDir, 'attachments', String(name)), 'utf8'))).toMatchObject({
      phase: 'ready',
      ifindex: link?.ifindex,
    });
    expect(node.manager.list()).toMatchObject([
      { state: 'waiting', carrier: false, addresses: ['10.77.0.2/24', 'fd77::2/64'] },
    ]);
  });

  it('gives its pairs to the pump threads in turn, from one of its own: interfaces of one pair are spread too', async () => {
    const pumps = [0, 1, 2].map(() => ({ writesTogether: true, close: () => undefined }));
    node.pumps.push(...pumps);
    for (let container = 0; container < 30; container += 1) {
      const key = { networkName: 'net', containerId: `container-${container}`, ifName: 'eth0' };
      await node.add(node.spec(node.kernel.addNetns(), { key }));
    }
    const orders = node.ports.map(({ options }) => options.pumps.map((pump) => pumps.findIndex((one) => one === pump)));
    expect(new Set(orders.map((order) => order.join(' ')))).toEqual(new Set(['0 1 2', '1 2 0', '2 0 1']));
    const firsts = [0, 1, 2].map((pump) => orders.filter(([first]) => first === pump).length);
    expect(Math.min(...firsts)).toBeGreaterThanOrEqual(5);
  });

  it('needs no OVS where the netconf names no bridge', async () => {
    node.ovs.away = true;
    await node.add({ ...spec, ovs: null });
    await node.del(spec);
    expect(node.leftovers()).toEqual([]);
  });

  it('describes the device where it is asked to, and nowhere else', async () => {
    await node.add(spec);
    const told = JSON.parse(readFileSync(String(spec.deviceInfoPath), 'utf8')) as unknown;
    expect(told).toMatchObject({ type: 'vhost-user', 'vhost-user': { mode: 'server', path: spec.backend.path } });
    await node.add(node.spec(netns, { key: { ...spec.key, ifName: 'net1' }, deviceInfoPath: null }));
    expect(node.deviceInfoFiles()).toEqual(['net-container-1_eth0']);
  });

  it('leaves nothing when the description contradicts that of a device plugin', async () => {
    mkdirSync(node.deviceInfoDir);
    writeFileSync(String(spec.deviceInfoPath), '{"type":"pci"}');
    await expect(node.add(spec)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    expect(node.leftovers()).toEqual([]);
  });

  it('sets the addresses that the pod asked for where no IPAM plugin is named', async () => {
    const addresses = ['10.9.0.1/24', 'fd09::1/64'];
    const asked = { ...spec, ipam: null, addresses };
    expect(await node.add(asked)).toMatchObject({
      ipam: { ips: addresses.map((address) => ({ address, gateway: null })), routes: [] },
    });
    expect(node.kernel.links[0]?.addresses).toEqual([
      { address: '10.9.0.1', prefixLength: 24 },
      { address: 'fd09::1', prefixLength: 64 },
    ]);
    expect(node.ipam.leases.size).toBe(0);
    await node.killAndRestart();
    expect(node.manager.list()).toMatchObject([{ addresses }]);
  });

  it('of what is there already is a conflict and leaves it alone', async () => {
    await node.add(spec);
    const before = node.leftovers();
    const another = { ...untroubled, requestId: 'another' };
    await expect(node.add(spec, another)).rejects.toMatchObject({ code: 'CONFLICT_INTERFACE' });
    expect(node.leftovers()).toEqual(before);
  });

  it('of a name that somebody else has in the namespace is a conflict and leaves that link alone', async () => {
    const foreign = node.kernel.create(inode(), 'eth0', '02:00:00:00:00:99', 1500);
    await expect(node.add(spec)).rejects.toMatchObject({ code: 'CONFLICT_INTERFACE' });
    expect(node.leftovers()).toEqual([`link ${foreign.ifindex}`]);
  });

  it('takes the place of an attachment whose namespace has died', async () => {
    await node.add(spec);
    node.kernel.removeNetns(netns);
    const again = node.spec(node.kernel.addNetns());
    await node.add(again);
    expect(node.kernel.links).toHaveLength(1);
    expect(node.manager.list()).toMatchObject([{ netnsPath: again.netnsPath }]);
  });

  it.each([
    ['CONFLICT_SOCKET', (): void => void (node.socketRefusal = new VirtioUserError('CONFLICT_SOCKET', 'taken'))],
    ['IPAM_FAILED', (): void => void (node.ipam.failing = 'ADD')],
    ['OVS_UNAVAILABLE', (): void => void (node.ovs.away = true)],
  ])('that fails with %s leaves nothing', async (code, arrange) => {
    arrange();
    await expect(node.add(spec)).rejects.toMatchObject({ code });
    expect(node.leftovers()).toEqual([]);
  });

  it('whose namespace goes while it is at work lets go of the interface at its end', async () => {
    const ensure = node.ovs.ensure.bind(node.ovs);
    node.ovs.ensure = (port) => {
      node.kernel.removeNetns(netns);
      return ensure(port);
    };
    await node.add(spec);
    await node.manager.settled();
    expect([node.state, node.port.state]).toEqual(['absent', 'closed']);
    await node.del(spec);
    expect(node.leftovers()).toEqual([]);
  });

  it.each(['openTap', 'setupPodLink'] as const)('without a descriptor for %s is RESOURCE_EXHAUSTED', async (what) => {
    node.withoutDescriptors = what;
    await expect(node.add(spec)).rejects.toMatchObject({
      code: 'RESOURCE_EXHAUSTED',
      message: expect.stringContaining('interface eth0'),
    });
    expect(node.leftovers()).toEqual([]);
  });

  it('that fails on one side does not wait for a hanging IPAM plugin on the other', async () => {
    node.ipam.hangs = true;
    node.socketRefusal = new VirtioUserError('CONFLICT_SOCKET', 'taken');
    await expect(node.add(spec)).rejects.toMatchObject({ code: 'CONFLICT_SOCKET' });
    expect(node.leftovers()).toEqual([]);
  });

  it('leaves nothing whichever of its operations fails', async () => {
    let failures = 0;
    for (let at = 1; ; at += 1) {
      node.gate.arm(at, 'fail');
      const outcome = await node.add(spec).then(
        () => 'made',
        (error: unknown) => error,
      );
      const { struck, names } = node.gate;
      node.gate.disarm();
      if (!struck) {
        expect(outcome).toBe('made');
        break;
      }
      failures += 1;
      expect([at, names.at(-1), outcome]).toEqual([at, names.at(-1), expect.any(VirtioUserError)]);
      expect([at, ...node.leftovers()]).toEqual([at]);
    }
    expect(failures).toBeGreaterThan(8);
  });

  it('on a full disk is STATE_WRITE, and a bystander is not touched', async () => {
    const other = node.spec(node.kernel.addNetns(), { key: { ...spec.key, containerId: 'bystander' } });
    await node.add(other);
    const before = node.leftovers();
    node.gate.arm(1, 'fail', (name) => name === 'file.open');
    await expect(node.add(spec)).rejects.toMatchObject({ code: 'STATE_WRITE', details: { errno: 'ENOSPC' } });
    expect(node.leftovers()).toEqual(before);
  });

  it('that is undone gives its address back when no packet moves for it any more', async () => {
    node.ovs.away = true;
    let portAtRelease = '';
    const release = node.ipam.del.bind(node.ipam);
    node.ipam.del = (...call) => {
      portAtRelease = node.port.state;
      return release(...call);
    };
    await expect(node.add(spec)).rejects.toMatchObject({ code: 'OVS_UNAVAILABLE' });
    expect(portAtRelease).toBe('closed');
    expect(node.leftovers()).toEqual([]);
  });

  it('whose undo does not succeed is remembered and undone later', async () => {
    node.gate.arm(2, 'fail', (name) => name === 'file.rename');
    node.ipam.failing = 'DEL';
    await expect(node.add(spec)).rejects.toMatchObject({ code: 'STATE_WRITE' });
    expect(node.leftovers()).toEqual([expect.stringContaining('lease'), expect.stringContaining('record')]);
    node.ipam.failing = null;
    await node.clock.advance(30_000);
    await node.manager.settled();
    expect(node.leftovers()).toEqual([]);
  });

  it('whose undo can neither be done nor written down is undone later', async () => {
    node.ovs.away = true;
    node.ipam.failing = 'DEL';
    // Two for each record before: its file and its directory.
    node.gate.arm(5, 'fail', (name) => name === 'file.open');
    await expect(node.add(spec)).rejects.toMatchObject({ code: 'OVS_UNAVAILABLE' });
    expect([node.gate.struck, node.state]).toEqual([true, 'closing']);
    node.gate.disarm();
    node.ipam.failing = null;
    node.ovs.away = false;
    await node.clock.advance(30_000);
    await node.manager.settled();
    expect(node.leftovers()).toEqual([]);
  });

  it('whose IPAM plugin ends badly after it has answered leaves nothing', async () => {
    node.ipam.relents = true;
    await expect(node.add(spec)).rejects.toMatchObject({ code: 'IPAM_FAILED' });
    expect(node.ipam.calls).toEqual(['ADD', 'DEL']);
    expect(node.leftovers()).toEqual([]);
  });

  it('is not answered before its IPAM plugin has ended', async () => {
    const end = Promise.withResolvers<void>();
    node.ipam.lingering = end.promise;
    const adding = node.add(spec);
    await until(() => node.ipam.calls.length === 1);
    expect(await Promise.race([adding, settle().then(() => 'nothing yet')])).toBe('nothing yet');
    end.resolve();
    await adding;
  });

  it('gives its address back only when its IPAM plugin has ended', async () => {
    const end = Promise.withResolvers<void>();
    node.ipam.lingering = end.promise;
    node.gate.arm(1, 'fail', (name) => name === 'setupPodLink');
    const adding = node.add(spec).catch((error: unknown) => error);
    await until(() => node.gate.struck);
    await settle();
    expect(node.ipam.calls).toEqual(['ADD']);
    end.resolve();
    expect(await adding).toBeInstanceOf(VirtioUserError);
    expect(node.ipam.calls).toEqual(['ADD', 'DEL']);
    expect(node.leftovers()).toEqual([]);
  });

  it('whose IPAM plugin could not give back what it took gives it back itself', async () => {
    node.ipam.leaks = true;
    await expect(node.add(spec)).rejects.toMatchObject({ code: 'IPAM_FAILED' });
    expect(node.leftovers()).toEqual([]);
  });

  it('whose IPAM plugin can give back nothing at all is remembered; its lease goes later', async () => {
    node.ipam.leaks = true;
    node.ipam.failing = 'DEL';
    await expect(node.add(spec)).rejects.toMatchObject({ code: 'IPAM_FAILED' });
    expect(node.leftovers()).toEqual([expect.stringContaining('lease'), expect.stringContaining('record')]);
    node.ipam.failing = null;
    await node.clock.advance(30_000);
    await node.manager.settled();
    expect(node.leftovers()).toEqual([]);
  });
});

describe('an IPAM plugin that asks over the interface itself', () => {
  let dhcp: AttachmentSpec;
  beforeEach(() => {
    dhcp = { ...spec, ipam: { type: 'dhcp', netconf: '{"name":"net"}' } };
  });

  it('is asked when the interface is up and its backend runs, whatever `wait` says', async () => {
    node.gate.arm(0, 'fail', (name) => ['openTap', 'setupPodLink', 'ovs.ensure', 'ipam.add'].includes(name));
    const add = node.add(dhcp);
    await until(() => node.ovs.ports.size === 1);
    await settle();
    expect(node.gate.names).toEqual(['openTap', 'setupPodLink', 'ovs.ensure']);
    await node.connect();
    await add;
    expect(node.gate.names.slice(3)).toEqual(['ipam.add', 'setupPodLink']);
    expect(node.kernel.links).toMatchObject([{ up: true, addresses: [{}, {}] }]);
    expect(node.port.injected.length).toBe(2);
  });

  it('is not asked when no backend comes, and the ADD leaves nothing', async () => {
    const add = node.add(dhcp);
    await until(() => node.ovs.ports.size === 1);
    await settle();
    const failed = expect(add).rejects.toMatchObject({
      code: 'BACKEND_ABSENT',
      remedy: expect.stringContaining('asks over it'),
    });
    await node.clock.advance(5_000);
    await failed;
    expect(node.ipam.calls).toEqual([]);
    expect(node.leftovers()).toEqual([]);
  });

  it('gives a lease back before traffic stops', async () => {
    const add = node.add(dhcp);
    await until(() => node.ovs.ports.size === 1);
    await settle();
    await node.connect();
    await add;
    const { port, ipam } = node;
    const del = ipam.del.bind(ipam);
    const states: string[] = [];
    ipam.del = async (...args) => {
      await args[2];
      states.push(port.state);
      await del(...args);
      states.push(port.state);
    };
    await node.del(dhcp);
    expect(states).toEqual(['running', 'running']);
    expect(node.leftovers()).toEqual([]);
  });
});

describe('a caller that vanishes', () => {
  it('at any operation makes ADD roll back', async () => {
    for (let at = 1; ; at += 1) {
      const controller = new AbortController();
      let passed = 0;
      const pass = node.gate.pass.bind(node.gate);
      node.gate.pass = (name, work) => {
        passed += 1;
        if (passed === at) controller.abort(new Error('end of file'));
        return pass(name, work);
      };
      const outcome = await node.add(spec, context(controller.signal)).then(
        () => 'made',
        (error: unknown) => error,
      );
      node.gate.pass = pass;
      if (passed < at) {
        expect(outcome).toBe('made');
        break;
      }
      expect([at, outcome]).toEqual([at, expect.objectContaining({ code: 'CANCELLED' })]);
      expect([at, ...node.leftovers()]).toEqual([at]);
    }
  });

  it('while IPAM hangs is not waited for', async () => {
    node.ipam.hangs = true;
    const controller = new AbortController();
    const call = node.add(spec, context(controller.signal));
    await settle();
    controller.abort(new Error('deadline passed'));
    await expect(call).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(node.leftovers()).toEqual([]);
  });

  it('while another call of the container is at work gives up its place', async () => {
    node.ipam.hangs = true;
    const first = new AbortController();
    const second = new AbortController();
    const holder = node.add(spec, context(first.signal));
    await settle();
    const other = node.spec(netns, { key: { ...spec.key, ifName: 'net1' } });
    const waiting = node.add(other, context(second.signal));
    await settle();
    second.abort();
    await expect(waiting).rejects.toMatchObject({ code: 'CANCELLED' });
    first.abort();
    await expect(holder).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(node.leftovers()).toEqual([]);
  });
});

describe('backend.wait: required', () => {
  beforeEach(() => {
    spec = { ...spec, backend: { ...spec.backend, wait: 'required', waitTimeoutMs: 3000 } };
  });

  it('answers when the backend runs', async () => {
    const call = node.add(spec);
    await until(() => node.sources[0]?.isOpen === true);
    await node.connect();
    await call;
    expect(node.state).toBe('running');
  });

  it('fails at once when the IPAM plugin ends badly after it has answered', async () => {
    node.ipam.relents = true;
    await expect(node.add(spec)).rejects.toMatchObject({ code: 'IPAM_FAILED' });
    expect(node.leftovers()).toEqual([]);
  });

  it('fails with BACKEND_ABSENT after its time, naming the path, and leaves nothing', async () => {
    const call = node.add(spec);
    const failure = expect(call).rejects.toMatchObject({
      code: 'BACKEND_ABSENT',
      message: expect.stringContaining(spec.backend.path),
    });
    await until(() => node.kernel.links[0]?.up === true && node.deviceInfoFiles().includes('net-container-1_eth0'));
    await settle();
    await node.clock.advance(3000);
    await failure;
    expect(node.leftovers()).toEqual([]);
  });

  it.each([
    ['RESOURCE_HUGEPAGES', 'Reserve hugepages'],
    ['NOT_NEGOTIATED', 'Upgrade the switch'],
    ['TIMEOUT', null],
  ] as const)(
    '[F50] fails with %s where a backend came and that kept the device from running, and leaves nothing',
    async (code, remedy) => {
      const call = node.add(spec);
      const failure = expect(call).rejects.toMatchObject({
        code,
        message: expect.stringMatching(/did not come up within 3000 ms: why it failed/),
        remedy: remedy ?? expect.stringContaining('logs'),
        details: { path: spec.backend.path, missing: 'a thing' },
      });
      await until(() => node.deviceInfoFiles().includes('net-container-1_eth0'));
      await settle();
      const details = { missing: 'a thing' };
      const error = new VirtioUserError(code, 'why it failed', remedy === null ? { details } : { details, remedy });
      await node.connect({ kind: 'failing', error });
      await node.clock.advance(3000);
      await failure;
      expect(node.leftovers()).toEqual([]);
    },
  );
});

describe('DEL', () => {
  it('removes everything, also while the backend is connected, and again without a record', async () => {
    await node.add(spec);
    const frontend = await node.connect();
    await node.del(spec);
    expect(node.leftovers()).toEqual([]);
    expect(frontend.released).toBe(true);
    await node.del(spec, { netnsPath: '' });
    await node.del(spec, { netnsPath: '', ipam: null });
    expect(node.ipam.calls.filter((verb) => verb === 'DEL')).toHaveLength(2);
  });

  it('of an attachment that this agent never heard of gives back its lease and its port', async () => {
    node.ipam.leases.set('container-1/eth0', '10.77.0.9');
    await node.add(node.spec(netns, { key: { ...spec.key, ifName: 'net1' } }));
    await node.del(spec, { netnsPath: '' });
    expect([...node.ipam.leases.keys()]).toEqual(['container-1/net1']);
  });

  it('succeeds when the namespace is gone', async () => {
    await node.add(spec);
    node.kernel.removeNetns(netns);
    await node.del(spec, { netnsPath: '' });
    expect(node.leftovers()).toEqual([]);
  });

  it('makes its own ADD, still under way, roll back', async () => {
    node.ipam.hangs = true;
    const add = node.add(spec);
    const cancelled = expect(add).rejects.toMatchObject({ code: 'CANCELLED' });
    await settle();
    node.ipam.hangs = false;
    await node.del(spec);
    await cancelled;
    expect(node.leftovers()).toEqual([]);
  });

  it('that was queued before a later ADD leaves that alone', async () => {
    const askedAtMs = node.clock.wallMs();
    await node.clock.advance(1000);
    await node.add(spec);
    const before = node.leftovers();
    await node.del(spec, { askedAtMs });
    expect(node.leftovers()).toEqual(before);
  });

  it('succeeds with OVSDB away and the port goes later', async () => {
    await node.add(spec);
    node.ovs.away = true;
    await node.del(spec);
    expect(node.leftovers()).toEqual([expect.stringContaining('OVS port'), expect.stringContaining('record')]);
    expect(node.state).toBe('closing');
    node.ovs.away = false;
    await node.clock.advance(30_000);
    await node.manager.settled();
    expect(node.leftovers()).toEqual([]);
  });

  it('fails for IPAM, with everything else done, and succeeds when it is asked again', async () => {
    await node.add(spec);
    node.ipam.failing = 'DEL';
    await expect(node.del(spec)).rejects.toMatchObject({ code: 'IPAM_FAILED' });
    expect(node.leftovers()).toEqual([expect.stringContaining('lease'), expect.stringContaining('record')]);
    node.ipam.failing = null;
    await node.del(spec);
    expect(node.leftovers()).toEqual([]);
  });

  it('that is asked again calls IPAM as the caller says now: what made it fail may have been mended there', async () => {
    await node.add(spec);
    node.ipam.failing = 'DEL';
    const mended = { type: 'host-local', netconf: '{"name":"net","mended":true}' };
    await expect(node.del(spec, { ipam: mended })).rejects.toMatchObject({ code: 'IPAM_FAILED' });
    node.ipam.failing = null;
    await node.del(spec, { ipam: mended });
    expect(node.ipam.deletedWith).toEqual(['{"name":"net"}', mended.netconf]);
    expect(node.leftovers()).toEqual([]);
  });

  it('succeeds on a full disk', async () => {
    await node.add(spec);
    node.gate.arm(1, 'fail', (name) => name === 'file.open');
    await node.del(spec);
    expect(node.leftovers()).toEqual([]);
  });

  it('on a full disk that leaves a port behind is finished soon, like any other', async () => {
    await node.add(spec);
    node.gate.arm(1, 'fail', (name) => name === 'file.open');
    node.ovs.away = true;
    await node.del(spec);
    expect([node.ovs.ports.size, node.state]).toEqual([1, 'closing']);
    node.gate.disarm();
    node.ovs.away = false;
    await node.clock.advance(30_000);
    await node.manager.settled();
    expect(node.leftovers()).toEqual([]);
  });

  it('leaves nothing after a second try, whichever operation of the first failed', async () => {
    for (let at = 1; ; at += 1) {
      await node.add(spec);
      await node.connect();
      node.gate.arm(at, 'fail');
      await node.del(spec).catch(() => undefined);
      const { struck } = node.gate;
      node.gate.disarm();
      await node.del(spec);
      expect([at, ...node.leftovers()]).toEqual([at]);
      if (!struck) {
        expect(at).toBeGreaterThan(6);
        break;
      }
    }
  });

  it('of one interface leaves the other one of the container', async () => {
    const second = node.spec(netns, { key: { ...spec.key, ifName: 'net1' } });
    await Promise.all([node.add(spec), node.add(second)]);
    await node.del(spec);
    expect(node.manager.list().map(({ key }) => key.ifName)).toEqual(['net1']);
    expect(node.kernel.links).toHaveLength(1);
  });
});

describe('CHECK', () => {
  const check = (prevResult: unknown = {}): Promise<void> =>
    node.manager.check({ spec, prevResult }, context(new AbortController().signal));
  beforeEach(() => node.add(spec));

  it('succeeds with the backend away, and with what others added', async () => {
    const [link] = node.kernel.links;
    if (link === undefined) throw fault('ENODEV');
    const extra = { address: '192.0.2.1', prefixLength: 32 };
    node.kernel.change(link, { addresses: [...link.addresses, extra] });
    await check();
    expect(node.ipam.calls).toContain('CHECK');
  });

  it.each([
    ['MAC', { mac: '02:00:00:00:00:99' }, 'MAC'],
    ['MTU', { mtu: 9000 }, 'MTU'],
    ['link state', { up: false }, 'down'],
    ['address', { addresses: [] }, '10.77.0.2/24'],
    ['route', { routes: [] }, '0.0.0.0/0'],
    ['kind of link', { kind: 'veth' }, 'not the one'],
  ])('names a different %s', async (_what, change, told) => {
    const [link] = node.kernel.links;
    if (link === undefined) throw fault('ENODEV');
    node.kernel.change(link, change);
    await expect(check()).rejects.toMatchObject({ code: 'CHECK_MISMATCH', message: expect.stringContaining(told) });
  });

  it('succeeds with what other plugins of the list say in prevResult', async () => {
    const interfaces = [{ name: 'first0', sandbox: '/ns' }, { name: spec.key.ifName }];
    const ips = [{ address: '10.1.1.2/24', interface: 0 }];
    const routes = [
      { dst: '10.1.0.0/16', gw: '10.1.1.1' },
      { dst: '0.0.0.0/0', gw: '10.77.0.1' },
    ];
    await check({ interfaces, ips, routes });
  });

  it('misses a route only while prevResult has it, as ADD answered it', async () => {
    const [link] = node.kernel.links;
    if (link === undefined) throw fault('ENODEV');
    node.kernel.change(link, { routes: [] });
    const interfaces: readonly unknown[] = [];
    for (const gw of ['10.77.0.1', '', undefined, null]) {
      await expect(check({ interfaces, routes: [{ dst: '0.0.0.0/0', gw }] })).rejects.toMatchObject({
        code: 'CHECK_MISMATCH',
        message: expect.stringContaining('route 0.0.0.0/0'),
      });
    }
    for (const strange of [{ routes: [] }, { interfaces, routes: 'none' }, null, 7])
      await expect(check(strange)).rejects.toMatchObject({ code: 'CHECK_MISMATCH' });
    await check({ interfaces });
    await check({ interfaces, routes: [{ dst: '10.0.0.0/8' }, { dst: '::/0' }, { dst: 'x' }] });
    await check({ interfaces, routes: [{ dst: '0.0.0.0/0', gw: '10.77.0.9' }] });
  });

  it('fails for a link or a namespace that is gone, and for IPAM', async () => {
    node.ipam.failing = 'CHECK';
    await expect(check()).rejects.toMatchObject({ code: 'IPAM_FAILED' });
    node.kernel.links = [];
    await expect(check()).rejects.toMatchObject({ code: 'CHECK_MISMATCH' });
    node.kernel.removeNetns(netns);
    await expect(check()).rejects.toMatchObject({ code: 'CHECK_MISMATCH' });
  });

  it('of an attachment that is not ours is ATTACHMENT_UNKNOWN', async () => {
    await node.del(spec);
    await expect(check()).rejects.toMatchObject({ code: 'ATTACHMENT_UNKNOWN' });
  });
});

function inode(): string {
  const fd = node.kernel.open(netns);
  fd.close();
  return String(fd.identity().inode);
}
