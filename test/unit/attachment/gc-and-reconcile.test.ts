import { renameSync } from 'node:fs';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import type { GarbageRequest } from '../../../src/attachment/api.ts';
import { attachmentId } from '../../../src/attachment/key.ts';
import type { AttachmentSpec } from '../../../src/attachment/spec.ts';
import { type ChannelPayloads, subscribe } from '../../../src/telemetry/channels.ts';
import { FakeNode, untroubled } from '../../support/attachment-fakes.ts';
import { settle, until } from '../../support/fake-clock.ts';

let node: FakeNode;
let specs: AttachmentSpec[];

beforeEach(async () => {
  node = new FakeNode();
  await node.start();
  specs = [1, 2, 3].map((number) =>
    node.spec(node.kernel.addNetns(), {
      key: { networkName: number === 3 ? 'other' : 'net', containerId: `container-${number}`, ifName: 'eth0' },
    }),
  );
  for (const spec of specs) await node.add(spec);
});
afterEach(() => node.destroy());

const containers = (): string[] => node.manager.list().map(({ key }) => key.containerId);
const spec = (number: number): AttachmentSpec => specs[number - 1]!;

describe('GC', () => {
  const request: GarbageRequest = {
    networkName: 'net',
    valid: [{ containerId: 'container-1', ifName: 'eth0' }],
    ipam: { type: 'host-local', netconf: '{}' },
    cniPath: '',
  };

  it('removes what is not valid, of its own network only, and hands on to IPAM', async () => {
    await node.clock.advance(61_000);
    await node.manager.collectGarbage(request, untroubled);
    expect(containers()).toEqual(['container-1', 'container-3']);
    expect([...node.ipam.leases.keys()]).toEqual(['container-1/eth0', 'container-3/eth0']);
    expect(node.ipam.calls).toContain('GC');
    expect(node.ipam.valid).toEqual(['container-1/eth0']);
  });

  it('leaves records younger than a minute, and lets IPAM keep their leases', async () => {
    await node.clock.advance(59_000);
    await node.manager.collectGarbage(request, untroubled);
    expect(containers()).toHaveLength(3);
    expect(node.ipam.valid).toEqual(['container-1/eth0', 'container-2/eth0']);
  });

  it('goes on after errors and then reports them together', async () => {
    await node.clock.advance(61_000);
    node.ipam.failing = 'DEL';
    const call = node.manager.collectGarbage({ ...request, valid: [] }, untroubled);
    await expect(call).rejects.toThrow(/GC of network net: .*on fire; .*on fire/);
    expect(node.kernel.links).toHaveLength(1);
    expect(node.ipam.calls.at(-1)).toBe('GC');
  });

  it('waits for an ADD of its network that is under way, and not for one of another', async () => {
    await node.clock.advance(61_000);
    node.ipam.hangs = true;
    const controller = new AbortController();
    const late = node.spec(node.kernel.addNetns(), { key: { ...spec(1).key, containerId: 'late' } });
    const add = node.add(late, { requestId: '', signal: controller.signal });
    await until(() => node.ipam.calls.filter((verb) => verb === 'ADD').length === 4);
    const garbage = node.manager.collectGarbage(request, untroubled);
    await node.manager.collectGarbage({ ...request, networkName: 'other', valid: [] }, untroubled);
    expect(containers()).toEqual(['container-1', 'container-2', 'late']);
    controller.abort();
    await expect(add).rejects.toMatchObject({ code: 'CANCELLED' });
    await garbage;
    expect(containers()).toEqual(['container-1']);
  });
});

