/** What follows a connection, a loss, a refusal: states, carrier, hold time, outage, announcements. */
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import type { AttachmentSpec } from '../../../src/attachment/spec.ts';
import { VirtioUserError } from '../../../src/errors.ts';
import { type ChannelName, type ChannelPayloads, subscribe } from '../../../src/telemetry/channels.ts';
import { FakeNode } from '../../support/attachment-fakes.ts';
import { settle, until } from '../../support/fake-clock.ts';
import type { Backend, FakeConnection } from '../../support/fake-device.ts';

let node: FakeNode;
let spec: AttachmentSpec;
let stops: (() => void)[] = [];

beforeEach(async () => {
  node = new FakeNode();
  await node.start();
  spec = node.spec(node.kernel.addNetns());
  await node.add(spec);
});
afterEach(async () => {
  for (const stop of stops) stop();
  stops = [];
  await node.destroy();
});

function record<Name extends ChannelName>(name: Name): ChannelPayloads[Name][] {
  const told: ChannelPayloads[Name][] = [];
  stops.push(subscribe(name, (payload) => told.push(payload)));
  return told;
}

async function lose(frontend: FakeConnection): Promise<void> {
  frontend.hangUp();
  await settle();
  await settle();
}

const failing = (step: string): Backend => ({
  kind: 'failing',
  error: new VirtioUserError('TIMEOUT', `${step}: no reply`, { details: { step } }),
});
const view = () => node.manager.list()[0];

describe('without a backend', () => {
  it('the carrier is off, frames are dropped, and the view says why', () => {
    expect([node.port.carrier, node.port.state]).toEqual([false, 'discarding']);
    expect(view()).toMatchObject({
      state: 'waiting',
      carrier: false,
      connections: 0,
      reason: `listening on ${spec.backend.path}`,
    });
  });
});

describe('a backend that connects', () => {
  it('gets a device, then the port starts with its offloads, then the carrier comes and the pod is announced', async () => {
    const connected = record('backendConnected');
    await node.connect();
    expect(node.port.offload).toBe(7);
    expect(node.port.history.slice(-2)).toEqual(['start', 'carrier on']);
    expect(view()).toMatchObject({ state: 'running', carrier: true, connections: 1, queuePairs: 1, backendPid: 4711 });
    expect(view()?.statusNames).toEqual(['ACKNOWLEDGE', 'DRIVER', 'DRIVER_OK', 'FEATURES_OK']);
    expect(view()).toMatchObject({
      offeredFeatures: 0x1_0000_0020n,
      ackedFeatures: 0x1_0000_0020n,
      localFeatures: 0n,
      unsupportedFeatures: 0x0400_0000n,
    });
    expect(connected).toMatchObject([{ attachment: { containerId: 'container-1', pod: { name: 'pod' } } }]);
    expect(node.port.injected.map((frame) => Buffer.from(frame).readUInt16BE(12))).toEqual([0x0806, 0x86dd]);
    await node.clock.advance(500);
    expect(node.port.injected).toHaveLength(6);
  });

  it('with fewer features than before runs on, degraded, and the mismatch is told once', async () => {
    const mismatch = record('featureMismatch');
    await node.connect({ kind: 'willing', degradedBy: ['HOST_TSO4'] });
    expect(view()).toMatchObject({ state: 'running', reason: expect.stringContaining('HOST_TSO4') });
    expect(mismatch).toMatchObject([{ parked: false, missing: ['HOST_TSO4'] }]);
  });

  it('[F28] with fewer queue pairs than configured runs on, and says so on the first connection too', async () => {
    const key = { ...spec.key, containerId: 'container-2' };
    const wide = node.spec(node.kernel.addNetns(), { key, device: { ...spec.device, queues: 4 } });
    const viewed = () => node.manager.list().find(({ key: { containerId } }) => containerId === key.containerId);
    const mismatch = record('featureMismatch');
    await node.add(wide);
    const first = await node.connect({ kind: 'willing', queuePairs: 2 });
    expect(viewed()).toMatchObject({
      state: 'running',
      reason: expect.stringContaining('2 of 4 queue pairs'),
      queuePairs: 2,
      configuredPairs: 4,
    });
    expect(mismatch).toMatchObject([{ parked: false, missing: ['2 of 4 queue pairs'] }]);
    await lose(first);
    const second = await node.connect({ kind: 'willing', degradedBy: ['CSUM', 'MQ'], queuePairs: 1 });
    expect(mismatch[1]).toMatchObject({ missing: ['CSUM', '3 of 4 queue pairs'] });
    await lose(second);
    await node.connect({ kind: 'willing', queuePairs: 4 });
    expect([viewed()?.reason, mismatch.length]).toEqual([null, 2]);
  });
});

