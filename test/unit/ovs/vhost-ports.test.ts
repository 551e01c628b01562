/** Against a real ovsdb-server (package openvswitch-common) with the schema of Open vSwitch. */
import { afterAll, beforeAll, beforeEach, describe, expect, it } from '@jest/globals';
import type { OvsPorts, OvsPortSpec } from '../../../src/ovs/ports.ts';
import { OvsdbClient } from '../../../src/ovs/ovsdb.ts';
import { VhostPorts } from '../../../src/ovs/vhost-ports.ts';
import { OvsdbServer } from '../../support/ovsdb-server.ts';

const signal = new AbortController().signal;
let server: OvsdbServer;
let ports: OvsPorts;
let count = 0;

const connect = (deadlineMs: number, socketPath = server.socketPath): OvsPorts =>
  new VhostPorts(new OvsdbClient({ socketPath, deadlineMs }));

beforeAll(async () => {
  server = new OvsdbServer();
  await server.start();
  server.vsctl('init');
  for (const bridge of ['br-a', 'br-b']) server.vsctl('add-br', bridge);
  ports = connect(20_000);
});
afterAll(async () => {
  ports.close();
  await server.destroy();
});

let spec: OvsPortSpec;
beforeEach(() => {
  count += 1;
  spec = {
    name: `vu00000000000${count.toString(16)}`,
    bridge: 'br-a',
    vlan: 100,
    socketPath: '/run/x/v.sock',
    type: 'dpdkvhostuserclient',
    mtu: 1450,
    externalIds: {
      'virtio-user-id': `vu00000000000${count.toString(16)}`,
      'virtio-user-node': `node-${count}`,
      'iface-id': 'ns/pod/eth0',
      'attached-mac': '02:00:00:00:00:01',
    },
  };
});

const onBridge = (bridge: string): string[] => server.vsctl('list-ports', bridge).split('\n');
const column = (table: string, name: string): string => server.vsctl('get', table, spec.name, name);

describe('a port of ours', () => {
  it('is made with type, path, MTU, VLAN and tags', async () => {
    await ports.ensure(spec, signal);
    expect(onBridge('br-a')).toContain(spec.name);
    expect(column('Interface', 'type')).toBe('dpdkvhostuserclient');
    expect(column('Interface', 'options:vhost-server-path')).toBe('"/run/x/v.sock"');
    expect(column('Interface', 'mtu_request')).toBe('1450');
    expect(column('Interface', 'external_ids:iface-id')).toBe('"ns/pod/eth0"');
    expect(column('Interface', 'external_ids:attached-mac')).toBe('"02:00:00:00:00:01"');
    expect(column('Port', 'external_ids:virtio-user-id')).toBe(spec.name);
    expect(column('Port', 'tag')).toBe('100');
  });

  it('of the server type is given no path and, without VLAN, no tag', async () => {
    await ports.ensure({ ...spec, type: 'dpdkvhostuser', vlan: null }, signal);
    expect(column('Interface', 'options')).toBe('{}');
    expect(column('Port', 'tag')).toBe('[]');
  });

  it('that is right already stays the same row; one that differs is made to match, on another bridge too', async () => {
    await ports.ensure(spec, signal);
    const before = column('Port', '_uuid');
    await ports.ensure(spec, signal);
    expect(column('Port', '_uuid')).toBe(before);
    await ports.ensure({ ...spec, bridge: 'br-b', vlan: 7, mtu: 9000 }, signal);
    expect(column('Port', '_uuid')).toBe(before);
    expect(onBridge('br-a')).not.toContain(spec.name);
    expect(onBridge('br-b')).toContain(spec.name);
    expect([column('Port', 'tag'), column('Interface', 'mtu_request')]).toEqual(['7', '9000']);
  });

  it('is removed once, with its interface', async () => {
    await ports.ensure(spec, signal);
    expect(await ports.remove(spec.name, signal)).toBe(true);
    expect(onBridge('br-a')).not.toContain(spec.name);
    expect(server.vsctl('--columns=name', 'find', 'Interface', `name=${spec.name}`)).toBe('');
    expect(await ports.remove(spec.name, signal)).toBe(false);
  });

  it('is listed for its node only', async () => {
    await ports.ensure(spec, signal);
    expect(await ports.list(`node-${count}`, signal)).toEqual([
      { name: spec.name, bridge: 'br-a', externalIds: spec.externalIds },
    ]);
    expect(await ports.list('node-elsewhere', signal)).toEqual([]);
  });

  it('made by many calls at once is made for each', async () => {
    const names = Array.from({ length: 40 }, (_, index) => `vupar${index}`);
    await Promise.all(names.map((name) => ports.ensure({ ...spec, name }, signal)));
    expect(onBridge('br-a')).toEqual(expect.arrayContaining(names));
    const removed = await Promise.all(names.map((name) => ports.remove(name, signal)));
    expect(removed.every(Boolean)).toBe(true);
  });
});

describe('a port that is not ours', () => {
  it('is neither changed nor removed, though it has the name', async () => {
    server.vsctl('add-port', 'br-b', spec.name, '--', 'set', 'interface', spec.name, 'type=internal');
    await expect(ports.ensure(spec, signal)).rejects.toMatchObject({ code: 'OVS_REFUSED' });
    expect(await ports.remove(spec.name, signal)).toBe(false);
    expect(onBridge('br-b')).toContain(spec.name);
    expect(column('Interface', 'type')).toBe('internal');
  });
});

describe('a bridge that is not there', () => {
  it('is named, with those that are, and nothing is made', async () => {
    const failure = ports.ensure({ ...spec, bridge: 'br-nowhere' }, signal);
    await expect(failure).rejects.toMatchObject({ code: 'OVS_REFUSED', details: { committed: 'no' } });
    await expect(failure).rejects.toThrow(/br-nowhere.*br-a, br-b/);
    expect(server.vsctl('--columns=name', 'find', 'Port', `name=${spec.name}`)).toBe('');
  });
});

describe('the database', () => {
  it('may restart: the next call connects anew and finds what was committed', async () => {
    await ports.ensure(spec, signal);
    await server.stop();
    await expect(ports.list(`node-${count}`, signal)).rejects.toMatchObject({ code: 'OVS_UNAVAILABLE' });
    await server.start();
    expect(await ports.list(`node-${count}`, signal)).toHaveLength(1);
  });

  it('that is stopped (SIGSTOP) costs a deadline and is used again when it goes on', async () => {
    const impatient = connect(2000);
    try {
      await impatient.list('x', signal);
      server.signal('SIGSTOP');
      await expect(impatient.remove(spec.name, signal)).rejects.toMatchObject({ code: 'TIMEOUT' });
      server.signal('SIGCONT');
      expect(await impatient.remove(spec.name, signal)).toBe(false);
    } finally {
      server.signal('SIGCONT');
      impatient.close();
    }
  });

  it('that is not there fails at once, saying that nothing was done', async () => {
    const absent = connect(2000, `${server.socketPath}.absent`);
    await expect(absent.ensure(spec, signal)).rejects.toMatchObject({
      code: 'OVS_UNAVAILABLE',
      details: { committed: 'no' },
    });
    absent.close();
  });

  it('is not asked by a caller that has gone, and one that goes in between is told', async () => {
    await expect(ports.ensure(spec, AbortSignal.abort())).rejects.toMatchObject({ code: 'CANCELLED' });
    const controller = new AbortController();
    const call = ports.ensure(spec, controller.signal);
    controller.abort();
    await expect(call).rejects.toMatchObject({ code: 'CANCELLED', details: { committed: 'unknown' } });
  });
});
