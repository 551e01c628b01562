/** DPDK's backend is killed under load and comes back: one TCP connection of the pods goes through it all. */
import { afterEach, describe, expect, it } from '@jest/globals';
import { loadNative } from '../../src/native/load.ts';
import { Cleanup } from '../support/cleanup.ts';
import { ringFrames } from '../support/pod.ts';
import { until } from '../support/process.ts';
import { TestpmdWire } from '../support/testpmd-wire.ts';

const cleanup = new Cleanup();

afterEach(async () => {
  expect(await cleanup.run()).toEqual([]);
}, 60_000);

/** Goes on for seconds after the frames below. */
const tcpBytes = 384 << 20;
const killedAtFrames = 5_000n;

describe('testpmd killed under load', () => {
  it.each([
    ['split', { packed: false, mergeable: true, inOrder: false }],
    ['packed', { packed: true, mergeable: true, inOrder: true }],
  ])(
    '[F11] over %s rings: the same TCP stream arrives whole when it is back',
    async (_what, rings) => {
      const wire = await TestpmdWire.create(loadNative(), { pairs: 1, server: true, tso: false }, cleanup);
      const first = new Cleanup();
      const running = await wire.connect(rings, 256, first);
      let finished = false;
      const stream = wire.drive({ flows: 1, datagrams: 1, datagramBytes: 64, tcpBytes }, 90_000).finally(() => {
        finished = true;
      });
      stream.catch(() => undefined); // judged below
      await until('load', () => ringFrames(wire.pods[0].counters()).sent > killedAtFrames);

      await wire.testpmd.kill();
      expect(finished).toBe(false);
      for (const { lost } of running) expect(await lost).toMatchObject({ code: 'DISCONNECTED' });
      // A dead backend takes nothing back: the stop ends locally, and says so.
      const stopped = await first.run();
      expect(stopped).toHaveLength(2);
      for (const text of stopped) expect(text).toContain('stopped without the backend');

      await wire.restart(cleanup);
      const second = new Cleanup();
      for (const { ready } of await wire.connect(rings, 256, second)) expect(ready.degradedBy).toEqual([]);
      expect(await stream).toMatchObject({ tcpBytes });
      expect(await second.run()).toEqual([]);
    },
    120_000,
  );
});
