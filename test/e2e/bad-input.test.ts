/** What bad input gets: a typed error, nothing created, nothing lost; a bystander's ping at 10 ms loses nothing. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Ping } from '../support/ping.ts';
import { run } from '../support/process.ts';
import { rudeBackend, rudenesses } from '../support/rude-backend.ts';
import { rudePluginNames, writeRudePlugins } from '../support/rude-plugin.ts';
import { type CniOutcome, executablePath, type Netconf, newContainerId } from '../support/runtime.ts';
import { snapshotDifference, takeSnapshot } from '../support/snapshot.ts';
import { bridge, type Pod, World } from '../support/world.ts';

let world: World;
let bystanders: readonly [Pod, Pod];
let outside: string;

beforeAll(async () => {
  world = await World.create({ tag: 'bad' });
  outside = join(world.directory, 'outside');
  mkdirSync(outside);
  bystanders = [await world.addPod(), await world.addPod()];
  await Promise.all(bystanders.map((pod) => world.waitForCarrier(pod.netns, true)));
}, 60_000);
afterAll(() => world.close(), 60_000);

/** Runs `work` while the bystanders ping; asserts that nobody but the caller noticed. */
async function unnoticed<T>(work: () => Promise<T>): Promise<T> {
  const scope = {
    ovs: world.ovs,
    bridge,
    directories: {
      sockets: join(world.agent.runDir, 'vhost'),
      records: world.agent.stateDir,
      leases: join(world.directory, 'ipam'),
    },
    ignore: /\/(lock|last_reserved_ip\.\d+)$/,
  };
  const pid = world.agent.pid;
  const before = await takeSnapshot(scope);
  const ping = Ping.start(bystanders[0].netns, bystanders[1].ipv4, 10, world.directory, world.cleanup);
  await ping.answered();
  try {
    return await work();
  } finally {
    const { received, lost } = await ping.stop();
    expect(received).toBeGreaterThan(0);
    expect(lost).toBe(0);
    expect(world.agent.alive).toBe(true);
    expect(world.agent.pid).toBe(pid);
    expect(snapshotDifference(before, await takeSnapshot(scope))).toEqual([]);
  }
}

async function addFails(
  netconf: Netconf,
  overrides: Readonly<Record<string, string | undefined>> = {},
): Promise<CniOutcome> {
  const netns = await world.netns();
  const call = { containerId: newContainerId(), netnsPath: netns.path };
  try {
    const outcome = await world.agent.runtime.call('ADD', netconf, call, {}, overrides);
    expect(await world.links(netns)).toEqual([]);
    return outcome;
  } finally {
    await netns.delete();
  }
}

function expectError(outcome: CniOutcome, code: number, ...texts: readonly string[]): void {
  expect(outcome).toMatchObject({ ok: false, error: { code } });
  if (outcome.ok) return;
  for (const text of texts) expect(`${outcome.error.msg} ${outcome.error.details}`).toContain(text);
  expect(outcome.error.msg.length).toBeLessThanOrEqual(1024);
  expect(outcome.error.msg).not.toContain('\n');
}