describe('a backend that goes away', () => {
  it('is held for: carrier on and nothing read until the hold time has passed, then carrier off and dropped', async () => {
    const disconnected = record('backendDisconnected');
    const frontend = await node.connect();
    await lose(frontend);
    expect([node.state, node.port.state, node.port.carrier]).toEqual(['held', 'held', true]);
    expect(disconnected).toMatchObject([{ reason: expect.stringContaining('closed') }]);
    expect(frontend.released).toBe(true);
    await node.clock.advance(999);
    expect([node.state, node.port.carrier]).toEqual(['held', true]);
    await node.clock.advance(1);
    expect([node.state, node.port.state, node.port.carrier]).toEqual(['waiting', 'discarding', false]);
  });

  it('and returns within the hold time is never seen by the pod; the outage is measured', async () => {
    const reconnected = record('backendReconnected');
    await lose(await node.connect());
    await node.clock.advance(400);
    await node.connect();
    await node.clock.advance(5000);
    expect(node.port.history.filter((entry) => entry === 'carrier off')).toHaveLength(1);
    expect(reconnected).toMatchObject([{ outageMs: 400 }]);
    expect(view()).toMatchObject({ state: 'running', lastOutageMs: 400, connections: 2 });
  });

  it('and returns later brings the carrier back, with the whole outage measured over several attempts', async () => {
    await lose(await node.connect());
    await node.clock.advance(3000);
    await node.connect(failing('GET_FEATURES'));
    await node.clock.advance(2000);
    await node.connect();
    expect(view()).toMatchObject({ state: 'running', carrier: true, lastOutageMs: 5000 });
    expect(node.port.injected.length).toBeGreaterThan(2);
  });

  it('and whose successor stalls in the handshake still costs the carrier when the hold time has passed', async () => {
    await lose(await node.connect());
    await node.clock.advance(100);
    await node.connect({ kind: 'stalling' });
    expect([node.state, node.port.carrier]).toEqual(['negotiating', true]);
    await node.clock.advance(900);
    expect([node.state, node.port.carrier, node.port.state]).toEqual(['negotiating', false, 'discarding']);
  });

  it('again and again is told of a few times, and of its return when it has stayed for a second', async () => {
    const told = () =>
      node.log.lines
        .filter(({ level, message }) => level !== 'debug' && message.startsWith('backend'))
        .map(({ message }) => message);
    let frontend = await node.connect();
    await node.clock.advance(60_000);
    for (let round = 0; round < 50; round += 1) {
      await lose(frontend);
      await node.clock.advance(1000);
      frontend = await node.connect();
      await node.clock.advance(50);
    }
    const [connected, disconnected, reconnected] = ['connected', 'disconnected', 'reconnected'].map(
      (what) => `backend ${what}`,
    );
    const few = [connected, disconnected, reconnected, disconnected, reconnected];
    expect(told()).toEqual(few);
    await node.clock.advance(1000);
    expect(told()).toEqual([...few, reconnected]);
    await lose(frontend);
    expect(told()).toEqual([...few, reconnected, disconnected]);
  });

  it('[F30] and names an index of a ring that cannot be is an incident, and goes the way of any other', async () => {
    const told = record('vringBaseImplausible');
    const logged = () =>
      node.log.lines.filter(({ message }) => message.includes('anomalies')).map(({ level }) => level);
    const first = await node.connect();
    node.device.anomalies = [{ kind: 'no-answer', what: 'stopped without the backend' }];
    await lose(first);
    expect([told, logged()]).toEqual([[], ['debug']]);
    const second = await node.connect();
    node.device.anomalies = [{ kind: 'vring-base', what: 'ring 1: backend stopped at 70000, expected 1000' }];
    await lose(second);
    expect(told).toMatchObject([{ reason: expect.stringContaining('ring 1: backend stopped at 70000') }]);
    expect(logged()).toEqual(['debug', 'warn']);
    await node.connect();
    expect(node.state).toBe('running');
  });

  it('the pumps have let go of its memory before that is freed', async () => {
    const frontend = await node.connect();
    await lose(frontend);
    expect(node.port.history.slice(-1)).toEqual(['quiesce']);
    expect(node.devices[0]?.state).toEqual({ kind: 'idle' });
  });

  it('between the end of the handshake and the start is a failure, not a running device', async () => {
    const frontend = node.source.connect();
    const start = node.port.start.bind(node.port);
    node.port.start = async (session) => {
      frontend.hangUp();
      await start(session);
    };
    await settle();
    await settle();
    await settle();
    expect([node.state, node.port.state, node.port.carrier]).toEqual(['waiting', 'discarding', false]);
    expect(frontend.released).toBe(true);
  });
});

