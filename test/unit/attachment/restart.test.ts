/** The agent dies, at every operation there is; the node reboots; the state on disk is not what it should be. */
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { NetnsWatch } from '../../../src/attachment/netns-watch.ts';
import type { AttachmentSpec } from '../../../src/attachment/spec.ts';
import { VirtioUserError } from '../../../src/errors.ts';
import { type ChannelPayloads, subscribe } from '../../../src/telemetry/channels.ts';
import { FakeNode } from '../../support/attachment-fakes.ts';
import { settle } from '../../support/fake-clock.ts';

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

const recordPath = (): string => join(node.stateDir, 'attachments', String(node.records()[0]));

/** An agent that dies at this operation of ADD, and the next one. false: the ADD was over before. */
async function killedInAdd(at: number, kind: 'kill-before' | 'kill-after'): Promise<boolean> {
  node.gate.arm(at, kind);
  const died = node.gate.expectDeath();
  const outcome = await Promise.race([node.add(spec).then(() => 'made'), died.then(() => 'died')]);
  if (outcome === 'made') return false;
  await settle();
  await node.killAndRestart();
  return true;
}

describe.each(['kill-before', 'kill-after'] as const)('an agent killed (%s)', (kind) => {
  it('at any operation of ADD: the next one undoes it, or runs what was complete', async () => {
    let undone = 0;
    let completed = 0;
    for (let at = 1; await killedInAdd(at, kind); at += 1) {
      const [view] = node.manager.list();
      if (view === undefined) {
        expect([at, ...node.leftovers()]).toEqual([at]);
        undone += 1;
      } else {
        // The second write had reached the disk. The runtime, which got no answer, calls DEL.
        expect([at, view.state]).toEqual([at, 'held']);
        completed += 1;
      }
      await node.del(spec);
      expect([at, ...node.leftovers()]).toEqual([at]);
    }
    expect(undone).toBeGreaterThan(5);
    expect(completed).toBeGreaterThan(0);
  });

  it('at any operation of ADD: the same request that is sent again to the next one succeeds', async () => {
    for (let at = 1; await killedInAdd(at, kind); at += 1) {
      await node.add(spec);
      expect([at, node.state, node.ovs.ports.size]).toEqual([at, 'waiting', 1]);
      expect(node.kernel.links).toMatchObject([{ up: true, addresses: [{}, {}] }]);
      await node.del(spec);
      expect([at, ...node.leftovers()]).toEqual([at]);
    }
  });

  it('at any operation of DEL: the next one finishes it, or waits for the next DEL', async () => {
    for (let at = 1; ; at += 1) {
      await node.add(spec);
      node.gate.arm(at, kind);
      const died = node.gate.expectDeath();
      const outcome = await Promise.race([node.del(spec).then(() => 'done'), died.then(() => 'died')]);
      if (outcome === 'done') {
        expect(at).toBeGreaterThan(6);
        break;
      }
      await settle();
      await node.killAndRestart();
      if (node.manager.list().length > 0) {
        expect([at, node.state]).toEqual([at, 'held']);
        await node.del(spec);
      }
      expect([at, ...node.leftovers()]).toEqual([at]);
    }
  });
});