describe('a netconf', () => {
  const wrong: readonly (readonly [string, Readonly<Record<string, unknown>>, readonly string[]])[] = [
    ['an unknown key in device', { device: { queueSizes: 256 } }, ['device', 'queueSizes']],
    ['a queue size that is no power of two', { device: { queueSize: 1000 } }, ['queueSize', '1000']],
    ['a queue count of 0', { device: { queues: 0 } }, ['queues', '0']],
    ['a queue count that is text', { device: { queues: '2' } }, ['queues', '2']],
    ['a multicast MAC', { device: { mac: '01:00:5e:00:00:01' } }, ['mac', '01:00:5e:00:00:01']],
    ['an MTU of 10', { device: { mtu: 10 } }, ['mtu', '10']],
    ['a backend of a later version', { backend: { type: 'vhost-kernel' } }, ['vhost-kernel', 'not in this version']],
    ['a vhost-user pod', { pod: { interface: 'vhost-user' } }, ['not in this version']],
    ['a VLAN of 5000', { ovs: { bridge, vlan: 5000 } }, ['vlan', '5000']],
    ['a wait that is neither', { backend: { wait: 'maybe' } }, ['wait', 'maybe', 'optional']],
    ['a path outside the allowed directories', { backend: { path: '/etc/passwd' } }, ['/etc/passwd']],
    ['a path that climbs', { backend: { path: '/run/openvswitch/../../etc/x.sock' } }, ['path']],
  ];
  it.each(wrong)('with %s is refused with code 2, naming it', async (_title, extra, texts) => {
    const outcome = await unnoticed(() => addFails(world.netconf(extra)));
    expectError(outcome, 2, ...texts);
  });

  it('with a socket path of 108 bytes is refused', async () => {
    const path = join(world.agent.runDir, 'vhost', 'x'.repeat(120));
    expectError(await unnoticed(() => addFails(world.netconf({ backend: { path } }))), 104, '108');
  });

  it('without a name, of a foreign version, or that is no JSON gets 7, 1 and 6', async () => {
    await unnoticed(async () => {
      expectError(await addFails({ ...world.netconf(), name: '' }), 7, 'name');
      expectError(await addFails(world.netconf({}, '9.9.9')), 1, '9.9.9');
      const child = spawn(executablePath, [], {
        env: {
          ...world.agent.environment,
          CNI_COMMAND: 'STATUS',
          CNI_PATH: '/usr/lib/cni',
        },
      });
      child.stdin.end('{"cniVersion":"1.1.0", oops');
      let stdout = '';
      child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
      await once(child, 'close');
      expect(JSON.parse(stdout)).toMatchObject({ code: 6 });
    });
  });

  it('naming a bridge that is not there is refused, naming it', async () => {
    const outcome = await unnoticed(() => addFails(world.netconf({ ovs: { bridge: 'br-nowhere' } })));
    expect(outcome.ok).toBe(false);
    if (!outcome.ok) expect(outcome.error.msg).toContain('br-nowhere');
  });
});

describe('the call itself', () => {
  it.each([
    ['CNI_CONTAINERID', undefined],
    ['CNI_CONTAINERID', '../x'],
    ['CNI_IFNAME', undefined],
    ['CNI_IFNAME', 'a-name-of-sixteen'],
    ['CNI_IFNAME', 'eth 0'],
    ['CNI_NETNS', undefined],
    ['CNI_ARGS', 'no equals sign'],
  ])('with %s = %s gets code 4 naming it', async (name, value) => {
    expectError(await unnoticed(() => addFails(world.netconf(), { [name]: value })), 4, name);
  });

  it('with a namespace that is a regular file, is missing, or is the host’s own gets code 8', async () => {
    const file = join(world.directory, 'no-netns');
    writeFileSync(file, '');
    for (const path of [file, '/var/run/netns/vu-absent', '/proc/1/ns/net', '/proc/self/ns/mnt']) {
      expectError(await unnoticed(() => addFails(world.netconf(), { CNI_NETNS: path })), 8);
    }
  });

  it('with 100 MB on stdin gets code 6', async () => {
    await unnoticed(async () => {
      const child = spawn(executablePath, [], {
        env: { ...world.agent.environment, CNI_COMMAND: 'STATUS', CNI_PATH: '/usr/lib/cni' },
      });
      child.stdin.on('error', () => undefined);
      child.stdin.end(Buffer.alloc(100_000_000, 0x20));
      let stdout = '';
      child.stdout.on('data', (chunk: Buffer) => (stdout += chunk.toString()));
      await once(child, 'close');
      expect(JSON.parse(stdout)).toMatchObject({ code: 6 });
    });
  });
});

