/**
 * Commands of the control queue and the frames that reach the pod then: device, session, port and TAP for real, a backend
 * that sends through the session's memory. Needs root.
 */
import { afterAll, afterEach, describe, expect, it } from '@jest/globals';
import { createVirtioUserDevice } from '../../src/device/device.ts';
import { loadNative } from '../../src/native/load.ts';
import type { Control } from '../../src/virtio/control.ts';
import { featureMask } from '../../src/virtio/feature.ts';
import { Cleanup } from '../support/cleanup.ts';
import { FakeFrontend } from '../support/fake-frontend.ts';
import { deviceOptions } from '../support/fake-session.ts';
import { MemoryBackend } from '../support/memory-backend.ts';
import { Netns } from '../support/netns.ts';
import { until } from '../support/process.ts';

const native = loadNative();
const cleanup = new Cleanup();
afterEach(async () => {
  expect(await cleanup.run()).toEqual([]);
});
afterAll(() => native.shutdown());

const own = '02:00:00:00:00:01';
const stranger = '02:00:00:00:00:09';
const group = '33:33:00:00:00:01';
const otherGroup = '33:33:00:00:00:02';
const everyone = 'ff:ff:ff:ff:ff:ff';
const vlan = 5;

/** Of a type that no protocol of the pod reads. */
function frameTo(destination: string, vlanId: number | null = null): Buffer {
  const tag = vlanId === null ? '' : `8100${vlanId.toString(16).padStart(4, '0')}`;
  const head = `${destination}:02:00:00:00:00:ee`.replaceAll(':', '');
  return Buffer.concat([Buffer.from(`${head}${tag}88b5`, 'hex'), Buffer.alloc(46)]);
}

async function start() {
  const pod = await Netns.create(`vu-filter-${process.pid}`, cleanup);
  const netns = native.openNetns(pod.path);
  const tap = await native.openTap(netns, {
    name: 'eth0',
    queues: 1,
    headerBytes: 12,
    adoptIfindex: null,
    mac: own,
    mtu: 1500,
    txQueueLength: 1000,
    gsoMaxBytes: 65_536,
  });
  await native.setupPodLink(netns, { ifindex: tap.ifindex, addresses: [], routes: [] });
  netns.close();
  const pump = native.createPump({ name: 'vu-test', spinUs: 0 });
  cleanup.add('pump', () => pump.close());
  const port = native.createPort({ taps: tap.queues, pumps: [pump], onEvent: () => undefined });
  cleanup.add('port', () => port.close());
  const options = deviceOptions({ queueSize: 64, mac: own });
  const device = createVirtioUserDevice(options, (wanted) => native.createSession(wanted), port);
  const backend = await MemoryBackend.of(async () => {
    const { session, activePairs } = await device.bringUp(new FakeFrontend({ features: featureMask(15, 32) }));
    cleanup.add('device', async () => {
      await port.quiesce();
      await device.shutDown();
    });
    port.setCarrier(true);
    await port.start(session, { softwareGso: false, softwareChecksum: false, softwareGro: false, activePairs });
    return session;
  }, cleanup);

  const received = async (): Promise<number> => {
    const links = JSON.parse(await pod.run('ip', '-j', '-s', 'link', 'show', 'eth0')) as readonly [
      { readonly stats64: { readonly rx: { readonly packets: number } } },
    ];
    return links[0].stats64.rx.packets;
  };
  /** Whether the pod has got the frame. */
  const reaches = async (frame: Buffer): Promise<boolean> => {
    const settled = (): bigint => {
      const { rxFrames, events } = port.counters();
      return rxFrames + (events['rx_filtered'] ?? 0n);
    };
    const before = { settled: settled(), received: await received() };
    backend.send(frame);
    await until('the frame', () => settled() > before.settled);
    return (await received()) > before.received;
  };
  const tell = async (...commands: readonly Control[]): Promise<void> => {
    for (const command of commands) await device.control(command);
  };
  return { reaches, tell };
}

const notPromiscuous: Control = { kind: 'rx-mode', mode: 'promiscuous', on: false };
const mode = (
  name: 'allMulticast' | 'allUnicast' | 'noMulticast' | 'noUnicast' | 'noBroadcast',
  on: boolean,
): Control => ({
  kind: 'rx-mode',
  mode: name,
  on,
});
const table = (unicast: readonly string[], multicast: readonly string[]): Control => ({
  kind: 'mac-table',
  unicast,
  multicast,
});
const pass = (id: number, passes: boolean): Control => ({ kind: 'vlan', id, pass: passes });

describe('a command of the control queue', () => {
  it.each<[what: string, frame: Buffer, first: readonly Control[], command: Control, reachesNow: boolean]>([
    ['promiscuous off', frameTo(stranger), [], notPromiscuous, false],
    ['promiscuous on', frameTo(stranger), [notPromiscuous], { ...notPromiscuous, on: true }, true],
    ['all multicast on', frameTo(group), [notPromiscuous], mode('allMulticast', true), true],
    [
      'all multicast off',
      frameTo(group),
      [notPromiscuous, mode('allMulticast', true)],
      mode('allMulticast', false),
      false,
    ],
    ['all unicast on', frameTo(stranger), [notPromiscuous], mode('allUnicast', true), true],
    [
      'all unicast off',
      frameTo(stranger),
      [notPromiscuous, mode('allUnicast', true)],
      mode('allUnicast', false),
      false,
    ],
    ['no multicast on', frameTo(group), [notPromiscuous, table([], [group])], mode('noMulticast', true), false],
    ['no unicast on', frameTo(own), [notPromiscuous], mode('noUnicast', true), false],
    ['no broadcast on', frameTo(everyone), [notPromiscuous], mode('noBroadcast', true), false],
    [
      'no broadcast off',
      frameTo(everyone),
      [notPromiscuous, mode('noBroadcast', true)],
      mode('noBroadcast', false),
      true,
    ],
    ['a table with the address', frameTo(stranger), [notPromiscuous], table([stranger], []), true],
    ['a table without the address', frameTo(stranger), [notPromiscuous, table([stranger], [])], table([], []), false],
    ['a table with the group', frameTo(group), [notPromiscuous], table([], [otherGroup, group]), true],
    ['a table without the group', frameTo(group), [notPromiscuous, table([], [group])], table([], [otherGroup]), false],
    ['another address', frameTo(own), [notPromiscuous], { kind: 'mac', mac: stranger }, false],
    ['the address of the frame', frameTo(stranger), [notPromiscuous], { kind: 'mac', mac: stranger }, true],
    ['another VLAN added', frameTo(own, vlan), [notPromiscuous], pass(vlan + 1, true), false],
    ['the VLAN added', frameTo(own, vlan), [notPromiscuous, pass(vlan + 1, true)], pass(vlan, true), true],
    ['the VLAN removed', frameTo(own, vlan), [notPromiscuous, pass(vlan, true)], pass(vlan, false), false],
  ])('%s changes whether a frame reaches the pod', async (_what, frame, first, command, reachesNow) => {
    const { reaches, tell } = await start();
    await tell(...first);
    expect(await reaches(frame)).toBe(!reachesNow);
    await tell(command);
    expect(await reaches(frame)).toBe(reachesNow);
  });
});