describe('a new agent', () => {
  it('takes up the same interface and runs it when the backend comes back', async () => {
    await node.add(spec);
    await node.connect();
    const [before] = node.kernel.links;
    await node.killAndRestart();
    expect(node.kernel.links).toEqual([before]);
    expect(node.manager.list()).toMatchObject([{ state: 'held', carrier: true }]);
    await node.connect();
    expect(node.manager.list()).toMatchObject([{ state: 'running', carrier: true }]);
    expect(node.port.injected.length).toBe(2);
  });

  it('takes the carrier away when no backend comes back within the hold time', async () => {
    await node.add(spec);
    await node.killAndRestart();
    await node.clock.advance(999);
    expect(node.port.carrier).toBe(true);
    await node.clock.advance(1);
    expect([node.port.carrier, node.port.state, node.state]).toEqual([false, 'discarding', 'waiting']);
  });

  it('whose socket is still taken tries again', async () => {
    await node.add(spec);
    node.socketRefusal = new Error('EADDRINUSE');
    await node.killAndRestart();
    expect(node.source.isOpen).toBe(false);
    node.socketRefusal = null;
    await node.clock.advance(5_000);
    expect(node.source.isOpen).toBe(true);
    await node.connect();
    expect(node.state).toBe('running');
  });

  describe('that could not take up an interface', () => {
    beforeEach(async () => {
      await node.add(spec);
      await node.killAndRestart(() => node.gate.arm(1, 'fail', (name) => name === 'openTap'));
    });

    it('says why, and tries again before long', async () => {
      expect(node.manager.list()).toMatchObject([{ state: 'absent', reason: expect.stringContaining('ENOSPC') }]);
      await node.clock.advance(30_000);
      await node.manager.settled();
      expect(node.manager.list()).toMatchObject([{ state: 'held', reason: 'the agent was restarted' }]);
      await node.connect();
      expect(node.state).toBe('running');
    });

    it('takes it up in a reconciliation, which says so when that fails too', async () => {
      node.gate.arm(1, 'fail', (name) => name === 'openTap');
      expect((await node.manager.reconcile()).unfinished).toEqual([expect.stringContaining('ENOSPC')]);
      expect(await node.manager.reconcile()).toEqual({ removed: [], unfinished: [], unknown: [] });
      expect(node.state).toBe('held');
    });

    it('takes it up when somebody asks for a reconnect, who hears why when that fails', async () => {
      const id = String(node.manager.list()[0]?.id);
      node.gate.arm(1, 'fail', (name) => name === 'openTap');
      await expect(node.manager.reconnect(id)).rejects.toMatchObject({
        code: 'SYSCALL_FAILED',
        message: expect.stringContaining('ENOSPC'),
      });
      await node.manager.reconnect(id);
      expect(node.state).toBe('held');
    });

    it('leaves it to a DEL that comes first', async () => {
      await node.del(spec);
      await node.clock.advance(30_000);
      await node.manager.settled();
      expect(node.leftovers()).toEqual([]);
    });

    it('takes up nothing once it stops', async () => {
      await node.manager.close();
      await node.manager.reconcile();
      expect(node.kernel.openFds).toBe(0);
    });
  });

  it('does not try again for an interface that the pod has deleted', async () => {
    await node.add(spec);
    node.kernel.links = [];
    await node.killAndRestart();
    expect(node.manager.list()).toMatchObject([
      { state: 'absent', reason: expect.stringContaining('interface is gone') },
    ]);
    expect(await node.manager.reconcile()).toEqual({ removed: [], unfinished: [], unknown: [] });
    const id = String(node.manager.list()[0]?.id);
    await expect(node.manager.reconnect(id)).rejects.toMatchObject({ code: 'ATTACHMENT_UNKNOWN' });
  });

  it('keeps the record of a pod whose namespace is gone, and does not listen for it', async () => {
    await node.add(spec);
    node.kernel.removeNetns(netns);
    await node.killAndRestart();
    expect([node.state, node.sources]).toEqual(['absent', []]);
    expect(node.leftovers().sort()).toEqual([
      expect.stringContaining('OVS port'),
      'device info net-container-1_eth0',
      expect.stringContaining('lease'),
      expect.stringContaining('record'),
      expect.stringContaining('socket'), // the file
    ]);
    await node.del(spec);
    expect(node.leftovers()).toEqual([]);
  });

  it('removes an attachment whose socket path is no longer allowed; its file stays', async () => {
    await node.add(spec);
    node.kernel.removeNetns(netns);
    await node.killAndRestart();
    node.pathRefusal = new VirtioUserError('SOCKET_PATH', 'not below --backend-dirs');
    await node.del(spec);
    expect(node.leftovers()).toEqual([expect.stringContaining('socket')]);
  });

  it('leaves a socket alone that is another attachment’s by now', async () => {
    const backend = { ...spec.backend, path: '/run/vhost/shared.sock' };
    await node.add({ ...spec, backend });
    node.gate.arm(1, 'kill-before', (name) => name === 'file.rm');
    const died = node.gate.expectDeath();
    void node.del({ ...spec, backend });
    await died;
    await node.killAndRestart(() => {
      node.ovs.away = true; // the first record stays for a while
    });
    const later = { ...spec, backend, key: { ...spec.key, containerId: 'container-2' } };
    const other = { ...later, netnsPath: node.kernel.addNetns(), ovs: null };
    await node.add(other);
    node.ovs.away = false;
    await node.clock.advance(30_000);
    await node.manager.settled();
    expect(node.source.isOpen).toBe(true);
    expect(node.leftovers().filter((name) => name.startsWith('socket'))).toHaveLength(1);
  });

  it('after a reboot gives back leases and ports, whatever is at the paths now', async () => {
    await node.add(spec);
    node.bootId = 'boot-2';
    await node.killAndRestart();
    // Inodes and interface indexes begin anew at boot: what looks like ours inside a namespace is another pod's.
    expect(node.leftovers()).toEqual([expect.stringContaining('link')]);
  });

  it('does not delete another attachment’s interface of the same name and MAC', async () => {
    const mac = '02:00:00:00:00:77';
    const device = { ...spec.device, mac };
    await node.add({ ...spec, device });
    const other = node.spec(netns, { key: { ...spec.key, networkName: 'other' }, device, ovs: null });
    node.gate.arm(1, 'kill-before', (name) => name === 'openTap');
    const died = node.gate.expectDeath();
    void node.add(other);
    await died;
    await settle();
    await node.killAndRestart();
    expect(node.kernel.links).toHaveLength(1);
    expect(node.manager.list()).toMatchObject([{ key: { networkName: 'net' }, state: 'held' }]);
  });

  it('leaves everything in place when it stops in order', async () => {
    await node.add(spec);
    const frontend = await node.connect();
    await node.manager.close();
    expect(node.port.state).toBe('closed');
    expect(node.source.isOpen).toBe(false);
    expect(frontend.released).toBe(true);
    expect(node.leftovers()).toHaveLength(5);
    await expect(node.add(spec)).rejects.toMatchObject({ code: 'AGENT_NOT_READY' });
    await node.killAndRestart();
    expect(node.state).toBe('held');
  });
});