describe('an IPAM plugin', () => {
  it.each(rudePluginNames)(
    '%s: ADD fails and leaves nothing',
    async (type) => {
      const path = `${writeRudePlugins(join(world.directory, 'rude'))}:/usr/lib/cni`;
      const outcome = await unnoticed(() => addFails(world.netconf({ ipam: { type } }), { CNI_PATH: path }));
      expect(outcome.ok).toBe(false);
      if (!outcome.ok) expect(outcome.error.msg).toContain(type);
    },
    90_000,
  );

  it('that does not exist is named', async () => {
    const outcome = await unnoticed(() => addFails(world.netconf({ ipam: { type: 'no-such-ipam' } })));
    expect(outcome.ok).toBe(false);
    if (!outcome.ok) expect(outcome.error.msg).toContain('no-such-ipam');
  });
});

describe('a backend in client mode', () => {
  it.each(rudenesses)('that %s: a required ADD fails with 11 and leaves nothing', async (rudeness) => {
    const name = `rude-${rudeness.replaceAll(' ', '-')}.sock`;
    const path = join(world.agent.runDir, 'vhost', name);
    await rudeBackend(path, rudeness, world.cleanup);
    const backend = { path, server: false, wait: 'required', waitTimeoutMs: 1500 };
    const { ovs: _ovs, ...netconf } = world.netconf({ backend });
    const outcome = await unnoticed(() => addFails(netconf as Netconf));
    expectError(outcome, 11, path);
  });

  it('reached through a symbolic link is refused', async () => {
    const path = join(world.agent.runDir, 'vhost', 'link.sock');
    await rudeBackend(join(outside, 'real.sock'), 'never answers', world.cleanup);
    symlinkSync(join(outside, 'real.sock'), path);
    const backend = { path, server: false, wait: 'required', waitTimeoutMs: 1000 };
    const { ovs: _ovs, ...netconf } = world.netconf({ backend });
    const outcome = await unnoticed(() => addFails(netconf as Netconf));
    expect(outcome.ok).toBe(false);
    if (!outcome.ok) expect(outcome.error.msg).toContain('link.sock');
  });

  it('whose socket somebody else already serves is not taken over in server mode', async () => {
    const path = join(world.agent.runDir, 'vhost', 'taken.sock');
    await rudeBackend(path, 'never answers', world.cleanup);
    const { ovs: _ovs, ...netconf } = world.netconf({ backend: { path } });
    const outcome = await unnoticed(() => addFails(netconf as Netconf));
    expect(outcome.ok).toBe(false);
    if (!outcome.ok) expect(outcome.error.msg).toContain('taken.sock');
  });
});

describe('a full disk', () => {
  it('fails ADD with code 5 and costs nobody else anything', async () => {
    const stateDir = join(world.directory, 'small-state');
    mkdirSync(stateDir);
    await run('mount', ['-t', 'tmpfs', '-o', 'size=256k', 'tmpfs', stateDir]);
    let small: World | null = null;
    try {
      small = await World.create({ tag: 'full', ovs: null, agent: { stateDir } });
      const first = await small.addPod();
      await run('sh', ['-c', `head -c 1000000 /dev/zero > ${join(stateDir, 'filler')} || true`]);
      const netns = await small.netns();
      const outcome = await small.agent.runtime.call('ADD', small.netconf(), {
        containerId: newContainerId(),
        netnsPath: netns.path,
      });
      expectError(outcome, 5);
      expect(await small.links(netns)).toEqual([]);
      expect(await small.links(first.netns)).toEqual(['eth0']);
      expect(small.leases()).toHaveLength(2);
      expect(small.vhostSockets()).toHaveLength(1);
      await run('rm', [join(stateDir, 'filler')]);
    } finally {
      await small?.close();
      await run('umount', [stateDir]);
    }
  }, 60_000);
});

describe('a DEL after an ADD that could never work', () => {
  it('succeeds, so that the pod is tried again', async () => {
    const netns = await world.netns();
    const call = { containerId: newContainerId(), netnsPath: netns.path };
    const netconf = world.netconf({ ipam: { type: 'no-such-ipam' } });
    await unnoticed(async () => {
      expect((await world.agent.runtime.call('ADD', netconf, call)).ok).toBe(false);
      await world.agent.runtime.del(netconf, call);
    });
    await netns.delete();
  });
});
