import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import type { CallContext } from '../../../src/attachment/api.ts';
import type { CniFrame } from '../../../src/cni/frame.ts';
import { CniServer, type CniServerOptions, type ServedCall } from '../../../src/cni/server.ts';
import type { Outcome } from '../../../src/cni/verbs.ts';
import { VirtioUserError } from '../../../src/errors.ts';
import type { IncomingSocket, ListenerHandlers, ListenOptions, NativeFd } from '../../../src/native/binding.ts';
import { silentLogger } from '../../../src/telemetry/log.ts';
import { confirmWord, requestFrame, withdrawWord } from '../../support/cni-request.ts';
import { FdLedger, MemoryBinding, type MemorySocket, nativeFault } from '../../support/memory-socket.ts';

const path = '/run/virtio-user/agent.sock';
const add = { CNI_COMMAND: 'ADD', CNI_CONTAINERID: 'c1', CNI_ARGS: 'K8S_POD_NAME=p' };
const stdin = '{"cniVersion":"0.4.0","name":"net"}';

/** One caller: what it was answered, and when the agent hung up. */
class Caller {
  readonly socket: MemorySocket;
  readonly said: Buffer[] = [];
  readonly closed = Promise.withResolvers<undefined>();
  readonly #answered = Promise.withResolvers<Buffer>();

  constructor(socket: MemorySocket) {
    this.socket = socket;
    socket.attach({
      onData: (bytes) => {
        this.said.push(bytes);
        this.#answered.resolve(bytes);
      },
      onClose: () => this.closed.resolve(undefined),
    });
  }

  get answer(): Promise<{ readonly exitCode: number; readonly body: string }> {
    return this.#answered.promise.then((bytes) => ({
      exitCode: bytes.readUInt16LE(6),
      body: bytes.toString('utf8', 16),
    }));
  }

  async error(): Promise<{ readonly code: number; readonly msg: string; readonly cniVersion: string }> {
    const { exitCode, body } = await this.answer;
    expect(exitCode).toBe(1);
    return JSON.parse(body) as { code: number; msg: string; cniVersion: string };
  }

  async confirm(): Promise<void> {
    await this.answer;
    this.socket.send(confirmWord, []);
    await this.closed.promise;
  }
}

interface Seen {
  readonly frame: CniFrame;
  readonly fds: readonly NativeFd[];
  readonly context: CallContext;
}

let ledger: FdLedger;
let binding: MemoryBinding;
let server: CniServer;
let seen: Seen[];
let served: ServedCall[];
/** What the verbs do. */
let work: (seen: Seen) => Promise<Outcome>;
let undone: string[];
let unanswered: number;

const succeeded = (body = '{}'): Outcome => ({
  answer: { exitCode: 0, body },
  error: null,
  undo: async () => void undone.push(body),
});

function start(times: CniServerOptions['times'] = {}): void {
  server = new CniServer({
    binding,
    path: { baseDirectory: '/run/virtio-user', relativePath: 'agent.sock' },
    run: (frame, fds, context) => {
      const call = { frame, fds, context };
      seen.push(call);
      return work(call);
    },
    log: silentLogger,
    onServed: (call) => void served.push(call),
    onUnanswered: () => void (unanswered += 1),
    times,
  });
  server.listen();
}

beforeEach(() => {
  ledger = new FdLedger();
  binding = new MemoryBinding(ledger);
  seen = [];
  served = [];
  undone = [];
  unanswered = 0;
  work = async () => succeeded();
});
afterEach(async () => {
  await server.close(0);
  expect(server.inFlight).toBe(0);
  expect(ledger.open).toBe(0);
  expect(binding.isListening(path)).toBe(false);
});

function call(): Caller {
  return new Caller(binding.dial(path));
}

/** Sends a whole request; descriptors beside its first byte, closed here afterwards as the executable does. */
function request(
  environment: Readonly<Record<string, string>>,
  fds = 0,
  declared = fds,
  timeLeftMs = 10_000,
  netconf = stdin,
): Caller {
  const caller = call();
  const made = Array.from({ length: fds }, () => ledger.make());
  const roles = Array.from({ length: declared }, () => 1);
  caller.socket.send(requestFrame(environment, netconf, { fdCount: declared, roles, timeLeftMs }), made);
  for (const fd of made) fd.close();
  return caller;
}

