/** What bad input gets: a typed error, nothing created, nothing lost; a bystander's ping at 10 ms loses nothing. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, readdirSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { Ping } from '../support/ping.ts';
import { run, runAny, until } from '../support/process.ts';
import { deadSocket, rudeBackend, RudeCaller, rudenesses } from '../support/rude-backend.ts';
import { rudePluginNames, writeRudePlugins } from '../support/rude-plugin.ts';
import type { Netns } from '../support/netns.ts';
import { type CniOutcome, executablePath, type Netconf, newContainerId } from '../support/runtime.ts';
import { snapshotDifference, takeSnapshot } from '../support/snapshot.ts';
import { bridge, type Pod, World } from '../support/world.ts';

let world: World;
let bystanders: readonly [Pod, Pod];
let outside: string;
/** A file system of its own, so that it can be full. */
const stateDir = mkdtempSync('/run/vu-bad-state-');

beforeAll(async () => {
  await run('mount', ['-t', 'tmpfs', '-o', 'size=1m', 'tmpfs', stateDir]);
  world = await World.create({ tag: 'bad', agent: { stateDir } });
  outside = join(world.directory, 'outside');
  mkdirSync(outside);
  bystanders = [await world.addPod(), await world.addPod()];
  await Promise.all(bystanders.map((pod) => pod.netns.waitForCarrier()));
}, 60_000);
afterAll(async () => {
  try {
    await world.close();
  } finally {
    await run('umount', [stateDir]);
    rmSync(stateDir, { recursive: true });
  }
}, 60_000);

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

  it('with a socket path of 108 bytes is refused with code 104', async () => {
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

  it('naming a bridge that is not there is refused with code 108, naming it', async () => {
    const outcome = await unnoticed(() => addFails(world.netconf({ ovs: { bridge: 'br-nowhere' } })));
    expectError(outcome, 108, 'br-nowhere');
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
    '%s: ADD fails with code 110 and leaves nothing',
    async (type) => {
      const path = `${writeRudePlugins(join(world.directory, 'rude'))}:/usr/lib/cni`;
      const outcome = await unnoticed(() => addFails(world.netconf({ ipam: { type } }), { CNI_PATH: path }));
      expectError(outcome, 110, type);
    },
    90_000,
  );

  it('that does not exist gets code 110, naming it and where it was looked for', async () => {
    const outcome = await unnoticed(() => addFails(world.netconf({ ipam: { type: 'no-such-ipam' } })));
    expectError(outcome, 110, 'no-such-ipam', '/usr/lib/cni', 'install the plugin');
  });
});

/** The netconf of a pod without OVS, whose backend has to come within `waitTimeoutMs`. */
function ofBackend(backend: Readonly<Record<string, unknown>>): Netconf {
  const { ovs: _ovs, ...netconf } = world.netconf({ backend: { wait: 'required', waitTimeoutMs: 1500, ...backend } });
  return netconf;
}
const socketCalled = (name: string): string => join(world.agent.runDir, 'vhost', `${name.replaceAll(' ', '-')}.sock`);

describe('a backend in client mode', () => {
  it.each(rudenesses)('that %s: a required ADD fails with 11 and leaves nothing', async (rudeness) => {
    const path = socketCalled(rudeness);
    await rudeBackend(path, rudeness, world.cleanup);
    expectError(await unnoticed(() => addFails(ofBackend({ path, server: false }))), 11, path);
  });

  it('that left its socket behind: a required ADD fails with 11 and leaves nothing', async () => {
    const path = socketCalled('dead');
    await deadSocket(path);
    expectError(await unnoticed(() => addFails(ofBackend({ path, server: false }))), 11, path, 'ECONNREFUSED');
  });

  // Who owns the directory can mend it while the agent waits: no error of the netconf.
  it('behind a symbolic link is not followed to: a required ADD fails with 11, and time alone does not mend it', async () => {
    const path = socketCalled('link');
    await rudeBackend(join(outside, 'real.sock'), 'never answers', world.cleanup);
    symlinkSync(join(outside, 'real.sock'), path);
    const outcome = await unnoticed(() => addFails(ofBackend({ path, server: false })));
    expectError(outcome, 11, path, 'ELOOP', 'does not mend by itself');
  });
});

describe('a backend that connects to us', () => {
  it.each(rudenesses)('and %s: a required ADD fails with 11 and leaves nothing', async (rudeness) => {
    const path = socketCalled(`calls and ${rudeness}`);
    const caller = new RudeCaller(path, rudeness, world.cleanup);
    const outcome = await unnoticed(() => addFails(ofBackend({ path })));
    expect(await caller.hangUp()).toBeGreaterThan(0);
    expectError(outcome, 11, path);
  });

  it('and floods: an optional ADD succeeds without carrier, and DEL leaves nothing', async () => {
    const path = socketCalled('calls an optional one');
    const caller = new RudeCaller(path, 'floods', world.cleanup);
    const netns = await world.netns();
    const call = { containerId: newContainerId(), netnsPath: netns.path };
    const netconf = ofBackend({ path, wait: 'optional' });
    await unnoticed(async () => {
      await world.agent.runtime.add(netconf, call);
      await until('the backend to be connected', () => caller.calls > 0);
      expect(await netns.carrier()).toBe(false);
      await world.agent.runtime.del(netconf, call);
    });
    expect(await caller.hangUp()).toBeGreaterThan(0);
    await netns.delete();
  });

  it('would have to come through a symbolic link: refused with code 104, nothing made behind it', async () => {
    const directory = join(world.agent.runDir, 'vhost', 'elsewhere');
    symlinkSync(outside, directory);
    const before = readdirSync(outside);
    const path = join(directory, 'ours.sock');
    expectError(await unnoticed(() => addFails(ofBackend({ path, wait: 'optional' }))), 104, path);
    expect(readdirSync(outside)).toEqual(before);
  });

  it('finds its socket served by somebody else: it is not taken over, code 106', async () => {
    const path = socketCalled('taken');
    await rudeBackend(path, 'never answers', world.cleanup);
    expectError(await unnoticed(() => addFails(ofBackend({ path, wait: 'optional' }))), 106, path);
  });
});

describe('an interface name in use', () => {
  const state = (netns: Netns): Promise<string> => netns.run('ip', '-d', '-j', 'addr', 'show', 'eth0');

  it.each([
    ['by an attachment of another container', newContainerId()],
    ['by the same attachment', null],
  ])('%s is refused with code 106, and its owner keeps it', async (_title, containerId) => {
    const { call, netns } = bystanders[0];
    const before = await state(netns);
    const again = { ...call, containerId: containerId ?? call.containerId };
    const outcome = await unnoticed(() => world.agent.runtime.call('ADD', world.netconf(), again));
    expectError(outcome, 106, 'eth0');
    expect(await state(netns)).toBe(before);
  });

  it('by another plugin is refused with code 106, and its owner keeps it', async () => {
    const netns = await world.netns();
    await netns.run('ip', 'link', 'add', 'eth0', 'type', 'veth', 'peer', 'name', 'theirs');
    const before = await state(netns);
    const call = { containerId: newContainerId(), netnsPath: netns.path };
    const outcome = await unnoticed(() => world.agent.runtime.call('ADD', world.netconf(), call));
    expectError(outcome, 106, 'eth0');
    expect(await state(netns)).toBe(before);
    await netns.delete();
  });
});

describe('a full disk', () => {
  it('fails ADD with code 5 and costs nobody else anything', async () => {
    const filler = join(stateDir, 'filler');
    const outcome = await unnoticed(async () => {
      const filled = await runAny('dd', ['if=/dev/zero', `of=${filler}`, 'bs=4096']);
      expect(filled.stderr).toContain('No space left on device');
      try {
        return await addFails(world.netconf());
      } finally {
        rmSync(filler);
      }
    });
    expectError(outcome, 5, stateDir);
    const pod = await world.addPod();
    await world.agent.runtime.del(pod.netconf, pod.call);
    await pod.netns.delete();
  });
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