describe('reconciliation', () => {
  const orphans: ChannelPayloads['orphanRemoved'][] = [];
  let stop: () => void;
  beforeEach(() => {
    orphans.length = 0;
    stop = subscribe('orphanRemoved', (payload) => orphans.push(payload));
  });
  afterEach(() => stop());

  it('removes nothing while everything is as recorded', async () => {
    const before = node.leftovers();
    for (let pass = 0; pass < 3; pass += 1) {
      expect(await node.manager.reconcile()).toEqual({ removed: [], unfinished: [], unknown: [] });
      await node.clock.advance(61_000);
    }
    expect(node.leftovers()).toEqual(before);
  });

  it('removes a record with its lease and port when its namespace was gone twice, a minute apart', async () => {
    node.kernel.removeNetns(spec(1).netnsPath);
    await node.manager.reconcile();
    await node.clock.advance(59_000);
    expect((await node.manager.reconcile()).removed).toEqual([]);
    expect(node.ipam.leases.has('container-1/eth0')).toBe(true);
    await node.clock.advance(1_000);
    expect((await node.manager.reconcile()).removed).toHaveLength(1);
    expect(containers()).toEqual(['container-2', 'container-3']);
    expect(node.ipam.leases.has('container-1/eth0')).toBe(false);
    expect(node.ovs.ports.size).toBe(2);
    expect(orphans).toMatchObject([{ kind: 'attachment', reason: expect.stringContaining('namespace') }]);
  });

  it('keeps a record whose pod the cluster still knows, and removes it when that is over', async () => {
    node.kernel.removeNetns(spec(1).netnsPath);
    node.keptPods.set('ns/pod', 'pod ns/pod is there');
    for (let pass = 0; pass < 3; pass += 1) {
      const report = await node.manager.reconcile();
      expect(report.removed).toEqual([]);
      expect(report.unknown).toEqual(pass === 0 ? [] : [expect.stringContaining('pod ns/pod is there')]);
      await node.clock.advance(61_000);
    }
    expect(node.ipam.leases.has('container-1/eth0')).toBe(true);
    node.keptPods.clear();
    expect((await node.manager.reconcile()).removed).toHaveLength(1);
  });

  it('asks about a record that names no pod too, and keeps it for as long as the answer says', async () => {
    const key = { networkName: 'net', containerId: 'container-4', ifName: 'eth0' };
    const nameless = node.spec(node.kernel.addNetns(), { key, pod: null });
    await node.add(nameless);
    node.kernel.removeNetns(nameless.netnsPath);
    node.keptPods.set('', 'it names no pod');
    for (let pass = 0; pass < 20; pass += 1) {
      const report = await node.manager.reconcile();
      expect(report.removed).toEqual([]);
      if (pass > 0) expect(report.unknown).toEqual([expect.stringContaining('it names no pod')]);
      await node.clock.advance(600_000);
    }
    expect(node.ipam.leases.has('container-4/eth0')).toBe(true);
    await node.del(nameless);
    expect(node.ipam.leases.has('container-4/eth0')).toBe(false);
  });

  it('a DEL does not ask whether the pod is known', async () => {
    node.keptPods.set('ns/pod', 'pod ns/pod is there');
    await node.del(spec(1));
    expect(containers()).toEqual(['container-2', 'container-3']);
  });

  it('forgets the first strike when the namespace is there again', async () => {
    const { netnsPath } = spec(1);
    renameSync(netnsPath, `${netnsPath}.away`);
    await node.manager.reconcile();
    renameSync(`${netnsPath}.away`, netnsPath);
    await node.clock.advance(61_000);
    await node.manager.reconcile();
    renameSync(netnsPath, `${netnsPath}.away`);
    expect((await node.manager.reconcile()).removed).toEqual([]);
  });

  it('takes up again what it let go of when the namespace is there again', async () => {
    const { netnsPath } = spec(1);
    renameSync(netnsPath, `${netnsPath}.away`);
    await node.manager.reconcile();
    expect(node.state).toBe('absent');
    renameSync(`${netnsPath}.away`, netnsPath);
    await node.manager.reconcile();
    expect(node.state).toBe('held');
  });

  it('deletes nothing when the directory of the namespaces cannot be seen', async () => {
    const directory = node.kernel.directory;
    renameSync(directory, `${directory}-unmounted`);
    for (let pass = 0; pass < 3; pass += 1) {
      const report = await node.manager.reconcile();
      expect([report.removed, report.unknown.length]).toEqual([[], 3]);
      await node.clock.advance(61_000);
    }
    renameSync(`${directory}-unmounted`, directory);
    expect(containers()).toHaveLength(3);
    expect(node.ipam.leases.size).toBe(3);
  });

  it('removes a tagged port of this node without a record, on the second strike; not another node’s', async () => {
    const [port] = node.ovs.ports.values();
    const orphan = { ...port!, name: 'vuffffffffffff' };
    const elsewhere = { ...port!, name: 'vueeeeeeeeeeee', externalIds: { 'virtio-user-node': 'node-2' } };
    for (const other of [orphan, elsewhere]) node.ovs.ports.set(other.name, other);
    await node.manager.reconcile();
    await node.clock.advance(61_000);
    expect(node.ovs.ports.has(orphan.name)).toBe(true);
    expect((await node.manager.reconcile()).removed).toEqual([`port ${orphan.name}`]);
    expect(node.ovs.ports.has(elsewhere.name)).toBe(true);
    expect(node.ovs.ports.size).toBe(4);
    expect(orphans).toMatchObject([{ kind: 'ovs-port', id: orphan.name }]);
  });

  it('leaves ports and says so when OVSDB cannot be asked; an earlier strike stands', async () => {
    const [port] = node.ovs.ports.values();
    node.ovs.ports.set('vuffffffffffff', { ...port!, name: 'vuffffffffffff' });
    await node.manager.reconcile();
    await node.clock.advance(61_000);
    node.ovs.away = true;
    expect((await node.manager.reconcile()).unknown).toEqual([expect.stringContaining('ECONNREFUSED')]);
    node.ovs.away = false;
    expect((await node.manager.reconcile()).removed).toEqual(['port vuffffffffffff']);
  });

  it('makes the ports of living attachments again when the database has lost them', async () => {
    const before = [...node.ovs.ports.keys()].sort();
    node.ovs.ports.clear();
    node.kernel.removeNetns(spec(3).netnsPath);
    await node.manager.reconcile();
    expect([...node.ovs.ports.keys()].sort()).toEqual(before.filter((name) => node.ovs.ports.has(name)));
    expect(node.ovs.ports.size).toBe(2);
  });

  describe('that is at work on a port', () => {
    /** Holds the operation up until `release` is called. */
    function hold(operation: 'ensure' | 'remove'): { readonly reached: () => boolean; readonly release: () => void } {
      const real = node.ovs[operation].bind(node.ovs) as (argument: never) => Promise<never>;
      let release: () => void = () => undefined;
      let reached = false;
      const released = new Promise<void>((resolve) => (release = resolve));
      const held = async (argument: never): Promise<never> => {
        reached = true;
        await released;
        return real(argument);
      };
      Object.assign(node.ovs, { [operation]: held });
      return { reached: () => reached, release };
    }

    /** For a call that nothing keeps waiting. */
    async function longEnough(): Promise<void> {
      for (let turns = 0; turns < 2000; turns += 1) await settle();
    }

    it('does not put it back beside a DEL', async () => {
      node.ovs.ports.clear();
      const { reached, release } = hold('ensure');
      const pass = node.manager.reconcile();
      await until(reached);
      const del = node.del(spec(1));
      await Promise.race([del, longEnough()]);
      release();
      await Promise.all([pass, del]);
      expect(node.manager.list().map(({ id }) => id)).toEqual([...node.ovs.ports.keys()]);
      expect(node.ovs.ports.size).toBe(2);
    });

    it('does not take it away from an ADD that comes meanwhile', async () => {
      const late = node.spec(node.kernel.addNetns(), { key: { ...spec(1).key, containerId: 'late' } });
      const id = attachmentId(late.key);
      const [port] = node.ovs.ports.values();
      node.ovs.ports.set(id, { ...port!, name: id });
      await node.manager.reconcile();
      await node.clock.advance(61_000);
      const { reached, release } = hold('remove');
      const pass = node.manager.reconcile();
      await until(reached);
      const add = node.add(late);
      await Promise.race([add, longEnough()]);
      release();
      await Promise.all([pass, add]);
      expect(node.ovs.ports.has(id)).toBe(true);
    });

    it('does not claim to have removed one that went meanwhile', async () => {
      const [port] = node.ovs.ports.values();
      node.ovs.ports.set('vuffffffffffff', { ...port!, name: 'vuffffffffffff' });
      await node.manager.reconcile();
      await node.clock.advance(61_000);
      const { reached, release } = hold('remove');
      const pass = node.manager.reconcile();
      await until(reached);
      node.ovs.ports.delete('vuffffffffffff');
      release();
      expect((await pass).removed).toEqual([]);
      expect(orphans).toEqual([]);
    });
  });

  it('finishes a removal that did not', async () => {
    node.ovs.away = true;
    await node.del(spec(1));
    expect(containers()).toHaveLength(3);
    node.ovs.away = false;
    expect((await node.manager.reconcile()).removed).toHaveLength(1);
    expect(containers()).toEqual(['container-2', 'container-3']);
  });

  it('does not touch an ADD that is under way', async () => {
    const late = node.spec(node.kernel.addNetns(), {
      key: { ...spec(1).key, containerId: 'late' },
      backend: { ...spec(1).backend, wait: 'required' },
    });
    const controller = new AbortController();
    const add = node.add(late, { requestId: '', signal: controller.signal });
    await until(() => node.ovs.ports.size === 4);
    expect(await node.manager.reconcile()).toEqual({ removed: [], unfinished: [], unknown: [] });
    controller.abort();
    await expect(add).rejects.toMatchObject({ code: 'CANCELLED' });
  });
});