describe('a number of queue pairs that was set', () => {
  const manyQueues = (): AttachmentSpec => ({ ...spec, device: { ...spec.device, queues: 4 } });
  const id = (): string => String(node.manager.list()[0]?.id);
  const pairs = (): readonly [wanted: number | null, active: number] => {
    const [view] = node.manager.list();
    return [view?.wantedPairs ?? null, view?.activePairs ?? 0];
  };

  it('outlives the agent and every connection', async () => {
    await node.add(manyQueues());
    await node.connect();
    expect(pairs()).toEqual([null, 4]);
    await node.manager.setQueuePairs(id(), 2);
    for (let restart = 0; restart < 2; restart += 1) {
      await node.killAndRestart();
      expect(pairs()).toEqual([2, 0]);
      const frontend = await node.connect();
      expect(pairs()).toEqual([2, 2]);
      frontend.hangUp();
      await settle();
      await node.connect();
      expect(pairs()).toEqual([2, 2]);
    }
  });

  it.each(['kill-before', 'kill-after'] as const)('is all or nothing when the agent is killed (%s)', async (kind) => {
    await node.add(manyQueues());
    await node.connect();
    const seen = new Set<boolean>();
    for (let at = 1; ; at += 1) {
      const [before] = pairs();
      const next = before === 3 ? 2 : 3;
      node.gate.arm(at, kind);
      const died = node.gate.expectDeath();
      const set = node.gate.within(() => node.manager.setQueuePairs(id(), next));
      const outcome = await Promise.race([set.then(() => 'set'), died.then(() => 'died')]);
      if (outcome === 'set') break;
      await settle();
      await node.killAndRestart();
      await node.connect();
      const [after] = pairs();
      expect([before, next]).toContain(after);
      expect(pairs()).toEqual([after, after ?? 4]);
      seen.add(after === next);
    }
    expect(seen).toEqual(new Set([false, true]));
  });

  it('is refused and taken back when it cannot be kept', async () => {
    await node.add(manyQueues());
    await node.connect();
    node.gate.arm(1, 'fail', (name) => name.includes('open'));
    const setting = node.gate.within(() => node.manager.setQueuePairs(id(), 2));
    await expect(setting).rejects.toMatchObject({ code: 'STATE_WRITE' });
    expect(pairs()).toEqual([null, 4]);
  });

  it('is not kept when the device refuses it', async () => {
    await node.add(manyQueues());
    await node.connect();
    const written = readFileSync(recordPath(), 'utf8');
    node.device.refusal = new VirtioUserError('CONTROL_REFUSED', 'five of four');
    await expect(node.manager.setQueuePairs(id(), 5)).rejects.toMatchObject({ code: 'CONTROL_REFUSED' });
    expect(pairs()).toEqual([null, 4]);
    expect(readFileSync(recordPath(), 'utf8')).toBe(written);
  });

  it('of an attachment that is not there, or runs no more, is refused', async () => {
    await expect(node.manager.setQueuePairs('vu000000000000', 1)).rejects.toMatchObject({ code: 'ATTACHMENT_UNKNOWN' });
    await node.add(spec);
    node.kernel.removeNetns(netns);
    await node.killAndRestart();
    await expect(node.manager.setQueuePairs(id(), 1)).rejects.toMatchObject({ code: 'ATTACHMENT_UNKNOWN' });
  });

  it('does not keep a namespace that goes meanwhile', async () => {
    await node.add(manyQueues());
    await node.connect();
    const { device } = node;
    let goOn = (): void => undefined;
    const held = new Promise<void>((resolve) => (goOn = resolve));
    const control = device.control.bind(device);
    device.control = (command) => held.then(() => control(command));
    const setting = node.manager.setQueuePairs(id(), 2);
    const gone = new Promise<void>((resolve) => {
      const watch = new NetnsWatch(() => {
        watch.close();
        resolve();
      });
      watch.add(netns, 'other');
    });
    node.kernel.removeNetns(netns);
    await gone;
    await settle();
    goOn();
    await setting;
    await node.manager.settled();
    expect([node.state, node.port.state]).toEqual(['absent', 'closed']);
  });

  it('waits for a DEL under way and then finds nothing', async () => {
    await node.add(manyQueues());
    await node.connect();
    const attachment = id();
    const outcomes = Promise.allSettled([node.del(manyQueues()), node.manager.setQueuePairs(attachment, 2)]);
    expect(await outcomes).toMatchObject([
      { status: 'fulfilled' },
      { status: 'rejected', reason: { code: 'ATTACHMENT_UNKNOWN' } },
    ]);
    expect(node.leftovers()).toEqual([]);
  });
});