/** Resolves once `run` has been called for the nth time. */
async function calls(count: number): Promise<void> {
  while (seen.length < count) await new Promise((resolve) => setImmediate(resolve));
}

async function untilIdle(): Promise<void> {
  while (server.inFlight > 0) await new Promise((resolve) => setImmediate(resolve));
}

/** Work that ends when the test says so, or with its signal. */
function heldWork(): { readonly release: () => void } {
  const { promise, resolve } = Promise.withResolvers<undefined>();
  work = async ({ context }) => {
    const aborted = new Promise((_resolve, reject) => {
      context.signal.addEventListener('abort', () => reject(context.signal.reason as Error), { once: true });
    });
    await Promise.race([promise, aborted]);
    return succeeded();
  };
  return { release: () => resolve(undefined) };
}

describe('a call', () => {
  it('is served with its frame and its descriptors, which are closed at its end', async () => {
    start();
    work = async ({ fds }) => {
      expect(fds.map((fd) => fd.isOpen)).toEqual([true]);
      return succeeded('{"cniVersion":"0.4.0"}');
    };
    const caller = request(add, 1);
    expect(await caller.answer).toEqual({ exitCode: 0, body: '{"cniVersion":"0.4.0"}' });
    expect(seen).toMatchObject([
      { frame: { verb: 'ADD', stdin }, context: { requestId: '00112233445566778899aabbccddeeff' } },
    ]);
    await caller.confirm();
    expect(seen[0]?.fds.map((fd) => fd.isOpen)).toEqual([false]);
    expect(undone).toEqual([]);
    expect(served).toEqual([{ verb: 'ADD', errorCode: null, durationMs: expect.any(Number) }]);
  });

  it('may come in pieces, and its confirmation too', async () => {
    start();
    const caller = call();
    const fd = ledger.make();
    const wire = requestFrame(add, stdin, { fdCount: 1, roles: [1] });
    caller.socket.send(wire.subarray(0, 1), [fd]);
    fd.close();
    for (let at = 1; at < wire.length; at += 7) caller.socket.send(wire.subarray(at, at + 7), []);
    await caller.answer;
    caller.socket.send(confirmWord.subarray(0, 1), []);
    caller.socket.send(confirmWord.subarray(1), []);
    await caller.closed.promise;
    expect(undone).toEqual([]);
    expect(seen).toHaveLength(1);
  });

  it('that fails is answered with its error and counted under its code', async () => {
    start();
    work = () => Promise.reject(new VirtioUserError('OVS_REFUSED', 'no bridge br9'));
    const caller = request(add, 1);
    expect(await caller.error()).toEqual({
      cniVersion: '0.4.0',
      code: 108,
      msg: 'no bridge br9',
      details: 'code=OVS_REFUSED',
    });
    await caller.confirm();
    expect(served).toMatchObject([{ errorCode: 'OVS_REFUSED' }]);
  });

  it('is told when its time is over, and still answered', async () => {
    start();
    heldWork();
    const caller = request(add, 1, 1, 30);
    expect(await caller.error()).toMatchObject({ code: 11, msg: 'the 30 ms that the caller gave are over' });
    await caller.confirm();
  });

  it('never has more time than any runtime gives', async () => {
    start({ longestCallMs: 20 });
    heldWork();
    const caller = request(add, 1, 1, 0xffff_ffff);
    expect(await caller.error()).toMatchObject({ code: 11 });
    await caller.confirm();
  });
});

