/** The handshake with DPDK's net_vhost (dpdk-testpmd) in both modes, to DRIVER_OK, and again after it was killed. */
import { chmodSync, mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { ReadyDevice } from '../../src/device/api.ts';
import { createVirtioUserDevice } from '../../src/device/device.ts';
import { probeBackend } from '../../src/frontends/probe.ts';
import { loadNative } from '../../src/native/load.ts';
import { featureNames } from '../../src/virtio/feature.ts';
import { Cleanup } from '../support/cleanup.ts';
import { FakeDataPath } from '../support/fake-data-path.ts';
import { deviceOptions } from '../support/fake-session.ts';
import { Connections } from '../support/pod.ts';
import { until } from '../support/process.ts';
import { RecordingLogger } from '../support/recording-logger.ts';
import { Testpmd, type VhostPort } from '../support/testpmd.ts';

const cleanup = new Cleanup();
const native = loadNative();
let directory = '';

beforeAll(() => {
  directory = mkdtempSync(join(tmpdir(), 'vu-pmd-'));
  chmodSync(directory, 0o755);
  cleanup.add('directory', () => rmSync(directory, { recursive: true }));
});

afterAll(async () => {
  expect(await cleanup.run()).toEqual([]);
}, 30_000);

function expectAgreed(ready: ReadyDevice, tso: boolean): void {
  const names = featureNames(ready.ackedFeatures);
  expect(names).toEqual(expect.arrayContaining(['CSUM', 'GUEST_CSUM', 'MRG_RXBUF', 'EVENT_IDX', 'VERSION_1']));
  expect([names.includes('HOST_TSO4'), names.includes('HOST_TSO6')]).toEqual([tso, tso]);
  expect(ready.protocolFeatures).toEqual(['MQ', 'REPLY_ACK', 'MTU', 'BACKEND_REQ', 'STATUS']);
}

const modes = [
  { ours: 'server', server: true, tso: false },
  { ours: 'client', server: false, tso: true },
] as const;

describe('dpdk-testpmd net_vhost', () => {
  it.each(modes)(
    '[39] [42] reaches DRIVER_OK with us as $ours, takes a back channel, and again after its SIGKILL',
    async ({ ours, server, tso }) => {
      const name = `hs-${ours}.sock`;
      const port: VhostPort = { path: join(directory, name), queues: 2, client: server, tso };
      const logger = new RecordingLogger();
      const place = { baseDirectory: directory, relativePath: name };
      const connections = new Connections(native, place, server, cleanup, logger);
      const device = createVirtioUserDevice(
        deviceOptions({ queues: 2 }),
        (options) => native.createSession(options),
        new FakeDataPath(),
      );

      const first = await Testpmd.start({ ports: [port], forward: 'io' }, cleanup);
      const before = await connections.next();
      const lost = new Promise<Error>((resolve) => {
        before.frontend.onDisconnect = resolve;
      });
      const ready = await device.bringUp(before.frontend);
      expectAgreed(ready, tso);
      expect([ready.queuePairs, before.frontend.backendPid]).toEqual([2, first.pid]);
      // DPDK calls the port up when it has seen DRIVER_OK, with rings started and enabled.
      await until('link of the port', () => first.linkUp(0));

      await first.kill();
      expect(await lost).toMatchObject({ code: 'DISCONNECTED' });
      await device.shutDown();
      before.released();

      const second = await Testpmd.start({ ports: [port], forward: 'io' }, cleanup);
      const after = await connections.next();
      const again = await device.bringUp(after.frontend);
      expectAgreed(again, tso);
      expect(again.degradedBy).toEqual([]);
      await until('link of the port', () => second.linkUp(0));

      // [46] every ring is taken back without an anomaly, and the port goes down.
      expect(await device.shutDown()).toEqual([]);
      after.released();
      await until('end of the link', async () => !(await second.linkUp(0)));
      await second.quit();
      // DPDK acknowledged SET_BACKEND_REQ_FD, and said nothing on it that we refuse. It may close it with the connection.
      const told = logger.lines.filter(({ level }) => level !== 'debug').map(({ message }) => message);
      expect(told.filter((message) => /back channel|refused/.test(message))).toEqual([]);
    },
    60_000,
  );

  it('[25] answers GET_QUEUE_NUM in pairs: the ceiling of the protocol, whatever the port was given', async () => {
    const path = join(directory, 'probe.sock');
    const testpmd = await Testpmd.start(
      { ports: [{ path, queues: 2, client: false, tso: false }], forward: 'io' },
      cleanup,
    );
    const report = await probeBackend(path, native);
    expect(report.queuePairs).toBe(128);
    expect(report.featureNames).toEqual(expect.arrayContaining(['VERSION_1', 'MQ', 'RING_PACKED', 'IN_ORDER']));
    await testpmd.quit();
  }, 30_000);
});
