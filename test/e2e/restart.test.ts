import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Ping } from '../support/ping.ts';
import { until } from '../support/process.ts';
import { TcpTransfer } from '../support/tcp-transfer.ts';
import { bridge, type Pod, World } from '../support/world.ts';

let world: World;
let one: Pod;
let two: Pod;
let port = 7300;

beforeAll(async () => {
  world = await World.create({ tag: 'restart' });
  one = await world.addPod();
  two = await world.addPod();
  await Promise.all([one, two].map((pod) => pod.netns.waitForCarrier()));
}, 60_000);
afterAll(() => world.close(), 60_000);

/** A transfer runs, `disaster` strikes after a second, the same connection must finish intact. */
async function survives(disaster: () => Promise<void>): Promise<void> {
  const load = { port: port++, mebibytes: 160, mebibytesPerSecond: 40 };
  const transfer = await TcpTransfer.start(one.netns, two.netns, two.ipv4, load, world.directory, world.cleanup);
  const ping = Ping.start(one.netns, two.ipv4, 10, world.directory, world.cleanup);
  await disaster();
  const { sent, received } = await transfer.finish(60_000);
  expect(received.sha256).toBe(sent.sha256);
  expect(received.bytes).toBe(160 << 20);
  const gap = await ping.stop();
  expect(gap.received).toBeGreaterThan(100);
}

describe('an established TCP connection', () => {
  it('[66] survives SIGKILL of the agent; interface index, MAC and addresses stay', async () => {
    const look = async (): Promise<unknown> => JSON.parse(await one.netns.run('ip', '-j', 'addr', 'show', 'eth0'));
    const before = (await look()) as { ifindex: number; address: string; addr_info: { local: string }[] }[];
    await survives(async () => {
      await world.agent.kill();
      await world.agent.start();
    });
    const after = (await look()) as typeof before;
    expect(after[0]?.ifindex).toBe(before[0]?.ifindex);
    expect(after[0]?.address).toBe(before[0]?.address);
    expect(after[0]?.addr_info.map((info) => info.local)).toEqual(before[0]?.addr_info.map((info) => info.local));
  }, 90_000);

  it('survives SIGTERM of the agent and a new process', async () => {
    await survives(async () => {
      await world.agent.stop();
      await world.agent.start();
    });
  }, 90_000);

  // Its socket stays open: nothing but its silence says that it is not there.
  it('[F13] survives a switch that is stopped for longer than its silence is taken, and goes on', async () => {
    await survives(async () => {
      process.kill(world.ovs.switchPid, 'SIGSTOP');
      try {
        await until('the loss', async () => (await world.agent.cli('attachments', 'list')).includes('held'), 40_000);
      } finally {
        process.kill(world.ovs.switchPid, 'SIGCONT');
      }
    });
  }, 120_000);

  it('[69] [F11] survives SIGKILL of the switch with no operator action', async () => {
    await survives(async () => {
      await world.ovs.killSwitch();
      await world.ovs.startSwitch();
    });
  }, 90_000);
});

describe('while the switch is away', () => {
  it('[67] carrier goes off after the hold time and comes back with the switch; ADD, CHECK and DEL work', async () => {
    await world.ovs.killSwitch();
    await one.netns.waitForCarrier(false);
    expect((await world.agent.runtime.check(one.netconf, one.call, one.result)).ok).toBe(true);
    const third = await world.addPod();
    expect(await third.netns.carrier()).toBe(false);
    await world.agent.runtime.del(third.netconf, third.call, third.result);
    const fourth = await world.addPod();
    await world.ovs.startSwitch();
    await Promise.all([one, two, fourth].map((pod) => pod.netns.waitForCarrier()));
    expect(await fourth.netns.run('ping', '-n', '-c', '2', '-i', '0.2', '-W', '5', one.ipv4)).toContain(
      ' 0% packet loss',
    );
    await world.agent.runtime.del(fourth.netconf, fourth.call);
    expect((await world.ovs.ports(bridge)).length).toBe(2);
  }, 60_000);

  it('the agent is alive and ready: a restart would not bring the switch back', async () => {
    const answers = async (): Promise<readonly (readonly [string, boolean | undefined])[]> =>
      Promise.all(['/livez', '/readyz'].map(async (path) => [path, (await world.agent.get(path))?.ok] as const));
    await world.ovs.killSwitch();
    try {
      await until('the loss', async () => (await world.agent.cli('attachments', 'list')).includes('held'));
      await one.netns.waitForCarrier(false);
      expect(await answers()).toEqual([
        ['/livez', true],
        ['/readyz', true],
      ]);
    } finally {
      await world.ovs.startSwitch();
    }
  }, 60_000);

  // Resumed, it finds the end of the connection and the removal of the port together, over which OVS hangs for good.
  it('stopped, not dead: a DEL leaves it its port until it has gone on, and it lives', async () => {
    const pod = await world.addPod();
    await pod.netns.waitForCarrier();
    const before = await world.ovs.ports(bridge);
    process.kill(world.ovs.switchPid, 'SIGSTOP');
    try {
      await world.agent.runtime.del(pod.netconf, pod.call, pod.result);
      expect(await world.ovs.ports(bridge)).toEqual(before);
    } finally {
      process.kill(world.ovs.switchPid, 'SIGCONT');
    }
    let answered = false;
    void world.ovs.appctl('version').then(() => (answered = true));
    await until('an answer of the switch', () => answered, 10_000);
    await until('the removal', async () => (await world.ovs.ports(bridge)).length === before.length - 1, 40_000);
    // Returns when the switch has followed.
    await world.ovs.vsctl('--timeout=10', 'set', 'bridge', bridge, 'external_ids:followed=yes');
    await until('the record', () => world.records().length === before.length - 1);
    await Promise.all([one, two].map((left) => left.netns.waitForCarrier()));
  }, 90_000);

  it('the agent counts the outage', async () => {
    await until('the metric', async () =>
      /virtio_user_backend_disconnects_total\{[^}]*\} [1-9]/.test((await world.agent.get('/metrics'))?.body ?? ''),
    );
  });
});