describe('an ADD is taken back when its caller', () => {
  it('closes instead of confirming', async () => {
    start();
    const caller = request(add, 1);
    await caller.answer;
    caller.socket.close();
    await untilIdle();
    expect(undone).toEqual(['{}']);
  });

  it('sends something else', async () => {
    start();
    const caller = request(add, 1);
    await caller.answer;
    caller.socket.send(Buffer.from('nope'), []);
    await caller.closed.promise;
    expect(undone).toEqual(['{}']);
  });

  it('sends a descriptor with the confirmation', async () => {
    start();
    const caller = request(add, 1);
    await caller.answer;
    const fd = ledger.make();
    caller.socket.send(confirmWord, [fd]);
    fd.close();
    await caller.closed.promise;
    expect(undone).toEqual(['{}']);
  });

  it('stays silent', async () => {
    start({ confirmMs: 20 });
    const caller = request(add, 1);
    await caller.closed.promise;
    await untilIdle();
    expect(undone).toEqual(['{}']);
  });

  it('stays silent, and is told so before that begins; the namespace stays open until it has ended', async () => {
    start({ confirmMs: 20 });
    const undo = Promise.withResolvers<undefined>();
    work = async () => ({ ...succeeded(), undo: () => undo.promise });
    const caller = request(add, 1);
    await caller.closed.promise;
    expect(caller.said).toEqual([expect.any(Buffer), withdrawWord]);
    expect(server.inFlight).toBe(1);
    expect(seen[0]?.fds[0]?.isOpen).toBe(true);
    undo.resolve(undefined);
    await untilIdle();
  });

  it('is not told so where nothing is taken back', async () => {
    start({ confirmMs: 20 });
    work = async () => ({ ...succeeded(), undo: null });
    const caller = request({ CNI_COMMAND: 'STATUS' });
    await caller.closed.promise;
    expect(caller.said).toHaveLength(1);
  });

  it('vanished while it ran, though it succeeded', async () => {
    start();
    const { promise, resolve } = Promise.withResolvers<undefined>();
    work = async () => {
      await promise;
      return succeeded();
    };
    const caller = request(add, 1);
    await calls(1);
    caller.socket.close();
    const { signal } = seen[0]!.context;
    await new Promise((aborted) => signal.addEventListener('abort', aborted, { once: true }));
    expect(seen[0]?.fds[0]?.isOpen).toBe(true);
    resolve(undefined);
    await untilIdle();
    expect(undone).toEqual(['{}']);
  });

  it('writes on while it runs: the namespace stays open until the call has ended', async () => {
    start();
    let openWhenAborted: boolean | undefined;
    work = async ({ fds, context }) => {
      await new Promise((aborted) => context.signal.addEventListener('abort', aborted, { once: true }));
      await new Promise((later) => setImmediate(later));
      openWhenAborted = fds[0]?.isOpen;
      return succeeded();
    };
    const caller = request(add, 1);
    await calls(1);
    const fd = ledger.make();
    caller.socket.send(Buffer.from('more'), [fd]);
    fd.close();
    void caller.answer.then(() => caller.socket.send(confirmWord, []));
    await caller.closed.promise;
    expect(openWhenAborted).toBe(true);
    expect(undone).toEqual(['{}']);
  });

  it('cannot be given the answer, since that is too long', async () => {
    start();
    work = async () => succeeded('x'.repeat((1 << 20) + 1));
    const caller = request(add, 1);
    await caller.closed.promise;
    expect(undone).toHaveLength(1);
  });

  it('is gone, and taking back fails too: the agent lives', async () => {
    start();
    work = async () => ({ ...succeeded(), undo: () => Promise.reject(new Error('x')) });
    const caller = request(add, 1);
    await caller.answer;
    caller.socket.close();
    await untilIdle();
    const next = request({ CNI_COMMAND: 'STATUS' });
    expect(await next.answer).toMatchObject({ exitCode: 0 });
    await next.confirm();
  });
});