describe('a backend that cannot be used', () => {
  it('five times at one step degrades the attachment, which goes on trying', async () => {
    const degraded = record('attachmentDegraded');
    for (let attempt = 1; attempt <= 6; attempt += 1) {
      const frontend = await node.connect(failing('SET_MEM_TABLE'));
      expect(frontend.released).toBe(true);
      expect(node.state).toBe(attempt < 5 ? 'waiting' : 'degraded');
    }
    expect(degraded).toMatchObject([{ failures: 5, reason: expect.stringContaining('SET_MEM_TABLE') }]);
    expect(view()?.reason).toContain('6 times in a row');
    await node.connect();
    expect(node.state).toBe('running');
  });

  it('at changing steps is not degraded', async () => {
    for (let attempt = 1; attempt <= 12; attempt += 1) {
      await node.connect(failing(attempt % 2 === 0 ? 'SET_OWNER' : 'GET_FEATURES'));
    }
    expect(node.state).toBe('waiting');
  });

  it('for what it lacks parks it: carrier off at once, missing bits named, told once; a full offer resumes', async () => {
    const mismatch = record('featureMismatch');
    await lose(await node.connect());
    for (let attempt = 0; attempt < 6; attempt += 1) await node.connect({ kind: 'lacking', missing: ['VERSION_1'] });
    expect([node.state, node.port.carrier, node.port.state]).toEqual(['parked', false, 'discarding']);
    expect(view()?.reason).toContain('VERSION_1');
    expect(mismatch).toMatchObject([{ parked: true, missing: ['VERSION_1'] }]);
    await node.clock.advance(5000);
    expect(node.state).toBe('parked');
    await node.connect();
    expect(view()).toMatchObject({ state: 'running', carrier: true });
  });
});

