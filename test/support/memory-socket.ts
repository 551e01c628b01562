/**
 * The native socket interface within one process: a pair of connected sockets that carry bytes and descriptors, a
 * ledger of descriptors that shows leaks, and a binding whose paths live in a map. Each `send` arrives as one event,
 * like one sendmsg does on an idle peer.
 */
import type {
  FdSocket,
  IncomingSocket,
  Listener,
  ListenerHandlers,
  ListenOptions,
  NativeBinding,
  NativeFault,
  NativeFd,
  PeerCredentials,
  SocketHandlers,
  SocketPair,
  SocketPath,
} from '../../src/native/binding.ts';

/** Descriptors made by one test; `open` must be what the test expects at its end. */
export class FdLedger {
  #open = 0;
  #made = 0;
  /** Ends of socket pairs by inode, while a descriptor of them is open. */
  readonly #ends = new Map<bigint, { copies: number; readonly socket: MemorySocket }>();

  get open(): number {
    return this.#open;
  }

  make(): NativeFd {
    this.#open += 1;
    this.#made += 1;
    const inode = BigInt(this.#made);
    return this.#own({ device: 1n, inode });
  }

  /** A descriptor of a socket, which is closed with the last copy. */
  makeSocket(socket: MemorySocket): NativeFd {
    const fd = this.make();
    this.#ends.set(fd.identity().inode, { copies: 1, socket });
    return fd;
  }

  /** What a peer has in hand that got this descriptor. */
  socketOf(fd: NativeFd): MemorySocket {
    const end = this.#ends.get(fd.identity().inode);
    if (end === undefined) throw new Error('descriptor of no socket');
    return end.socket;
  }

  /** What SCM_RIGHTS does: another descriptor for the same file. */
  duplicate(fd: NativeFd): NativeFd {
    if (!fd.isOpen) throw new TypeError('descriptor is closed');
    this.#open += 1;
    const end = this.#ends.get(fd.identity().inode);
    if (end !== undefined) end.copies += 1;
    return this.#own(fd.identity());
  }

  #own(identity: { readonly device: bigint; readonly inode: bigint }): NativeFd {
    let isOpen = true;
    return {
      close: () => {
        if (!isOpen) return;
        isOpen = false;
        this.#open -= 1;
        this.#letGo(identity.inode);
      },
      get isOpen() {
        return isOpen;
      },
      identity: () => identity,
    };
  }

  #letGo(inode: bigint): void {
    const end = this.#ends.get(inode);
    if (end === undefined) return;
    end.copies -= 1;
    if (end.copies > 0) return;
    this.#ends.delete(inode);
    end.socket.close();
  }
}

export function nativeFault(code: string, syscall: string): NativeFault {
  return Object.assign(new Error(`${syscall}: ${code}`), { code, errno: 1, syscall });
}

const ownCredentials: PeerCredentials = { pid: process.pid, uid: 0, gid: 0 };

export class MemorySocket implements FdSocket {
  readonly peer: PeerCredentials;
  /** What the kernel of a peer that does not read would not take; set by the test. */
  pendingBytes = 0;
  handlers: SocketHandlers | null = null;
  /** Arrivals before anybody listens. */
  readonly #backlog: (() => void)[] = [];
  readonly #ledger: FdLedger;
  #other: MemorySocket | null = null;
  #isOpen = true;
  /** Set: the next send fails with this errno. */
  failSend: string | null = null;

  constructor(ledger: FdLedger, peer: PeerCredentials = ownCredentials) {
    this.#ledger = ledger;
    this.peer = peer;
  }

  static pair(ledger: FdLedger): [MemorySocket, MemorySocket] {
    const [left, right] = [new MemorySocket(ledger), new MemorySocket(ledger)];
    left.#other = right;
    right.#other = left;
    return [left, right];
  }

  get isOpen(): boolean {
    return this.#isOpen;
  }