describe('a rude caller costs its own connection only', () => {
  it('one that is not root is hung up on unheard', async () => {
    let handlers: ListenerHandlers | undefined;
    const listening: ListenOptions[] = [];
    binding.listenUnix = (options, given) => {
      listening.push(options);
      handlers = given;
      return { close: () => undefined };
    };
    start();
    expect(listening).toMatchObject([{ mode: 0o600 }]);
    let refused = false;
    const incoming: IncomingSocket = {
      peer: { pid: 1, uid: 1000, gid: 0 },
      accept: () => {
        throw new Error('must not be accepted');
      },
      refuse: () => (refused = true),
    };
    handlers?.onConnection(incoming);
    expect(refused).toBe(true);
    handlers?.onFault(nativeFault('EMFILE', 'accept'));
  });

  it('one that sends too slowly is hung up on', async () => {
    start({ receiveMs: 20 });
    const caller = call();
    const fd = ledger.make();
    caller.socket.send(requestFrame(add, stdin, { fdCount: 1, roles: [1] }).subarray(0, 60), [fd]);
    fd.close();
    await caller.closed.promise;
    expect(seen).toEqual([]);
  });

  it('one that sends nothing is hung up on', async () => {
    start({ receiveMs: 20 });
    await call().closed.promise;
  });

  it('one that closes in the middle is forgotten', async () => {
    start();
    const caller = call();
    caller.socket.send(requestFrame(add, stdin).subarray(0, 60), []);
    caller.socket.close();
    await new Promise((resolve) => setImmediate(resolve));
    await untilIdle();
    expect(seen).toEqual([]);
  });

  it.each([
    [0, 1],
    [2, 1],
    [1, 0],
    [3, 2],
  ])('one that sends %i descriptors and declares %i is refused', async (sent, declared) => {
    start();
    const caller = request(add, sent, declared);
    expect(await caller.error()).toMatchObject({
      code: 107,
      msg: expect.stringContaining(`${sent} descriptors came, ${declared} were declared`),
    });
    await caller.closed.promise;
    expect(seen).toEqual([]);
  });

  it('one that sends eight descriptors is refused', async () => {
    start();
    expect(await request(add, 8, 3).error()).toMatchObject({ code: 107 });
    expect(seen).toEqual([]);
  });

  it('one that speaks another protocol is told both', async () => {
    start();
    const caller = call();
    caller.socket.send(requestFrame(add, stdin, { protocol: 7 }), []);
    const error = await caller.error();
    expect(error).toMatchObject({ code: 107, msg: expect.stringContaining('protocol 7, this agent 1') });
    expect(error.msg).toContain('same version');
  });

  it('one that sends garbage is refused', async () => {
    start();
    const caller = call();
    caller.socket.send(Buffer.from('GET / HTTP/1.1\r\nHost: x\r\nAccept: everything, really\r\n\r\n'), []);
    expect(await caller.error()).toMatchObject({ code: 107, msg: expect.stringContaining('magic') });
  });
});

describe('many calls', () => {
  it('16 ADDs run, 512 wait, the next is told to come back; other verbs go on', async () => {
    start();
    const held = heldWork();
    const waiting = Array.from({ length: 16 + 512 }, () => request(add, 1));
    await calls(16);
    while (server.inFlight < 528) await new Promise((resolve) => setImmediate(resolve));
    const tooMany = request(add, 1);
    expect(await tooMany.error()).toMatchObject({ code: 11, msg: 'ADD: 16 run and 512 wait already' });
    expect(seen).toHaveLength(16);
    const verbs = ['DEL', 'CHECK', 'GC', 'STATUS'];
    const others = verbs.map((verb) => request({ CNI_COMMAND: verb }));
    await calls(20);
    expect(seen.slice(16).map(({ frame }) => frame.verb)).toEqual(verbs);
    held.release();
    await Promise.all([...waiting, ...others, tooMany].map((caller) => caller.confirm()));
    expect(seen.filter(({ frame }) => frame.verb === 'ADD')).toHaveLength(528);
    expect(undone).toEqual([]);
  });

  it.each([
    ['ADD', 16],
    ['DEL', 32],
  ])('%s of a network that hangs do not hold up those of another', async (verb, most) => {
    start();
    const held = heldWork();
    const hanging = Array.from({ length: most + 20 }, () => request({ ...add, CNI_COMMAND: verb }, 1));
    await calls(most);
    const other = request({ ...add, CNI_COMMAND: verb }, 1, 1, undefined, '{"cniVersion":"1.0.0","name":"other"}');
    await calls(most + 1);
    expect(seen.at(-1)?.frame.stdin).toContain('other');
    held.release();
    await Promise.all([...hanging, other].map((caller) => caller.confirm()));
  });

  it('32 DELs run, the others wait their turn', async () => {
    start();
    const held = heldWork();
    const callers = Array.from({ length: 40 }, () => request({ CNI_COMMAND: 'DEL' }));
    await calls(32);
    while (server.inFlight < 40) await new Promise((resolve) => setImmediate(resolve));
    expect(seen).toHaveLength(32);
    held.release();
    await Promise.all(callers.map((caller) => caller.confirm()));
    expect(seen).toHaveLength(40);
  });

  it('a DEL whose turn does not come in its time is hung up on unanswered, so that it is queued', async () => {
    start();
    const held = heldWork();
    const running = Array.from({ length: 32 }, () => request({ CNI_COMMAND: 'DEL' }));
    await calls(32);
    const late = request({ CNI_COMMAND: 'DEL' }, 0, 0, 30);
    await late.closed.promise;
    expect([late.said, unanswered]).toEqual([[], 1]);
    expect(served).toMatchObject([{ verb: 'DEL', errorCode: 'CANCELLED' }]);
    held.release();
    await Promise.all(running.map((caller) => caller.confirm()));
    expect([seen.length, unanswered]).toEqual([32, 1]);
  });

  it('so is one that gave up on a lock; one that failed for its own reasons is answered', async () => {
    start();
    work = async ({ context: { signal } }) => {
      await new Promise((resolve) => signal.addEventListener('abort', resolve, { once: true }));
      throw new VirtioUserError('CANCELLED', 'cancelled while waiting for the lock of c1');
    };
    const late = request({ CNI_COMMAND: 'DEL' }, 0, 0, 30);
    await late.closed.promise;
    expect([late.said, unanswered]).toEqual([[], 1]);
    work = () => Promise.reject(new VirtioUserError('IPAM_FAILED', 'the pool is on fire'));
    const failed = request({ CNI_COMMAND: 'DEL' });
    expect(await failed.error()).toMatchObject({ code: 110 });
    await failed.confirm();
    expect(unanswered).toBe(1);
  });

  it('an ADD whose turn does not come in its time is answered', async () => {
    start();
    const held = heldWork();
    const running = Array.from({ length: 16 }, () => request(add, 1));
    await calls(16);
    const late = request(add, 1, 1, 30);
    expect(await late.error()).toMatchObject({ code: 11, msg: expect.stringContaining('waited for its turn') });
    await late.confirm();
    held.release();
    await Promise.all(running.map((caller) => caller.confirm()));
    expect([seen.length, unanswered]).toEqual([16, 0]);
  });

  it('an ADD whose caller vanished never starts', async () => {
    start();
    const held = heldWork();
    const running = Array.from({ length: 16 }, () => request(add, 1));
    await calls(16);
    const waiting = request(add, 1);
    while (server.inFlight < 17) await new Promise((resolve) => setImmediate(resolve));
    waiting.socket.close();
    while (server.inFlight > 16) await new Promise((resolve) => setImmediate(resolve));
    held.release();
    await Promise.all(running.map((caller) => caller.confirm()));
    expect(seen).toHaveLength(16);
  });
});

