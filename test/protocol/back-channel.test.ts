/** Requests of the backend: what is served, what is refused, and that the device goes on whatever comes. */
import { describe, expect, it } from '@jest/globals';
import { changeIntervalMs, mostPerSecond } from '../../src/frontends/back-channel.ts';
import { encodeMessage, replyFlags } from '../../src/vhost-user/header.ts';
import { BackPeer, backMessage, configChange } from '../support/back-peer.ts';
import { connectScripted, deviceWorld, failureOf, settle } from '../support/connection.ts';
import { dpdkOffer, type ScriptedOptions, u64, vppOffer } from '../support/scripted-backend.ts';

/** A device that runs on a backend with a back channel. */
async function running(options: Partial<ScriptedOptions> = {}) {
  const { device, ledger } = deviceWorld();
  const connection = connectScripted({ ...dpdkOffer, ...options }, ledger);
  await device.bringUp(connection.frontend);
  const peer = new BackPeer(connection.backend, ledger);
  const before = connection.backend.trace.length;
  return {
    ...connection,
    device,
    ledger,
    peer,
    /** What the device has asked since it runs. */
    asked: () => connection.backend.trace.slice(before),
    /** Shows that the device runs on, then that its end leaves nothing open. */
    endsWell: async () => {
      expect([await device.probe(5000), connection.frontend.isOpen]).toEqual([true, true]);
      await device.shutDown();
      connection.backend.die();
      await settle();
      expect([connection.backend.violations, ledger.open, connection.timers.pending]).toEqual([[], 0, []]);
    },
  };
}

const word = (value: number, bytes: number): Buffer => {
  const payload = Buffer.alloc(bytes);
  if (bytes >= 4) payload.writeUInt32LE(value);
  return payload;
};

describe('the back channel', () => {
  it('[42] is handed over once, costs nothing while nobody speaks, and ends with the connection', async () => {
    const world = await running();
    expect(world.backend.trace.filter((line) => line.startsWith('SET_BACKEND_REQ_FD'))).toHaveLength(1);
    expect([world.timers.pending, world.logger.lines]).toEqual([[], []]);
    const kept = world.ledger.duplicate(world.backend.backChannel ?? world.ledger.make());
    await world.device.shutDown();
    await settle();
    // By us: the backend still holds its end.
    expect([world.peer.closed, world.timers.pending]).toEqual([true, []]);
    kept.close();
    expect(world.ledger.open).toBe(0);
  });

  it('[42] ends with a connection that the backend ends', async () => {
    const { frontend, backend, ledger, device, timers, peer } = await running();
    peer.say(Buffer.concat([backMessage(configChange), backMessage(configChange)]));
    await settle();
    expect(timers.pending).toEqual([changeIntervalMs]);
    backend.die();
    await settle();
    expect([frontend.isOpen, peer.socket.other.isOpen, timers.pending]).toEqual([false, false, []]);
    await device.shutDown();
    expect(ledger.open).toBe(0);
  });

  it('[42] is not made for a backend that does not offer it', async () => {
    const { device } = deviceWorld();
    const { frontend, backend } = connectScripted(vppOffer);
    await device.bringUp(frontend);
    expect([backend.backChannel, backend.violations]).toEqual([null, []]);
  });

  it('[42] is done without where the backend refuses it', async () => {
    const { device, ledger } = deviceWorld();
    const { frontend, backend, logger } = connectScripted(
      { ...dpdkOffer, misbehave: ({ name }) => (name === 'SET_BACKEND_REQ_FD' ? { kind: 'nack' } : null) },
      ledger,
    );
    await device.bringUp(frontend);
    expect([backend.running, logger.messages]).toEqual([true, ['the backend offers a back channel and refuses it']]);
    await device.shutDown();
    await backend.ended;
    expect(ledger.open).toBe(0);
  });

  it('[42] that cannot be made for want of descriptors ends the bring-up with an error that may be retried', async () => {
    const { device, ledger } = deviceWorld();
    const { frontend, backend, binding } = connectScripted(dpdkOffer, ledger);
    binding.failures.set('socketpair', 'EMFILE');
    const error = await failureOf(device.bringUp(frontend));
    expect(error).toMatchObject({ code: 'RESOURCE_EXHAUSTED', details: { errno: 'EMFILE' } });
    expect(error.recovery).toBe('retry-later');
    await backend.ended;
    expect(ledger.open).toBe(0);
  });

  it('[42] is answered on while the backend owes an answer on the main socket', async () => {
    const { device, ledger } = deviceWorld();
    let answered = false;
    const { frontend, backend } = connectScripted(
      {
        ...dpdkOffer,
        misbehave: ({ name }) => (name === 'SET_MEM_TABLE' ? { kind: 'silent' } : null),
        onMessage: ({ name, request }) => {
          if (name !== 'SET_MEM_TABLE') return;
          const peer = new BackPeer(backend, ledger);
          peer.onAnswer = () => {
            answered = true;
            backend.say(encodeMessage(request, replyFlags, u64(0n)));
          };
          peer.say(backMessage(configChange));
        },
      },
      ledger,
    );
    await device.bringUp(frontend);
    expect([answered, backend.running]).toEqual([true, true]);
  });
});

