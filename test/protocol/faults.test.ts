import { describe, expect, it } from '@jest/globals';
import { encodeMessage, replyFlags } from '../../src/vhost-user/header.ts';
import { featureMask } from '../../src/virtio/feature.ts';
import { connectScripted, type Connection, deviceWorld, failureOf, settle } from '../support/connection.ts';
import { dpdkOffer, type Misbehaviour, type ScriptedOptions, u64, vppOffer } from '../support/scripted-backend.ts';

/** Every message of the handshake with DPDK, by name and how often it has come. */
const moments = [
  ['SET_OWNER', 1],
  ['GET_FEATURES', 1],
  ['GET_PROTOCOL_FEATURES', 1],
  ['SET_PROTOCOL_FEATURES', 1],
  ['GET_QUEUE_NUM', 1],
  ['SET_BACKEND_REQ_FD', 1],
  ['SET_VRING_CALL', 1],
  ['SET_VRING_CALL', 2],
  ['SET_FEATURES', 1],
  ['SET_STATUS', 1],
  ['GET_STATUS', 1],
  ['NET_SET_MTU', 1],
  ['SET_MEM_TABLE', 1],
  ['SET_VRING_NUM', 1],
  ['SET_VRING_BASE', 1],
  ['SET_VRING_ADDR', 1],
  ['SET_VRING_KICK', 1],
  ['SET_VRING_NUM', 2],
  ['SET_VRING_BASE', 2],
  ['SET_VRING_ADDR', 2],
  ['SET_VRING_KICK', 2],
  ['SET_VRING_ENABLE', 1],
  ['SET_VRING_ENABLE', 2],
  ['SET_STATUS', 2],
] as const;

const replied = moments.filter(([name]) => name !== 'SET_OWNER' && name !== 'SET_PROTOCOL_FEATURES');
const acked = replied.filter(([name]) => !name.startsWith('GET_'));

function misbehaveAt(name: string, nth: number, what: Misbehaviour): NonNullable<ScriptedOptions['misbehave']> {
  return (message, count) => (message.name === name && count === nth ? what : null);
}

/** Brings a device up against a backend that misbehaves once, and shows that nothing stays. */
async function failing(options: ScriptedOptions, whenStalled: ((connection: Connection) => void) | null = null) {
  const { device, ledger, sessions } = deviceWorld();
  const connection = connectScripted(options, ledger);
  const disconnects: Error[] = [];
  connection.frontend.onDisconnect = (error) => disconnects.push(error);
  const outcome = failureOf(device.bringUp(connection.frontend));
  if (whenStalled !== null) {
    await connection.backend.stalled;
    whenStalled(connection);
  }
  const error = await outcome;
  await settle();
  connection.backend.die();
  await settle();
  expect([ledger.open, sessions.open.size, connection.timers.pending]).toEqual([0, 0, []]);
  expect(connection.backend.violations).toEqual([]);
  return { error, device, connection, disconnects };
}

describe('a backend that dies', () => {
  it.each(moments)(
    '[9] [43] [F4] [F5] [F6] [F7] [F8] [F9] [F10] at %s (%d) ends the handshake as DISCONNECTED, with nothing left',
    async (name, nth) => {
      const { error, device, disconnects } = await failing({
        ...dpdkOffer,
        misbehave: misbehaveAt(name, nth, { kind: 'close' }),
      });
      expect(error.code).toBe('DISCONNECTED');
      expect(device.state.kind).toBe('failed');
      expect(disconnects).toEqual([error]);
    },
  );

  it('[F8] is an end of file or a reset, not a deadline', async () => {
    const { device } = deviceWorld();
    const { frontend, backend, socket } = connectScripted({
      ...dpdkOffer,
      misbehave: misbehaveAt('SET_MEM_TABLE', 1, { kind: 'silent' }),
    });
    const outcome = failureOf(device.bringUp(frontend));
    await backend.stalled;
    socket.handlers?.onClose(
      Object.assign(new Error('recvmsg: ECONNRESET'), { code: 'ECONNRESET', errno: 104, syscall: 'recvmsg' }),
    );
    expect(await outcome).toMatchObject({
      code: 'DISCONNECTED',
      details: { errno: 'ECONNRESET', request: 'SET_MEM_TABLE' },
    });
  });

  it('[14] before a send is DISCONNECTED', async () => {
    const { frontend, socket } = connectScripted(dpdkOffer);
    await frontend.setOwner();
    socket.failSend = 'EPIPE';
    expect(await failureOf(frontend.getFeatures())).toMatchObject({
      code: 'DISCONNECTED',
      details: { errno: 'EPIPE' },
    });
    expect((await failureOf(frontend.setOwner())).code).toBe('DISCONNECTED');
  });

  it.each([4, 11, 12, 15])('[F14] %d bytes into a reply has broken the protocol', async (cut) => {
    const bytes = encodeMessage(1, replyFlags, u64(dpdkOffer.features)).subarray(0, cut);
    const { error } = await failing({
      ...dpdkOffer,
      misbehave: misbehaveAt('GET_FEATURES', 1, { kind: 'bytes', bytes, close: true }),
    });
    expect(error.code).toBe('PROTOCOL_VIOLATION');
  });
});