describe('a switch', () => {
  it('is not told of an attachment that gets no address', async () => {
    const before = node.ovs.asked;
    node.ipam.failing = 'ADD';
    const late = node.spec(node.kernel.addNetns(), { key: { ...spec(1).key, containerId: 'late' } });
    await expect(node.add(late)).rejects.toMatchObject({ code: 'IPAM_FAILED' });
    expect(node.ovs.asked).toBe(before);
  });
});

describe('a namespace that the runtime removes', () => {
  it('is let go of at once, and its record waits', async () => {
    const [port] = node.ports;
    node.kernel.removeNetns(spec(1).netnsPath);
    await until(() => port?.state === 'closed');
    await node.manager.settled();
    expect(node.sources[0]?.isOpen).toBe(false);
    expect(containers()).toHaveLength(3);
    expect(node.manager.list()[0]?.state).toBe('absent');
    await node.del(spec(1), { netnsPath: '' });
    expect(containers()).toEqual(['container-2', 'container-3']);
  });

  it('is let go of by what is left of its interfaces, too', async () => {
    const key = { ...spec(1).key, networkName: 'second', ifName: 'net1' };
    const second = node.spec(spec(1).netnsPath, { key });
    await node.add(second);
    await node.del(second);
    const [port] = node.ports;
    node.kernel.removeNetns(spec(1).netnsPath);
    await until(() => port?.state === 'closed');
  });
});