describe('stopping', () => {
  it('refuses ADD with 11 and STATUS with 50, and serves DEL', async () => {
    start();
    server.refuseAdds('the agent is stopping');
    const refused = request(add, 1);
    expect(await refused.error()).toMatchObject({ code: 11, cniVersion: '0.4.0', msg: 'the agent is stopping' });
    const status = request({ CNI_COMMAND: 'STATUS' });
    expect(await status.error()).toMatchObject({ code: 50 });
    const removal = request({ CNI_COMMAND: 'DEL' });
    expect(await removal.answer).toMatchObject({ exitCode: 0 });
    await Promise.all([refused, status, removal].map((caller) => caller.confirm()));
    expect(seen.map(({ frame }) => frame.verb)).toEqual(['DEL']);
    expect(served).toMatchObject([
      { errorCode: 'AGENT_NOT_READY' },
      { errorCode: 'AGENT_NOT_READY' },
      { errorCode: null },
    ]);
  });

  it('waits for calls under way, and not for callers that have not asked yet', async () => {
    start();
    const held = heldWork();
    const busy = request(add, 1);
    const silent = call();
    await calls(1);
    while (server.inFlight < 2) await new Promise((resolve) => setImmediate(resolve));
    const closed = server.close(10_000);
    await silent.closed.promise;
    expect(() => binding.dial(path)).toThrow('ENOENT');
    held.release();
    await busy.confirm();
    await closed;
    expect(undone).toEqual([]);
  });

  it('rolls back what takes longer than the grace', async () => {
    start();
    heldWork();
    const busy = request(add, 1);
    await calls(1);
    const closed = server.close(10);
    expect(await busy.error()).toMatchObject({ code: 11, msg: 'the agent is stopping' });
    await busy.confirm();
    await closed;
  });
});

describe('listening', () => {
  it.each([
    ['EADDRINUSE', 'CONFLICT_SOCKET'],
    ['EACCES', 'SYSCALL_FAILED'],
  ])('that fails with %s is %s and names the path', (errno, code) => {
    start();
    binding.failures.set(path, errno);
    expect(() => server.listen()).toThrow(expect.objectContaining({ code, message: expect.stringContaining(path) }));
    binding.failures.clear();
  });
});