describe('the port', () => {
  it.each(['ring-corrupt', 'kick-blocked', 'memory-lost'] as const)(
    '[F31] that reports %s goes the way of a lost backend, with new memory for the next',
    async (kind) => {
      const broken = record('portBroken');
      const frontend = await node.connect();
      for (const reason of ['used id 4711', 'told twice']) node.port.emit({ kind, reason });
      expect(view()?.statusNames).toContain('NEEDS_RESET');
      await settle();
      await settle();
      expect(broken).toMatchObject([{ kind, reason: 'used id 4711' }]);
      expect([node.state, frontend.released]).toEqual(['held', true]);
      expect(view()?.statusNames).toEqual([]);
      await node.connect();
      expect(node.state).toBe('running');
      expect(view()?.statusNames).not.toContain('NEEDS_RESET');
    },
  );

  it('that breaks while it starts is not taken for running', async () => {
    node.port.onStart = () => node.port.emit({ kind: 'kick-blocked', reason: 'blocked' });
    const frontend = await node.connect();
    await settle();
    expect(frontend.released).toBe(true);
    node.port.onStart = () => {};
    await node.connect();
    expect(node.state).toBe('running');
  });

  it('[F13] that reports a backend without appetite has it probed, once at a time; one that answers is kept', async () => {
    await node.connect();
    for (let event = 0; event < 3; event += 1) node.port.emit({ kind: 'backend-stalled', reason: 'takes no frames' });
    await settle();
    const device = node.devices.at(-1);
    expect([device?.probes, node.state]).toEqual([1, 'running']);
    node.port.emit({ kind: 'backend-stalled', reason: 'takes no frames' });
    await settle();
    expect([device?.probes, node.state]).toEqual([2, 'running']);
  });

  it('[F13] one that does not answer goes the way of a lost backend', async () => {
    const frontend = await node.connect();
    const device = node.devices.at(-1);
    if (device !== undefined) device.onProbe = () => frontend.hangUp();
    node.port.emit({ kind: 'backend-stalled', reason: 'takes no frames' });
    await settle();
    await settle();
    expect([node.state, frontend.released]).toEqual(['held', true]);
    await node.connect();
    expect(node.state).toBe('running');
  });

  it('that reports a deleted TAP ends the attachment’s connections, and CHECK says so', async () => {
    const frontend = await node.connect();
    node.port.emit({ kind: 'tap-gone', reason: 'EBADFD' });
    await settle();
    await settle();
    expect(view()).toMatchObject({ state: 'tap-gone', carrier: false, reason: expect.stringContaining('EBADFD') });
    expect([node.source.isOpen, frontend.released]).toEqual([false, true]);
    await node.clock.advance(10_000);
    expect(node.state).toBe('tap-gone');
    await expect(
      node.manager.check({ spec, prevResult: {} }, { requestId: '', signal: new AbortController().signal }),
    ).rejects.toMatchObject({ code: 'CHECK_MISMATCH' });
    await node.del(spec);
    expect(node.leftovers()).toEqual([]);
  });

  it('that reports a deleted TAP ends the tries to open a socket, too', async () => {
    node.socketRefusal = new Error('EADDRINUSE');
    await node.killAndRestart();
    node.port.emit({ kind: 'tap-gone', reason: 'EBADFD' });
    node.socketRefusal = null;
    await node.clock.advance(6_000);
    expect(node.sources.map(({ isOpen }) => isOpen)).toEqual([false]);
    expect(node.state).toBe('tap-gone');
  });
});

describe('a reconnect on demand', () => {
  const [id] = [() => String(view()?.id)];

  it('drops the connection there is', async () => {
    const frontend = await node.connect();
    await node.manager.reconnect(id());
    await settle();
    await settle();
    expect([node.state, frontend.released]).toEqual(['held', true]);
    await node.connect();
    expect(node.state).toBe('running');
  });

  it('gives up a handshake that stalls', async () => {
    const frontend = await node.connect({ kind: 'stalling' });
    await node.manager.reconnect(id());
    await settle();
    await settle();
    expect([node.state, frontend.released]).toEqual(['waiting', true]);
  });

  it('without a connection opens the socket anew', async () => {
    const before = node.source;
    await node.manager.reconnect(id());
    expect([before.isOpen, node.source.isOpen, node.sources.length]).toEqual([false, true, 2]);
  });

  it('of an attachment that is not there is ATTACHMENT_UNKNOWN', async () => {
    await expect(node.manager.reconnect('vu000000000000')).rejects.toMatchObject({ code: 'ATTACHMENT_UNKNOWN' });
  });
});

