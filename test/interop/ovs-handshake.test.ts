/** The handshake with a real OVS-DPDK in both modes, to DRIVER_OK, and again after the switch was killed. */
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { ReadyDevice } from '../../src/device/api.ts';
import { createVirtioUserDevice } from '../../src/device/device.ts';
import type { Frontend } from '../../src/device/frontend.ts';
import { probeBackend } from '../../src/frontends/probe.ts';
import { createVhostUserSource } from '../../src/frontends/source.ts';
import { loadNative } from '../../src/native/load.ts';
import { silentLogger } from '../../src/telemetry/log.ts';
import { featureNames } from '../../src/virtio/feature.ts';
import { Cleanup } from '../support/cleanup.ts';
import { FakeDataPath } from '../support/fake-data-path.ts';
import { deviceOptions } from '../support/fake-session.ts';
import { Ovs } from '../support/ovs.ts';
import { until } from '../support/process.ts';

const cleanup = new Cleanup();
const native = loadNative();
const bridge = 'br-hs';
let directory = '';
let ovs: Ovs;

beforeAll(async () => {
  directory = mkdtempSync(join(tmpdir(), 'vu-hs-'));
  chmodSync(directory, 0o755);
  cleanup.add('directory', () => rmSync(directory, { recursive: true }));
  ovs = await Ovs.start(join(directory, 'ovs'), { tso: false, memoryMiB: 128 }, cleanup);
  await ovs.addBridge(bridge);
}, 60_000);

afterAll(async () => {
  expect(await cleanup.run()).toEqual([]);
}, 60_000);

interface Connected {
  readonly frontend: Frontend;
  readonly released: () => void;
}

/** Serves connections one by one, as the attachment does. */
function connections(name: string, server: boolean): () => Promise<Connected> {
  const source = createVhostUserSource({
    binding: native,
    path: { baseDirectory: server ? directory : ovs.directory, relativePath: name },
    server,
    mode: 0o660,
    groupId: null,
    logger: silentLogger,
  });
  cleanup.add(`source ${name}`, () => source.close());
  let arrive: (connected: Connected) => void = () => {};
  const queue = { next: new Promise<Connected>((resolve) => (arrive = resolve)) };
  source.open((frontend, released) => arrive({ frontend, released }));
  return async () => {
    const connected = await queue.next;
    queue.next = new Promise<Connected>((resolve) => (arrive = resolve));
    return connected;
  };
}

async function linkUp(port: string): Promise<void> {
  // OVS calls a vhost port up when DPDK has given it the device: after DRIVER_OK, with both rings enabled.
  await until(`link of ${port}`, async () => (await ovs.vsctl('get', 'Interface', port, 'link_state')).trim() === 'up');
}

function expectAgreed(ready: ReadyDevice): void {
  expect(featureNames(ready.ackedFeatures)).toEqual(expect.arrayContaining(['MRG_RXBUF', 'VERSION_1']));
  expect(ready.protocolFeatures).toEqual(['MQ', 'REPLY_ACK', 'MTU', 'BACKEND_REQ', 'STATUS']);
}

describe('OVS-DPDK', () => {
  it('[39] [69] as client (dpdkvhostuserclient) comes up, and comes back after SIGKILL', async () => {
    const name = 'hs-client';
    const socket = join(directory, `${name}.sock`);
    const next = connections(`${name}.sock`, true);
    await ovs.vsctl(
      ...['add-port', bridge, name, '--', 'set', 'Interface', name],
      ...['type=dpdkvhostuserclient', `options:vhost-server-path=${socket}`, 'mtu_request=1500'],
    );
    const device = createVirtioUserDevice(
      deviceOptions(),
      (options) => native.createSession(options),
      new FakeDataPath(),
    );
    const first = await next();
    const lost = new Promise<Error>((resolve) => {
      first.frontend.onDisconnect = resolve;
    });
    expectAgreed(await device.bringUp(first.frontend));
    expect(first.frontend.backendPid).toBe(ovs.switchPid);
    await linkUp(name);

    await ovs.killSwitch();
    expect(await lost).toMatchObject({ code: 'DISCONNECTED' });
    await device.shutDown();
    first.released();
    await ovs.startSwitch();
    const second = await next();
    const ready = await device.bringUp(second.frontend);
    expectAgreed(ready);
    expect(ready.degradedBy).toEqual([]);
    await linkUp(name);
    expect(await device.shutDown()).toEqual([]);
  }, 60_000);

  it('[39] as server (dpdkvhostuser) answers the probe and comes up with two pairs', async () => {
    const name = 'hs-server';
    await ovs.vsctl('add-port', bridge, name, '--', 'set', 'Interface', name, 'type=dpdkvhostuser');
    const report = await probeBackend(join(ovs.directory, name), native);
    expect(report.featureNames).toEqual(expect.arrayContaining(['VERSION_1', 'MQ', 'PROTOCOL_FEATURES']));
    expect(report.queuePairs).toBeGreaterThanOrEqual(2);

    const next = connections(name, false);
    const device = createVirtioUserDevice(
      deviceOptions({ queues: 2 }),
      (options) => native.createSession(options),
      new FakeDataPath(),
    );
    const { frontend, released } = await next();
    const ready = await device.bringUp(frontend);
    expectAgreed(ready);
    expect([ready.queuePairs, featureNames(ready.ackedFeatures).includes('MQ')]).toEqual([2, true]);
    await linkUp(name);
    expect(await device.shutDown()).toEqual([]);
    released();
  }, 60_000);
});