  /** The socket at the other end. */
  get other(): MemorySocket {
    if (this.#other === null) throw new Error('socket without another end');
    return this.#other;
  }

  attach(handlers: SocketHandlers): this {
    this.handlers = handlers;
    for (const deliver of this.#backlog.splice(0)) setImmediate(deliver);
    return this;
  }

  send(bytes: Uint8Array, fds: readonly NativeFd[]): void {
    if (!this.#isOpen) throw new TypeError('socket is closed');
    if (this.failSend !== null) throw nativeFault(this.failSend, 'sendmsg');
    if (this.#other?.isOpen !== true) throw nativeFault('EPIPE', 'sendmsg');
    const copy = Buffer.from(bytes);
    const travelling = fds.map((fd) => this.#ledger.duplicate(fd));
    this.#other.#deliver(
      (handlers) => handlers.onData(copy, travelling),
      () => travelling.forEach((fd) => fd.close()),
    );
  }

  close(): void {
    if (!this.#isOpen) return;
    this.#isOpen = false;
    this.#tellOther(null);
  }

  /** The connection breaks with an errno instead of an end of file. */
  breakWith(code: string): void {
    this.#isOpen = false;
    this.#tellOther(nativeFault(code, 'recvmsg'));
  }

  #tellOther(fault: NativeFault | null): void {
    const other = this.#other;
    if (other === null) return;
    other.#deliver((handlers) => {
      other.#isOpen = false;
      handlers.onClose(fault);
    });
  }

  #deliver(run: (handlers: SocketHandlers) => void, discard = (): void => {}): void {
    const deliver = (): void => {
      if (this.#isOpen && this.handlers !== null) run(this.handlers);
      else discard();
    };
    if (this.handlers === null) this.#backlog.push(deliver);
    else setImmediate(deliver);
  }
}

/** Sockets by path. What a test wants from a path is put into `failures`. */
export class MemoryBinding implements Pick<NativeBinding, 'listenUnix' | 'connectUnix' | 'socketPair'> {
  readonly ledger: FdLedger;
  /** path → errno that connect and listen fail with; `socketpair` for that. */
  readonly failures = new Map<string, string>();
  readonly #listeners = new Map<string, ListenerHandlers>();
  /** path → errno of each attempt (null: connected), in order. */
  readonly attempts: (string | null)[] = [];

  constructor(ledger = new FdLedger()) {
    this.ledger = ledger;
  }

  listenUnix(options: ListenOptions, handlers: ListenerHandlers): Listener {
    const path = fullPath(options.path);
    const failure = this.failures.get(path) ?? (this.#listeners.has(path) ? 'EADDRINUSE' : null);
    if (failure !== null) throw nativeFault(failure, 'bind');
    this.#listeners.set(path, handlers);
    return {
      close: () => {
        if (this.#listeners.get(path) === handlers) this.#listeners.delete(path);
      },
    };
  }

  connectUnix(path: SocketPath, handlers: SocketHandlers): FdSocket {
    const failure = this.failures.get(fullPath(path)) ?? (this.#listeners.has(fullPath(path)) ? null : 'ENOENT');
    this.attempts.push(failure);
    if (failure !== null) throw nativeFault(failure, 'connect');
    return this.#connect(fullPath(path)).attach(handlers);
  }

  socketPair(handlers: SocketHandlers): SocketPair {
    const failure = this.failures.get('socketpair');
    if (failure !== undefined) throw nativeFault(failure, 'socketpair');
    const [near, far] = MemorySocket.pair(this.ledger);
    return { socket: near.attach(handlers), peer: this.ledger.makeSocket(far) };
  }

  /** A peer connects; its handlers are attached by the caller. */
  dial(path: string): MemorySocket {
    if (!this.#listeners.has(path)) throw nativeFault('ENOENT', 'connect');
    return this.#connect(path);
  }

  /** The file of a socket is removed: nobody finds it any more. */
  forget(path: string): void {
    this.#listeners.delete(path);
  }

  isListening(path: string): boolean {
    return this.#listeners.has(path);
  }

  #connect(path: string): MemorySocket {
    const [near, far] = MemorySocket.pair(this.ledger);
    setImmediate(() => {
      const incoming: IncomingSocket = {
        peer: far.peer,
        accept: (handlers) => far.attach(handlers),
        refuse: () => far.close(),
      };
      this.#listeners.get(path)?.onConnection(incoming);
      if (far.handlers === null) far.close();
    });
    return near;
  }
}

function fullPath({ baseDirectory, relativePath }: SocketPath): string {
  return `${baseDirectory}/${relativePath}`;
}