describe('CONFIG_CHANGE_MSG', () => {
  it.each([
    ['asks for an answer', true, ['2: 0']],
    ['does not ask for one', false, []],
  ])('[42] makes the device look at the status; one that %s gets %j, %j', async (_what, asks, answers) => {
    const world = await running();
    world.peer.say(backMessage(configChange, undefined, asks));
    await settle();
    expect([world.asked(), world.peer.answers]).toEqual([['GET_STATUS'], answers]);
    await world.endsWell();
  });

  it('[42] before the device runs is looked into once it does', async () => {
    const { device, ledger } = deviceWorld();
    const { frontend, backend } = connectScripted(
      {
        ...dpdkOffer,
        onMessage: ({ name, payload }) => {
          if (name === 'SET_VRING_CALL' && payload[0] === 0)
            new BackPeer(backend, ledger).say(backMessage(configChange));
        },
      },
      ledger,
    );
    await device.bringUp(frontend);
    await settle();
    expect(backend.trace.slice(-2)).toEqual(['SET_STATUS! 0xf', 'GET_STATUS']);
  });

  it('[42] [F24] of a backend that asks to be reset ends the connection', async () => {
    const { peer, frontend, device } = await running({
      misbehave: ({ name, request }, count) =>
        name === 'GET_STATUS' && count === 2
          ? { kind: 'bytes', bytes: encodeMessage(request, replyFlags, u64(0x4fn)) }
          : null,
    });
    const ended = new Promise<Error>((resolve) => {
      frontend.onDisconnect = resolve;
    });
    peer.say(backMessage(configChange));
    expect((await ended).message).toContain('NEEDS_RESET');
    await device.shutDown();
    await settle();
    expect(peer.socket.other.isOpen).toBe(false);
  });

  it('[F48] in a storm makes the device look ten times a second, and once after the last', async () => {
    const world = await running();
    for (let ms = 0; ms < 2000; ms += 10) {
      world.peer.say(Buffer.concat(Array.from({ length: 4 }, () => backMessage(configChange, undefined, false))));
      await settle();
      world.timers.advance(10);
      await settle();
    }
    world.timers.advance(changeIntervalMs);
    await settle();
    const looks = world.asked().length;
    expect(looks).toBeGreaterThanOrEqual(20);
    expect(looks).toBeLessThanOrEqual(21);
    world.timers.advance(60_000);
    await settle();
    expect(world.asked()).toHaveLength(looks);
    await world.endsWell();
  });

  it('[F48] waits for the look before: a backend that is slow to answer is asked one question at a time', async () => {
    const world = await running({
      misbehave: ({ name }, count) => (name === 'GET_STATUS' && count === 2 ? { kind: 'silent' } : null),
    });
    for (let change = 0; change < 10; change += 1) {
      world.peer.say(backMessage(configChange));
      await settle();
      world.timers.advance(changeIntervalMs);
      await settle();
    }
    expect(world.asked()).toEqual(['GET_STATUS']);
    world.backend.say(encodeMessage(40, replyFlags, u64(0xfn)));
    await settle();
    expect(world.asked()).toEqual(['GET_STATUS', 'GET_STATUS']);
    await world.endsWell();
  });
});

