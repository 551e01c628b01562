/** What the pod does to its interface reaches the device as commands. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { commandsFor, lookAgainMs, quietMs } from '../../../src/attachment/pod-driver.ts';
import type { AttachmentSpec } from '../../../src/attachment/spec.ts';
import { VirtioUserError } from '../../../src/errors.ts';
import type { PodLinkFilter } from '../../../src/native/binding.ts';
import { macTableEntries } from '../../../src/virtio/control.ts';
import { FakeNode } from '../../support/attachment-fakes.ts';
import { settle } from '../../support/fake-clock.ts';

let node: FakeNode;
let spec: AttachmentSpec;

beforeEach(async () => {
  node = new FakeNode();
  await node.start();
  spec = node.spec(node.kernel.addNetns());
  await node.add(spec);
});
afterEach(() => node.destroy());

const device = () => {
  const last = node.devices.at(-1);
  if (last === undefined) throw new Error('no device');
  return last;
};
const link = () => {
  const [first] = node.kernel.links;
  if (first === undefined) throw new Error('no link');
  return first;
};

/** The pod does something, and the kernel says that something changed. */
async function inPod(change: Partial<PodLinkFilter>): Promise<void> {
  const { mac, ...filter } = change;
  node.kernel.change(link(), { ...(mac === undefined ? {} : { mac }), filter: { ...link().filter, ...filter } });
  for (const watch of node.kernel.watches) watch.onChange();
  await node.clock.advance(quietMs);
  await settle();
}

const own = (): PodLinkFilter => ({
  mac: spec.device.mac,
  mtu: 1500,
  promiscuous: false,
  allMulticast: false,
  unicast: [],
  multicast: [],
});
const sourceOf = (frame: Uint8Array): string => Buffer.from(frame.subarray(6, 12)).toString('hex');
const group = '33:33:00:00:00:01';