describe('[84] DEL', () => {
  it.each<[string, () => Promise<unknown>]>([
    ['waiting', () => Promise.resolve()],
    ['held', async () => lose(await node.connect())],
    ['negotiating', () => node.connect({ kind: 'stalling' })],
    ['parked', () => node.connect({ kind: 'lacking', missing: ['MTU'] })],
    ['running', () => node.connect()],
  ])('completes while %s', async (state, arrange) => {
    await arrange();
    expect(node.state).toBe(state);
    await node.del(spec);
    expect(node.leftovers()).toEqual([]);
  });

  describe('in the middle of a handshake', () => {
    async function removing(): Promise<{ readonly go: () => void; readonly call: Promise<void> }> {
      const { promise: started, resolve: go } = Promise.withResolvers<void>();
      await node.connect({ kind: 'starting', started });
      const call = node.del(spec);
      await until(() => !node.source.isOpen);
      return { go, call };
    }

    it('lets a backend that has its rings come through, and ends in order', async () => {
      const { go, call } = await removing();
      expect(node.ovs.ports.size).toBe(1);
      go();
      await call;
      expect(node.leftovers()).toEqual([]);
    });

    it('gives it up after two seconds, and removes the port when the switch must have seen that', async () => {
      const { call } = await removing();
      await node.clock.advance(2000);
      await call;
      expect(node.ovs.ports.size).toBe(1);
      await node.clock.advance(30_000);
      await node.manager.settled();
      expect(node.leftovers()).toEqual([]);
    });

    it('gives it up at once where the backend has no ring', async () => {
      await node.connect({ kind: 'stalling' });
      await node.del(spec);
      expect(node.leftovers()).toEqual([]);
    });
  });

  describe('of a switch that does not let go in order', () => {
    /** @returns the call under way, while the switch has been asked to let go */
    async function removing(): Promise<{ readonly frontend: FakeConnection; readonly call: Promise<void> }> {
      const frontend = await node.connect();
      node.device.stalls = true;
      const call = node.del(spec);
      await until(() => node.device.asked);
      return { frontend, call };
    }

    // OVS hangs when it removes a port whose connection is being ended.
    it('cuts the connection after two seconds, and removes the port when the switch must have seen that', async () => {
      const { frontend, call } = await removing();
      await node.clock.advance(1999);
      expect([frontend.closed, node.ovs.ports.size]).toEqual([false, 1]);
      await node.clock.advance(1);
      await call;
      const [id] = node.ovs.ports.keys();
      expect([frontend.closed, node.leftovers()]).toEqual([true, [`OVS port ${id}`, `record ${id}.json`]]);
      await node.clock.advance(30_000);
      await node.manager.settled();
      expect(node.leftovers()).toEqual([]);
    });

    it('leaves the port to that in a DEL that comes again, and in an ADD, which fails', async () => {
      const { call } = await removing();
      await node.clock.advance(2000);
      await call;
      await node.del(spec);
      await expect(node.add(spec)).rejects.toMatchObject({ code: 'OVS_UNAVAILABLE', recovery: 'retry-later' });
      expect(node.ovs.ports.size).toBe(1);
      await node.clock.advance(30_000);
      await node.manager.settled();
      await node.add(spec);
      await node.del(spec);
      expect(node.leftovers()).toEqual([]);
    });

    it('does not wait when the switch dies meanwhile', async () => {
      const { frontend, call } = await removing();
      frontend.hangUp();
      frontend.onClosed();
      await call;
      expect([frontend.closed, node.leftovers()]).toEqual([false, []]);
    });

    it('cuts the connection after half a second where there is no port to lose', async () => {
      await node.del(spec);
      spec = { ...spec, ovs: null };
      await node.add(spec);
      const { frontend, call } = await removing();
      await node.clock.advance(499);
      expect(frontend.closed).toBe(false);
      await node.clock.advance(1);
      await call;
      expect(node.leftovers()).toEqual([]);
    });
  });

  it('of a switch that was cut off for its silence removes the port later, unless it has come back', async () => {
    const silenced = async (): Promise<void> => {
      const frontend = await node.connect();
      node.device.stalls = true;
      // As the frontend ends what does not answer.
      node.device.onProbe = () => {
        frontend.closed = true;
        frontend.onDisconnect?.(new VirtioUserError('TIMEOUT', 'no answer to GET_STATUS'));
      };
      node.port.emit({ kind: 'backend-stalled', reason: 'takes no frames' });
      await settle();
      await settle();
      node.device.stalls = false;
      expect(node.state).toBe('held');
    };
    await silenced();
    await node.connect();
    await node.del(spec);
    expect(node.leftovers()).toEqual([]);
    await node.add(spec);
    await silenced();
    await node.del(spec);
    expect(node.ovs.ports.size).toBe(1);
    await node.clock.advance(30_000);
    await node.manager.settled();
    expect(node.leftovers()).toEqual([]);
  });
});