describe('a backend that is silent', () => {
  it.each(replied)('[35] [F13] at %s (%d) runs into the deadline', async (name, nth) => {
    const { error, disconnects } = await failing(
      { ...dpdkOffer, misbehave: misbehaveAt(name, nth, { kind: 'silent' }) },
      ({ timers, frontend }) => {
        timers.advance(4999);
        expect(frontend.isOpen).toBe(true);
        timers.advance(1);
      },
    );
    expect(error).toMatchObject({ code: 'TIMEOUT', details: { request: name, deadlineMs: 5000 } });
    expect(disconnects).toEqual([error]);
  });
});

describe('a probe of a running backend', () => {
  const running = async (options: ScriptedOptions) => {
    const { device, ledger } = deviceWorld();
    const connection = connectScripted(options, ledger);
    await device.bringUp(connection.frontend);
    return { device, ...connection };
  };

  it.each([
    ['GET_STATUS where there is one', dpdkOffer, 'GET_STATUS'],
    ['GET_FEATURES elsewhere', vppOffer, 'GET_FEATURES'],
  ])('[F13] asks by %s, and takes the answer for life', async (_how, offer, name) => {
    const { device, backend } = await running(offer);
    const before = backend.trace.length;
    expect(await device.probe(10_000)).toBe(true);
    expect(backend.trace.slice(before)).toEqual([expect.stringContaining(name)]);
    await device.shutDown();
    expect(await device.probe(10_000)).toBe(false);
  });

  it('[F13] that is not answered ends the connection at its own deadline', async () => {
    const { device, backend, timers, frontend } = await running({
      ...dpdkOffer,
      misbehave: misbehaveAt('GET_STATUS', 2, { kind: 'silent' }),
    });
    const outcome = failureOf(device.probe(10_000));
    await backend.stalled;
    timers.advance(9_999);
    expect(frontend.isOpen).toBe(true);
    timers.advance(1);
    expect(await outcome).toMatchObject({ code: 'TIMEOUT', details: { request: 'GET_STATUS', deadlineMs: 10_000 } });
    expect(frontend.isOpen).toBe(false);
    await device.shutDown();
  });

  it.each([
    ['NEEDS_RESET', 0x4fn],
    ['FAILED', 0x8fn],
  ])('[F24] answered with %s ends the connection', async (name, status) => {
    const bytes = encodeMessage(40, replyFlags, u64(status));
    const { device, frontend } = await running({
      ...dpdkOffer,
      misbehave: misbehaveAt('GET_STATUS', 2, { kind: 'bytes', bytes }),
    });
    const error = await failureOf(device.probe(10_000));
    expect([error.code, error.message]).toEqual(['BACKEND_REFUSED', expect.stringContaining(name)]);
    expect(frontend.isOpen).toBe(false);
    await device.shutDown();
  });
});