describe('a record', () => {
  const damages: readonly (readonly [string, (json: string) => string])[] = [
    ['cut off', (json) => json.slice(0, 100)],
    ['empty', () => ''],
    ['of a newer version', (json) => json.replace('"version":1', '"version":2')],
    ['with a MAC that is none', (json) => json.replace(/"mac":"[^"]*"/, '"mac":"../../etc"')],
    ['with an id that is another’s', (json) => json.replace(/"id":"vu\w+"/, '"id":"vu000000000000"')],
    ['with a path that is too long', (json) => json.replace(/"path":"[^"]*"/, `"path":"/${'x'.repeat(200)}"`)],
  ];

  it.each(damages)('%s is set aside and reported; the rest goes on, and its OVS port stays', async (_title, damage) => {
    await node.add(spec);
    const path = recordPath();
    const other = node.spec(node.kernel.addNetns(), { key: { ...spec.key, containerId: 'container-2' } });
    await node.add(other);
    writeFileSync(path, damage(readFileSync(path, 'utf8')));
    const told: ChannelPayloads['stateCorrupt'][] = [];
    const stop = subscribe('stateCorrupt', (payload) => told.push(payload));
    await node.killAndRestart();
    stop();
    expect(told).toMatchObject([{ path: `${path}.bad`, reason: expect.any(String) }]);
    expect(node.manager.list().map(({ key }) => key.containerId)).toEqual(['container-2']);
    // Also the next process, which finds only what was set aside, knows of it.
    await node.killAndRestart();
    for (let pass = 0; pass < 3; pass += 1) {
      await node.manager.reconcile();
      await node.clock.advance(61_000);
    }
    expect(node.ovs.ports.size).toBe(2);
  });

  it('of 0.1.0, which knew no device info and no addresses of its own, is taken up and removed', async () => {
    await node.add({ ...spec, deviceInfoPath: null });
    const path = recordPath();
    const old = readFileSync(path, 'utf8').replace(',"addresses":[],"deviceInfoPath":null', '');
    expect(old).not.toContain('deviceInfoPath');
    writeFileSync(path, old);
    await node.killAndRestart();
    expect(node.manager.list()).toMatchObject([{ state: 'held' }]);
    await node.del(spec);
    expect(node.leftovers()).toEqual([]);
  });

  it('of before numbers of queue pairs were kept is taken up, and uses all', async () => {
    await node.add({ ...spec, device: { ...spec.device, queues: 4 } });
    const path = recordPath();
    const old = readFileSync(path, 'utf8').replace(',"wantedPairs":null', '');
    expect(old).not.toContain('wantedPairs');
    writeFileSync(path, old);
    await node.killAndRestart();
    await node.connect();
    expect(node.manager.list()).toMatchObject([{ state: 'running', wantedPairs: null, activePairs: 4 }]);
  });

  it('of 0.1.0, which knew no request id, is in the way of another ADD', async () => {
    await node.add(spec);
    const path = recordPath();
    const old = readFileSync(path, 'utf8').replace(',"requestId":"test"', '');
    expect(old).not.toContain('requestId');
    writeFileSync(path, old);
    await node.killAndRestart();
    await expect(node.add(spec)).rejects.toMatchObject({ code: 'CONFLICT_INTERFACE' });
    await node.del(spec);
    expect(node.leftovers()).toEqual([]);
  });

  it('half written leaves nothing behind', async () => {
    writeFileSync(join(node.stateDir, 'attachments', 'vu000000000000.json.3.tmp'), '{"ver');
    await node.killAndRestart();
    expect(readdirSync(join(node.stateDir, 'attachments'))).toEqual([]);
  });
});
