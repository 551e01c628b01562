/**
 * A process of its own for stories about how the addon ends: `node addon-child.ts SCENARIO DIRECTORY`. It says on stdout
 * what it saw.
 */
import { spawn } from 'node:child_process';
import net from 'node:net';
import { once } from 'node:events';
import { closeSync, openSync, readdirSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { errnoOf } from '../../src/errors.ts';
import type { Child } from '../../src/native/binding.ts';
import { loadNative } from '../../src/native/load.ts';
import { openDescriptors } from './open-descriptors.ts';
import { connectedPair, SocketRecorder, TestListener } from './native-sockets.ts';

const scenario = isMainThread ? (process.argv[2] ?? '') : 'in-a-worker';
const directory = isMainThread ? (process.argv[3] ?? '') : String(workerData);
const native = loadNative();

function say(line: string): void {
  process.stdout.write(`${line}\n`);
}

/** One of everything, alive: listener, sockets, memory, a pump thread, a thread in a namespace. */
async function makeEverything(name = 'all.sock'): Promise<void> {
  const server = new TestListener(native, directory, { name });
  const socket = native.connectUnix({ baseDirectory: directory, relativePath: name }, new SocketRecorder());
  const far = await server.next();
  void native.replaceFile(join(directory, `${name}.tmp`), join(directory, `${name}.record`), 'x'.repeat(1 << 20));
  native.createSession({ pairs: 1, queueSize: 64, rxBufferBytes: 2048, features: 1n << 32n, memory: 'memfd' });
  native.createPump({ name: 'vu-child', spinUs: 0 });
  await native.watchPodLink(native.ownNetns(), 1, () => undefined);
  // What goes to and fro for ever: events are under way whenever the end comes.
  const echo = (): void => {
    far.socket.send(Buffer.alloc(64, 'e'), []);
    void native.inspectPodLink(native.ownNetns(), 'lo').then(echo, () => undefined);
  };
  echo();
  const flood = (): void => {
    if (socket.pendingBytes === 0) for (let index = 0; index < 64; index += 1) socket.send(Buffer.alloc(4096), []);
    setImmediate(flood);
  };
  setImmediate(flood);
  await far.seen.atLeast(64 * 4096);
}

async function inWorker(end: 'terminate' | 'exit'): Promise<void> {
  const worker = new Worker(new URL(import.meta.url), { workerData: directory, argv: [end] });
  const exited = new Promise((resolve) => worker.once('exit', resolve));
  await new Promise((resolve, reject) => {
    worker.once('message', resolve);
    worker.once('error', reject);
  });
  if (end === 'terminate') await worker.terminate();
  else worker.postMessage('exit');
  await exited;
}

/** Afterwards the next descriptor has the number that follows the highest, which is returned. */
function fillHoles(): number {
  const highest = Math.max(...readdirSync('/proc/self/fd').map(Number));
  for (;;) {
    const fd = openSync('/dev/null', 'r');
    if (fd <= highest) continue;
    closeSync(fd);
    return highest;
  }
}

/** Takes every descriptor below the limit but so many. What the runtime opened meanwhile does not count. */
function leaveDescriptors(count: number): void {
  const taken: number[] = [];
  try {
    for (;;) taken.push(openSync('/dev/null', 'r'));
  } catch (error) {
    if (errnoOf(error) !== 'EMFILE') throw error;
  }
  for (const fd of taken.slice(-count)) closeSync(fd);
}

const scenarios: Readonly<Record<string, () => Promise<void> | void>> = {
  'loads and ends': () => say('loaded'),

  'closes everything and ends by itself': async () => {
    const { near, far } = await connectedPair(native, directory);
    near.socket.close();
    await far.seen.ended();
    say('closed');
  },

  'leaves it to shutdown': async () => {
    const server = new TestListener(native, directory);
    const seen = new SocketRecorder();
    native.connectUnix({ baseDirectory: directory, relativePath: 'vhost.sock' }, seen);
    await server.next();
    native.shutdown();
    say('shut down');
  },

  // Nothing else keeps the process: the peer that comes late is still served.
  'an open listener keeps the process': async () => {
    const server = new TestListener(native, directory);
    const script = `setTimeout(() => require('net').connect(${JSON.stringify(server.path)}), 300)`;
    spawn(process.execPath, ['-e', script], { stdio: 'ignore' }).unref();
    const far = await server.next();
    say('late');
    far.socket.close();
    server.listener.close();
  },

  'process.exit in the middle': async () => {
    await makeEverything();
    say('exit');
    process.exit(0);
  },

  'process.exit in a handler': async () => {
    const { near, far } = await connectedPair(native, directory);
    far.socket.send(Buffer.from('x'), []);
    await near.seen.atLeast(1);
    say('exit');
    process.exit(0);
  },

  'process.exit with a promise under way': () => {
    void native.inspectPodLink(native.ownNetns(), 'lo');
    say('exit');
    process.exit(0);
  },

  'ends with a promise under way': () => {
    void native.inspectPodLink(native.ownNetns(), 'lo').then((link) => say(`lo ${link?.ifindex}`));
  },

  'an uncaught exception with everything alive': async () => {
    await makeEverything();
    process.once('uncaughtException', (error) => {
      say(error.message);
      process.exit(0);
    });
    setImmediate(() => {
      throw new Error('out of the blue');
    });
  },

  'a handler throws': async () => {
    const server = new TestListener(native, directory);
    let calls = 0;
    native.connectUnix(
      { baseDirectory: directory, relativePath: 'vhost.sock' },
      {
        onData: (bytes) => {
          calls += 1;
          if (calls === 1) throw new Error(`handler of ${bytes.toString()}`);
          say(`then ${bytes.toString()}`);
          native.shutdown();
        },
        onClose: () => undefined,
      },
    );
    const far = await server.next();
    process.once('uncaughtException', (error) => {
      say(`uncaught ${error.message}`);
      far.socket.send(Buffer.from('second'), []);
    });
    far.socket.send(Buffer.from('first'), []);
  },

  // Promise continuations and nextTick run right after the event, with nothing else going on in the process.
  'continuations run after an event': async () => {
    const server = new TestListener(native, directory);
    const path = { baseDirectory: directory, relativePath: 'vhost.sock' };
    const order: string[] = [];
    native.connectUnix(path, {
      onData: () => {
        const since = performance.now();
        process.nextTick(() => order.push('tick'));
        void Promise.resolve()
          .then(() => order.push('promise'))
          .then(() => {
            say(`${order.join(' ')} ${performance.now() - since < 5000 ? 'at once' : 'late'}`);
            native.shutdown();
          });
      },
      onClose: () => undefined,
    });
    const far = await server.next();
    far.socket.send(Buffer.from('x'), []);
  },

  'forgotten descriptors are collected': async () => {
    if (globalThis.gc === undefined) throw new Error('needs --expose-gc');
    const before = openDescriptors();
    for (let index = 0; index < 100; index += 1) native.ownNetns();
    const forgotten = openDescriptors() - before;
    for (let turn = 0; turn < 10; turn += 1) {
      globalThis.gc();
      await new Promise((resolve) => setImmediate(resolve));
    }
    say(`${forgotten} forgotten, ${openDescriptors() - before} left`);
  },

  'a worker is terminated, twice': async () => {
    await inWorker('terminate');
    await inWorker('terminate');
    say('terminated');
  },

  'a worker ends, twice, while the main thread uses the addon too': async () => {
    await makeEverything('main.sock');
    await inWorker('exit');
    await inWorker('exit');
    say('ended');
    process.exit(0);
  },

  'in-a-worker': async () => {
    await makeEverything(`worker-${process.pid}-${Math.random().toString(36).slice(2)}.sock`);
    parentPort?.once('message', () => process.exit(0));
    parentPort?.postMessage('ready');
  },

  // The parent lowers RLIMIT_NOFILE to what is said here. An eventfd and three pipes fit, the pidfd does not.
  'runs programs without a pidfd': async () => {
    const lines = createInterface({ input: process.stdin });
    say(`limit ${fillHoles() + 64}`);
    await once(lines, 'line');
    leaveDescriptors(7);
    const start = (path: string, input: string, timeoutMs: number): Child =>
      native.runChild({ path, environment: [], input, holdInput: false, timeoutMs, outputLimitBytes: 1 << 20 });
    const run = async (doing: string, child: Child): Promise<void> => {
      const { kind, code, stdout } = await child.ended;
      say(`${doing}: ${kind} ${code} ${stdout.length}`);
    };
    await run('more than a pipe holds', start('/bin/cat', 'x'.repeat(200_000), 20_000));
    await run('an exit code', start('/bin/sh', 'exit 3', 20_000));
    await run('a deadline', start('/bin/sh', 'sleep 600', 300));
    const hanging = start('/bin/sh', 'sleep 600', 600_000);
    hanging.kill();
    await run('an abort', hanging);
    lines.close();
  },

  // In a PID namespace of its own, whose orphans are its children.
  'ends programs as PID 1': async () => {
    const others = (): number => readdirSync('/proc').filter((name) => /^\d+$/.test(name) && name !== '1').length;
    const start = (input: string, timeoutMs: number): Child =>
      native.runChild({
        path: '/bin/sh',
        environment: [],
        input,
        holdInput: false,
        timeoutMs,
        outputLimitBytes: 1 << 16,
      });
    const sleepers = 'sleep 600 & sh -c "sleep 600 & sleep 600 & wait" & ';
    const hanging = start(`${sleepers} wait`, 600_000);
    while (others() < 5) await new Promise((resolve) => setImmediate(resolve));
    hanging.kill();
    const ways = [hanging, start(`${sleepers} wait`, 300), start(`${sleepers} cat /dev/zero`, 600_000)];
    for (const child of ways) {
      const { kind } = await child.ended;
      say(kind);
    }
    say(`PID ${process.pid}, ${others()} others`);
  },

  // The parent lowers RLIMIT_NOFILE to what is said here, then tries to connect.
  'runs out of descriptors': async () => {
    const server = new TestListener(native, directory);
    const lines = createInterface({ input: process.stdin });
    const client = net.connect(server.path).resume();
    (await server.next()).socket.close();
    await once(client, 'close');
    const highest = fillHoles();
    say(`limit ${highest + 1}`);
    let told = 0;
    const timer = setInterval(() => {
      for (; told < server.faults.length; told += 1) say(`fault ${server.faults[told]?.code}`);
    }, 10);
    void server.next().then(() => {
      clearInterval(timer);
      say('accepted');
      lines.close();
      native.shutdown();
    });
  },
};

await scenarios[scenario]?.();