describe('a backend that refuses', () => {
  const survived: readonly string[] = ['NET_SET_MTU', 'SET_BACKEND_REQ_FD'];
  it.each(acked.filter(([name]) => !survived.includes(name)))(
    '[F19] [F20] [F21] %s (%d) is named',
    async (name, nth) => {
      const { error, device } = await failing({ ...dpdkOffer, misbehave: misbehaveAt(name, nth, { kind: 'nack' }) });
      expect(error).toMatchObject({ code: 'BACKEND_REFUSED', details: { request: name } });
      expect(device.state.kind).toBe('failed');
    },
  );

  it('the MTU parks the device, which takes the next backend that accepts it', async () => {
    const { error, device } = await failing({
      ...dpdkOffer,
      misbehave: misbehaveAt('NET_SET_MTU', 1, { kind: 'nack' }),
    });
    expect(error).toMatchObject({ code: 'NOT_NEGOTIATED', details: { missing: 'MTU 1500' } });
    expect(device.state).toEqual({ kind: 'parked', missing: ['MTU 1500'] });
    await device.bringUp(connectScripted(dpdkOffer).frontend);
  });

  it('[26] [F23] FEATURES_OK fails the device', async () => {
    const { error, connection } = await failing({ ...dpdkOffer, status: 0x03 });
    expect(error.code).toBe('BACKEND_REFUSED');
    expect(connection.backend.trace.at(-1)).toBe('GET_STATUS');
  });

  it('without REPLY_ACK by closing is DISCONNECTED', async () => {
    const { error } = await failing({ ...vppOffer, misbehave: misbehaveAt('SET_VRING_ADDR', 1, { kind: 'nack' }) });
    expect(error.code).toBe('DISCONNECTED');
  });
});

describe('a backend that breaks the protocol', () => {
  const good = encodeMessage(1, replyFlags, u64(dpdkOffer.features));
  const header = (request: number, flags: number, size: number): Buffer => {
    const bytes = Buffer.alloc(12);
    [request, flags, size].forEach((word, index) => bytes.writeUInt32LE(word, 4 * index));
    return bytes;
  };

  it.each<readonly [string, Buffer]>([
    ['flags 0x1', encodeMessage(1, 0x1, u64(0n))],
    ['flags 0xD', encodeMessage(1, 0xd, u64(0n))],
    ['version 0', encodeMessage(1, 0x4, u64(0n))],
    ['version 2', encodeMessage(1, 0x6, u64(0n))],
    ['another request', encodeMessage(15, replyFlags, u64(0n))],
    ['an empty payload', encodeMessage(1, replyFlags, Buffer.alloc(0))],
    ['4 bytes of payload', encodeMessage(1, replyFlags, Buffer.alloc(4))],
    ['16 bytes of payload', encodeMessage(1, replyFlags, Buffer.alloc(16))],
    ['4 GiB announced', header(1, replyFlags, 0xffffffff)],
    ['text', Buffer.from('HTTP/1.1 400 Bad Request\r\n\r\n')],
    ['two replies', Buffer.concat([good, good])],
  ])('[33] [F15] [F16] with %s is cut off, its header kept for the log', async (_what, bytes) => {
    const { error, connection } = await failing({
      ...dpdkOffer,
      misbehave: misbehaveAt('GET_FEATURES', 1, { kind: 'bytes', bytes }),
    });
    expect(error).toMatchObject({
      code: 'PROTOCOL_VIOLATION',
      details: { header: bytes.subarray(0, 12).toString('hex') },
    });
    expect(connection.socket.isOpen).toBe(false);
  });

  it('[F17] with unsolicited data in a running connection is cut off', async () => {
    const { device } = deviceWorld();
    const { backend, frontend, socket } = connectScripted(dpdkOffer);
    const ended = new Promise<Error>((resolve) => {
      frontend.onDisconnect = resolve;
    });
    await device.bringUp(frontend);
    backend.say(good);
    expect(await ended).toMatchObject({
      code: 'PROTOCOL_VIOLATION',
      details: { header: good.subarray(0, 12).toString('hex') },
    });
    expect(socket.isOpen).toBe(false);
    expect(await device.shutDown()).toHaveLength(1);
  });

  it('[36] [F18] with descriptors in a reply is cut off, and every descriptor closed', async () => {
    const { ledger } = deviceWorld();
    const fds = [ledger.make(), ledger.make()];
    const { frontend } = connectScripted(
      { ...dpdkOffer, misbehave: misbehaveAt('GET_FEATURES', 1, { kind: 'bytes', bytes: good, fds }) },
      ledger,
    );
    await frontend.setOwner();
    expect((await failureOf(frontend.getFeatures())).code).toBe('PROTOCOL_VIOLATION');
    fds.forEach((fd) => fd.close());
    await settle();
    expect(ledger.open).toBe(0);
  });

  it('[36] by answering for another ring is cut off', async () => {
    const { device } = deviceWorld();
    const wrong = encodeMessage(11, replyFlags, Buffer.from([9, 0, 0, 0, 0, 0, 0, 0]));
    const { frontend } = connectScripted({
      ...dpdkOffer,
      misbehave: misbehaveAt('GET_VRING_BASE', 1, { kind: 'bytes', bytes: wrong }),
    });
    await device.bringUp(frontend);
    expect(await device.shutDown()).toMatchObject([{ what: expect.stringContaining('ring 0 for 9') }]);
  });

  it('[36] leaks no descriptor over many hostile messages', async () => {
    const { ledger } = deviceWorld();
    for (let round = 0; round < 500; round += 1) {
      const fd = ledger.make();
      const { frontend, backend } = connectScripted(dpdkOffer, ledger);
      backend.say(Buffer.alloc(round % 40, round), [fd, fd, fd]);
      fd.close();
      await settle();
      expect(frontend.isOpen).toBe(false);
    }
    expect(ledger.open).toBe(0);
  });
});