describe('a request that is not served', () => {
  const requests: readonly (readonly [string, number, Buffer])[] = [
    ['an unknown type', 99, Buffer.alloc(0)],
    ['type 0', 0, Buffer.alloc(0)],
    ['an unknown type with the largest payload', 0xffffffff, Buffer.alloc(256, 0xff)],
    ['CONFIG_CHANGE_MSG with a payload', configChange, Buffer.alloc(8)],
    ['IOTLB_MSG', 1, Buffer.alloc(32)],
    ['IOTLB_MSG cut short', 1, Buffer.alloc(31)],
    ['VRING_CALL of a ring that there is', 4, word(1, 8)],
    ['VRING_CALL of a ring beyond', 4, word(2, 8)],
    ['VRING_CALL of ring 2^32 - 1', 4, word(0xffffffff, 8)],
    ['VRING_ERR of a ring beyond', 5, word(255, 8)],
    ['SHARED_OBJECT_ADD', 6, Buffer.alloc(16)],
    ['SHARED_OBJECT_LOOKUP', 8, Buffer.alloc(16)],
    ['SHMEM_MAP', 9, Buffer.alloc(40)],
  ];

  it.each(requests)(
    '[42] (%s) is answered with 1 where an answer is asked for, else with nothing',
    async (...request) => {
      const [, number, payload] = request;
      const world = await running();
      world.peer.say(backMessage(number, payload, false));
      await settle();
      expect(world.peer.answers).toEqual([]);
      world.peer.say(backMessage(number, payload));
      world.peer.say(backMessage(configChange));
      await settle();
      // The one behind it is served: the stream is whole.
      expect(world.peer.answers).toEqual([`${number}: 1`, '2: 0']);
      expect(world.logger.messages).toEqual(['request of the backend refused']);
      await world.endsWell();
    },
  );

  it.each([
    ['no descriptor', 0, 24],
    ['a descriptor', 1, 24],
    ['two descriptors', 2, 24],
    ['an area of 23 bytes', 1, 23],
    ['no area', 1, 0],
  ])('[F46] (VRING_HOST_NOTIFIER_MSG with %s) is refused, every descriptor closed', async (_what, count, bytes) => {
    const world = await running();
    const fds = Array.from({ length: count }, () => world.ledger.make());
    const area = word(0, bytes);
    if (bytes === 24) area.writeBigUInt64LE(4097n, 8);
    const open = world.ledger.open;
    world.peer.say(backMessage(3, area), fds);
    await settle();
    expect([world.peer.answers, world.ledger.open]).toEqual([['3: 1'], open]);
    fds.forEach((fd) => fd.close());
    await world.endsWell();
  });

  it('[42] [F46] is one that brings descriptors, whatever else it is; those beside it are served', async () => {
    const world = await running();
    const fd = world.ledger.make();
    const open = world.ledger.open;
    // As the kernel cuts it: a read ends with the message that carried descriptors.
    world.peer.say(Buffer.concat([backMessage(configChange), backMessage(configChange)]), [fd, fd, fd]);
    world.peer.say(backMessage(configChange).subarray(0, 5), [fd]);
    world.peer.say(Buffer.concat([backMessage(configChange).subarray(5), backMessage(configChange)]));
    await settle();
    expect([world.peer.answers, world.ledger.open]).toEqual([['2: 0', '2: 1', '2: 1', '2: 0'], open]);
    fd.close();
    await world.endsWell();
  });
});