describe("the driver of a pod's device", () => {
  it('looks at the interface when the backend is there, not before', async () => {
    expect(node.kernel.watches.size).toBe(0);
    await node.connect();
    await settle();
    expect(node.kernel.watches.size).toBe(1);
    expect(device().commands).toEqual([
      { kind: 'mac', mac: spec.device.mac },
      { kind: 'rx-mode', mode: 'promiscuous', on: false },
    ]);
  });

  it('tells of promiscuous mode, of groups and of another address, which is announced', async () => {
    await node.connect();
    await settle();
    await node.clock.advance(1000);
    device().commands = [];
    await inPod({ promiscuous: true });
    await inPod({ promiscuous: false, multicast: [group] });
    const announced = node.port.injected.length;
    await inPod({ mac: '02:00:00:00:00:77' });
    expect(device().commands).toEqual([
      { kind: 'rx-mode', mode: 'promiscuous', on: true },
      { kind: 'mac-table', unicast: [], multicast: [group] },
      { kind: 'rx-mode', mode: 'promiscuous', on: false },
      { kind: 'mac', mac: '02:00:00:00:00:77' },
    ]);
    const frames = node.port.injected.slice(announced);
    expect(frames.length).toBeGreaterThan(0);
    for (const frame of frames) expect(sourceOf(frame)).toBe('020000000077');
  });

  it('announces the address that the pod has after every reconnect, not the one it was made with', async () => {
    let frontend = await node.connect();
    await settle();
    await inPod({ mac: '02:00:00:00:00:77' });
    for (let round = 0; round < 2; round += 1) {
      node.port.injected = [];
      frontend.hangUp();
      await settle();
      await settle();
      frontend = await node.connect();
      await node.clock.advance(500);
      // No more of them than the address needs: it has not changed.
      expect(node.port.injected.map(sourceOf)).toEqual(Array.from({ length: 6 }, () => '020000000077'));
    }
  });

  it('announces the address that the pod has after a restart of the agent, too', async () => {
    await node.connect();
    await inPod({ mac: '02:00:00:00:00:77' });
    await node.killAndRestart();
    await node.connect();
    expect(new Set(node.port.injected.map(sourceOf))).toEqual(new Set(['020000000077']));
  });

  it('tells of another MTU', async () => {
    await node.connect();
    await settle();
    node.kernel.change(link(), { mtu: 9000 });
    await inPod({});
    expect(device().mtu).toBe(9000);
  });

  it.each(['mtu', 'mac-table'] as const)(
    'announces another address though the device refuses the %s after it',
    async (kind) => {
      await node.connect();
      await settle();
      await node.clock.advance(1000);
      device().refuses = kind;
      const announced = node.port.injected.length;
      node.kernel.change(link(), { mtu: 9000 });
      await inPod({ mac: '02:00:00:00:00:77', multicast: [group] });
      expect(node.port.injected.length).toBe(announced + 2);
      await node.clock.advance(lookAgainMs);
      await settle();
      expect(node.port.injected.length).toBe(announced + 2);
    },
  );

  it('acknowledges the announcement when all of it is out', async () => {
    await node.connect();
    await settle();
    expect(device().commands).not.toContainEqual({ kind: 'announced' });
    await node.clock.advance(500);
    await settle();
    expect(device().commands.filter(({ kind }) => kind === 'announced')).toHaveLength(1);
  });

  it('tells the next connection everything anew', async () => {
    const first = await node.connect();
    await settle();
    await inPod({ allMulticast: true });
    first.hangUp();
    await settle();
    await settle();
    await node.connect();
    await settle();
    expect(device().commands).toEqual([
      { kind: 'rx-mode', mode: 'allMulticast', on: true },
      { kind: 'mac', mac: spec.device.mac },
      { kind: 'rx-mode', mode: 'promiscuous', on: false },
    ]);
    expect(node.kernel.watches.size).toBe(1);
  });

  it('looks again by itself for what no event tells', async () => {
    await node.connect();
    await settle();
    device().commands = [];
    node.kernel.change(link(), { filter: { multicast: [group] } });
    await node.clock.advance(lookAgainMs);
    await settle();
    expect(device().commands).toContainEqual({ kind: 'mac-table', unicast: [], multicast: [group] });
  });

  it('does not forget a change that comes while it tells of another', async () => {
    await node.connect();
    await settle();
    const control = device().control.bind(device());
    let changed = false;
    device().control = async (command) => {
      await control(command);
      if (changed) return;
      // Read already, and not told yet.
      changed = true;
      node.kernel.change(link(), { filter: { allMulticast: true, promiscuous: true } });
      for (const watch of node.kernel.watches) watch.onChange();
    };
    await inPod({ allMulticast: true });
    expect(changed).toBe(true);
    await node.clock.advance(quietMs);
    await settle();
    expect(device().commands).toContainEqual({ kind: 'rx-mode', mode: 'promiscuous', on: true });
  });

  it('is not driven by a pod that changes its links in a loop', async () => {
    await node.connect();
    await settle();
    await node.clock.advance(1000);
    device().commands = [];
    for (let change = 0; change < 50; change += 1) {
      node.kernel.change(link(), { filter: { promiscuous: change % 2 === 0 } });
      for (const watch of node.kernel.watches) watch.onChange();
      await settle();
    }
    expect(device().commands).toEqual([]);
    await node.clock.advance(quietMs);
    await settle();
    expect(device().commands.length).toBeLessThanOrEqual(1);
  });

  it('goes on after a refusal at its next look', async () => {
    device().refusal = new VirtioUserError('CONTROL_REFUSED', 'no');
    await node.connect();
    await settle();
    expect(device().commands).toEqual([]);
    device().refusal = null;
    await node.clock.advance(lookAgainMs);
    await settle();
    expect(device().commands).toContainEqual({ kind: 'rx-mode', mode: 'promiscuous', on: false });
  });

  it('lets the namespace go with the attachment', async () => {
    await node.connect();
    await settle();
    await node.del(spec);
    expect([node.kernel.watches.size, node.leftovers()]).toEqual([0, []]);
  });

  it('is not there without a control queue', async () => {
    const key = { ...spec.key, containerId: 'container-2' };
    const plain = node.spec(node.kernel.addNetns(), { key, device: { ...spec.device, cq: false } });
    await node.add(plain);
    await node.connect();
    await settle();
    expect([node.kernel.watches.size, device().commands]).toEqual([0, []]);
  });
});

describe('commands from one state of the interface to another', () => {
  it('are none when nothing has changed, whatever the order of its lists', () => {
    const two = { ...own(), multicast: ['33:33:00:00:00:01', '01:00:5e:00:00:01'] };
    expect(commandsFor(two, { ...two, multicast: two.multicast.toReversed() })).toEqual([]);
  });

  it('close what is open no longer, after what opens', () => {
    const all = { ...own(), allMulticast: true };
    expect(commandsFor(all, own())).toEqual([{ kind: 'rx-mode', mode: 'allMulticast', on: false }]);
    expect(commandsFor(all, { ...own(), multicast: [group] })).toEqual([
      { kind: 'mac-table', unicast: [], multicast: [group] },
      { kind: 'rx-mode', mode: 'allMulticast', on: false },
    ]);
  });

  it('turn tables that are too long into the modes that let them all in', () => {
    const many = Array.from({ length: macTableEntries }, (_, index) => {
      const hex = index.toString(16).padStart(4, '0');
      return `33:33:00:00:${hex.slice(0, 2)}:${hex.slice(2)}`;
    });
    expect(commandsFor(own(), { ...own(), multicast: many })).toEqual([
      { kind: 'rx-mode', mode: 'allMulticast', on: true },
    ]);
    expect(commandsFor(own(), { ...own(), unicast: many.map((mac) => mac.replace('33', '02')) })).toEqual([
      { kind: 'rx-mode', mode: 'promiscuous', on: true },
    ]);
  });
});