describe('operations', () => {
  it('that were never agreed on are refused without a byte on the wire, and close the connection', async () => {
    const { frontend, backend } = connectScripted({ features: featureMask(32) });
    await frontend.setOwner();
    await frontend.getFeatures();
    const before = backend.trace.length;
    expect(await failureOf(frontend.setVringEnable(0, true))).toMatchObject({ code: 'NOT_NEGOTIATED' });
    await settle();
    expect([backend.trace.length, frontend.isOpen]).toEqual([before, false]);
  });

  it('[19] with features beyond the offer are a bug of ours and never sent', async () => {
    const { frontend, backend } = connectScripted({ features: featureMask(32) });
    await frontend.setOwner();
    await frontend.getFeatures();
    expect((await failureOf(frontend.setFeatures(featureMask(32, 15)))).code).toBe('BUG');
    expect(backend.trace).toEqual(['SET_OWNER', 'GET_FEATURES']);
  });

  it('[16] strip what does not go on this wire', async () => {
    const { frontend, backend, socket } = connectScripted({ ...dpdkOffer, protocolFeatures: 0n });
    const sent: Buffer[] = [];
    const send = socket.send.bind(socket);
    socket.send = (bytes, fds) => {
      sent.push(Buffer.from(bytes));
      send(bytes, fds);
    };
    await frontend.setOwner();
    await frontend.getFeatures();
    await frontend.setFeatures(featureMask(5, 16, 17, 32));
    expect(sent.at(-1)?.readBigUInt64LE(12)).toBe(featureMask(30, 32));
    await settle();
    expect(backend.violations).toEqual(['SET_FEATURES before SET_VRING_CALL']);
  });

  it('[50] asked for at the same time go out one after another', async () => {
    const { frontend, backend } = connectScripted(dpdkOffer);
    await Promise.all([frontend.setOwner(), frontend.getFeatures(), frontend.getFeatures()]);
    expect(backend.violations).toEqual([]);
    expect(backend.trace.filter((line) => line === 'GET_FEATURES')).toHaveLength(2);
  });

  it('[13] reject after close, and close is harmless twice and tells nobody', async () => {
    const { frontend } = connectScripted({
      ...dpdkOffer,
      misbehave: misbehaveAt('GET_FEATURES', 1, { kind: 'silent' }),
    });
    let told = 0;
    frontend.onDisconnect = () => (told += 1);
    await frontend.setOwner();
    const pending = failureOf(frontend.getFeatures());
    await settle();
    frontend.close();
    frontend.close();
    expect((await pending).code).toBe('DISCONNECTED');
    expect((await failureOf(frontend.setOwner())).code).toBe('DISCONNECTED');
    await settle();
    expect(told).toBe(0);
  });

  it('wait in barrier only for what nothing has confirmed yet', async () => {
    const { frontend, backend } = connectScripted(vppOffer);
    await frontend.setOwner();
    await frontend.barrier();
    await frontend.barrier();
    expect(backend.trace).toEqual(['SET_OWNER', 'GET_FEATURES']);
  });
});