describe('a backend that breaks its back channel', () => {
  const header = (request: number, flags: number, size: number): Buffer => {
    const bytes = Buffer.alloc(12);
    [request, flags, size].forEach((value, index) => bytes.writeUInt32LE(value, 4 * index));
    return bytes;
  };

  it.each([
    ['version 0', header(configChange, 0x8, 0)],
    ['version 2', header(configChange, 0x2, 0)],
    ['a reply that nothing asked for', header(configChange, 0x5, 8)],
    ['a flag that does not exist', header(configChange, 0x11, 0)],
    ['257 bytes announced', header(99, 0x1, 257)],
    ['4 GiB announced', header(99, 0x1, 0xffffffff)],
    ['text', Buffer.from('GET / HTTP/1.1\r\n\r\n')],
  ])('[42] by %s loses it, and nothing else', async (_what, bytes) => {
    const world = await running();
    world.peer.say(Buffer.concat([bytes, backMessage(configChange)]));
    await settle();
    expect([world.peer.closed, world.peer.answers, world.asked()]).toEqual([true, [], []]);
    expect(world.logger.lines).toMatchObject([
      { level: 'warn', fields: { error: { code: 'PROTOCOL_VIOLATION' } }, message: expect.stringContaining('goes on') },
    ]);
    await world.endsWell();
  });

  it('[42] by a flood loses it, and nothing else', async () => {
    const world = await running();
    const half = mostPerSecond / 2;
    for (let sent = 0; sent < half; sent += 1) world.peer.say(backMessage(configChange));
    await settle();
    expect([world.peer.answers.length, world.peer.closed]).toEqual([half, false]);
    world.peer.say(backMessage(configChange));
    await settle();
    expect([world.peer.answers.length, world.peer.closed]).toEqual([half, true]);
    await world.endsWell();
  });

  it('[42] by a flood of descriptors without a request loses it, and none stays open', async () => {
    const world = await running();
    const fd = world.ledger.make();
    const open = world.ledger.open;
    const bytes = backMessage(99, Buffer.alloc(256));
    for (let sent = 0; sent <= mostPerSecond; sent += 1) {
      if (!world.peer.closed) world.peer.say(bytes.subarray(sent % bytes.length, (sent % bytes.length) + 1), [fd, fd]);
      await settle();
    }
    expect([world.peer.closed, world.ledger.open]).toEqual([true, open]);
    fd.close();
    await world.endsWell();
  });

  it('[42] may send as much again in the next second', async () => {
    const world = await running();
    for (let second = 0; second < 3; second += 1) {
      const burst = Array.from({ length: mostPerSecond - 1 }, () => backMessage(99, undefined, false));
      world.peer.say(Buffer.concat(burst));
      await settle();
      world.timers.advance(1000);
    }
    expect(world.peer.closed).toBe(false);
    await world.endsWell();
  });

  it('[42] by not reading its answers loses it, and nothing else', async () => {
    const world = await running();
    world.peer.socket.other.pendingBytes = 20;
    world.peer.say(backMessage(configChange));
    await settle();
    expect([world.peer.closed, world.peer.answers]).toEqual([true, []]);
    await world.endsWell();
  });

  it.each([
    ['between requests', 0],
    ['within a header', 7],
  ])('[F47] by closing it %s goes on without it', async (_when, cut) => {
    const world = await running();
    world.peer.say(Buffer.concat([backMessage(configChange), backMessage(99).subarray(0, cut)]));
    await settle();
    // Its copy of the descriptor was the last one.
    world.backend.backChannel?.close();
    await settle();
    expect(world.peer.socket.other.isOpen).toBe(false);
    expect(world.logger.lines.map(({ level }) => level)).toEqual(['debug']);
    await world.endsWell();
  });

  it('[F47] by a reset goes on without it', async () => {
    const world = await running();
    world.peer.socket.breakWith('ECONNRESET');
    await settle();
    expect(world.logger.lines).toMatchObject([
      { level: 'warn', fields: { reason: expect.stringContaining('ECONNRESET') } },
    ]);
    await world.endsWell();
  });
});
