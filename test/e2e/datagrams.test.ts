/** Bursts of small datagrams: the agent gives the pod several in one frame, and each reaches its socket by itself. */
import { readFileSync } from 'node:fs';
import { release } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import type { AttachmentReport } from '../../src/agent/introspect.ts';
import type { Driven } from '../support/burst.ts';
import { until } from '../support/process.ts';
import { type Pod, World } from '../support/world.ts';

const script = join(import.meta.dirname, '../support/burst.ts');
const [major = 0, minor = 0] = release().split('.').map(Number);
/** As the addon decides it (datagram_runs.h). */
const kernelTakesThem = major > 6 || (major === 6 && minor >= 9);

let world: World;
let one: Pod;
let two: Pod;

beforeAll(async () => {
  world = await World.create({ tag: 'dg' });
  one = await world.addPod();
  two = await world.addPod();
  await Promise.all([one, two].map((pod) => pod.netns.waitForCarrier()));
  const log = join(world.directory, 'bursts.log');
  const server = two.netns.daemon('bursts', log, process.execPath, script, 'serve', '7400');
  world.cleanup.add('bursts', () => server.stop('SIGKILL'));
  await until('the server', () => readFileSync(log, 'utf8').includes('listening'));
}, 60_000);
afterAll(() => world.close(), 60_000);

async function mergedFrames(pod: Pod): Promise<number> {
  const shown = await world.agent.cli('attachments', 'show', pod.result.interfaces[1]?.name ?? '', '-o', 'json');
  return Number((JSON.parse(shown) as AttachmentReport).counters?.events['gro_merged']);
}

describe('bursts of datagrams', () => {
  it.each(['ipv4', 'ipv6'] as const)(
    'arrive over %s as they were sent, many merged on their way',
    async (family) => {
      const before = await mergedFrames(two);
      expect(before).not.toBeNaN();
      const printed = await one.netns.run(process.execPath, script, 'drive', two[family], '7400', '200');
      const { bursts, datagrams } = JSON.parse(printed) as Driven;
      expect(bursts).toBe(200);
      expect(datagrams).toBeGreaterThan(2000);
      if (kernelTakesThem) expect(await mergedFrames(two)).toBeGreaterThan(before);
      else expect(await mergedFrames(two)).toBe(before);
    },
    60_000,
  );
});