describe('an ADD that is undone', () => {
  it('leaves the port of a switch that does not let go in order to later', async () => {
    const key = { ...spec.key, containerId: 'container-2' };
    const second = node.spec(node.kernel.addNetns(), { key });
    const caller = new AbortController();
    // The switch connects as soon as it has the port, and the caller goes away.
    const ensure = node.ovs.ensure.bind(node.ovs);
    node.ovs.ensure = async (port) => {
      await ensure(port);
      await node.connect();
      node.device.stalls = true;
      caller.abort(new Error('the caller is gone'));
    };
    const call = node.add(second, { requestId: 'second', signal: caller.signal });
    const failed = expect(call).rejects.toMatchObject({ code: 'CANCELLED' });
    await until(() => node.device.asked);
    await node.clock.advance(2000);
    await failed;
    expect(node.ovs.ports.size).toBe(2);
    await node.clock.advance(30_000);
    await node.manager.settled();
    expect(node.ovs.ports.size).toBe(1);
    await node.del(spec);
    expect(node.leftovers()).toEqual([]);
  });
});

describe('the end of the agent', () => {
  it('waits half a second for a switch that does not let go, as no port goes', async () => {
    const frontend = await node.connect();
    node.device.stalls = true;
    const end = node.manager.close();
    await until(() => node.device.asked);
    await node.clock.advance(499);
    expect(frontend.closed).toBe(false);
    await node.clock.advance(1);
    await end;
    expect([frontend.closed, node.ovs.ports.size]).toEqual([true, 1]);
  });
});

describe('without a control queue', () => {
  beforeEach(async () => {
    await node.del(spec);
    await node.add({ ...spec, device: { ...spec.device, cq: false } });
    const [link] = node.kernel.links;
    if (link === undefined) throw new Error('no link');
    node.kernel.change(link, { mac: '02:00:00:00:00:77' });
  });

  it("announces the address that the pod's interface has, whatever it was made with", async () => {
    await node.connect();
    await node.clock.advance(500);
    expect(node.port.injected).toHaveLength(6);
    for (const frame of node.port.injected) expect(sourceOf(frame)).toBe('020000000077');
  });

  it('announces the address it was made with when the interface cannot be looked at', async () => {
    node.gate.arm(1, 'fail', (name) => name === 'watchPodLink');
    await node.connect();
    expect(sourceOf(node.port.injected[0])).toBe(spec.device.mac.replaceAll(':', ''));
  });
});

function sourceOf(frame: Uint8Array | undefined): string {
  return Buffer.from(frame?.subarray(6, 12) ?? []).toString('hex');
}
