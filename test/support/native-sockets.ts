/** Sockets of the addon in tests: handlers that remember, and pairs that are connected. */
import { type ChildProcess, spawn } from 'node:child_process';
import net from 'node:net';
import { once } from 'node:events';
import { join } from 'node:path';
import type {
  FdSocket,
  IncomingSocket,
  Listener,
  ListenOptions,
  NativeBinding,
  NativeFault,
  NativeFd,
  SocketHandlers,
} from '../../src/native/binding.ts';
import { descriptorLinks } from './open-descriptors.ts';

export interface ReceivedChunk {
  /** Offset of its first byte in the stream. */
  readonly offset: number;
  readonly bytes: Buffer;
  readonly fds: readonly NativeFd[];
}

/** Remembers what a socket said, and wakes those who wait for it. */
export class SocketRecorder implements SocketHandlers {
  readonly chunks: ReceivedChunk[] = [];
  #received = 0;
  #closed: { readonly fault: NativeFault | null } | null = null;
  readonly #waiting = new Set<() => void>();

  readonly onData = (bytes: Buffer, fds: NativeFd[]): void => {
    if (this.#closed !== null) throw new Error('data after the end');
    this.chunks.push({ offset: this.#received, bytes, fds });
    this.#received += bytes.length;
    this.#wake();
  };

  readonly onClose = (fault: NativeFault | null): void => {
    if (this.#closed !== null) throw new Error('closed twice');
    this.#closed = { fault };
    this.#wake();
  };

  get received(): number {
    return this.#received;
  }

  get isClosed(): boolean {
    return this.#closed !== null;
  }

  get bytes(): Buffer {
    return Buffer.concat(this.chunks.map((chunk) => chunk.bytes));
  }

  get fds(): NativeFd[] {
    return this.chunks.flatMap((chunk) => chunk.fds);
  }

  async until(condition: () => boolean): Promise<void> {
    while (!condition()) await new Promise<void>((resolve) => this.#waiting.add(resolve));
  }

  /** All bytes up to `count`. */
  async atLeast(count: number): Promise<Buffer> {
    await this.until(() => this.#received >= count);
    return this.bytes;
  }

  /** The fault of its end, null for end of file. */
  async ended(): Promise<NativeFault | null> {
    await this.until(() => this.#closed !== null);
    return this.#closed?.fault ?? null;
  }

  #wake(): void {
    for (const resolve of this.#waiting) resolve();
    this.#waiting.clear();
  }
}

export interface SocketEnd {
  readonly socket: FdSocket;
  readonly seen: SocketRecorder;
}

/** A listener in a directory, whose connections are accepted and kept. */
export class TestListener {
  readonly path: string;
  readonly listener: Listener;
  readonly faults: NativeFault[] = [];
  readonly #accepted: SocketEnd[] = [];
  readonly #waiting: ((end: SocketEnd) => void)[] = [];

  constructor(
    native: NativeBinding,
    directory: string,
    options: Partial<ListenOptions> & { readonly name?: string; readonly handlers?: () => SocketRecorder } = {},
  ) {
    const { name = 'vhost.sock', handlers = () => new SocketRecorder(), ...rest } = options;
    this.path = join(directory, name);
    const path = { baseDirectory: directory, relativePath: name };
    const onConnection = (incoming: IncomingSocket): void => {
      const seen = handlers();
      const end = { socket: incoming.accept(seen), seen };
      const take = this.#waiting.shift();
      if (take === undefined) this.#accepted.push(end);
      else take(end);
    };
    this.listener = native.listenUnix(
      { path, mode: 0o600, groupId: null, backlog: 16, ...rest },
      { onConnection, onFault: (fault) => this.faults.push(fault) },
    );
  }

  next(): Promise<SocketEnd> {
    const first = this.#accepted.shift();
    return first === undefined ? new Promise((resolve) => this.#waiting.push(resolve)) : Promise.resolve(first);
  }
}

/** Both ends are sockets of the addon. */
export async function connectedPair(
  native: NativeBinding,
  directory: string,
): Promise<{ readonly near: SocketEnd; readonly far: SocketEnd }> {
  const server = new TestListener(native, directory);
  const seen = new SocketRecorder();
  const socket = native.connectUnix({ baseDirectory: directory, relativePath: 'vhost.sock' }, seen);
  const far = await server.next();
  server.listener.close();
  return { near: { socket, seen }, far };
}

/** The far end is a socket of Node.js that does not read until told to. */
export async function foreignPeer(
  native: NativeBinding,
  directory: string,
): Promise<{ readonly near: SocketEnd; readonly peer: net.Socket }> {
  const server = new TestListener(native, directory);
  const peer = net.createConnection({ path: server.path, allowHalfOpen: false });
  peer.pause();
  await once(peer, 'connect');
  const near = await server.next();
  server.listener.close();
  return { near, peer };
}

/** Number and link (`socket:[inode]`) of every socket of this process. */
function sockets(): (readonly [string, string])[] {
  return descriptorLinks().filter(([, link]) => link.startsWith('socket:'));
}

/** The sockets of this process, each once by its link. */
export function openSockets(): string[] {
  return [...new Set(sockets().map(([, link]) => link))];
}

/** The number that this process has for a descriptor of a socket. */
function numberOf(fd: NativeFd): number {
  const link = `socket:[${fd.identity().inode}]`;
  return Number(sockets().find((socket) => socket[1] === link)?.[0]);
}

/** A Python script that has a copy of a socket as descriptor 3. */
export function give(fd: NativeFd, script: string): ChildProcess {
  return spawn('python3', ['-c', script], { stdio: ['ignore', 'inherit', 'inherit', numberOf(fd)] });
}

/** What a call throws, as the addon's errors look. Fails when it does not throw. */
export function faultOf(call: () => unknown): NativeFault {
  try {
    call();
  } catch (error) {
    return error as NativeFault;
  }
  throw new Error('expected a failure');
}
