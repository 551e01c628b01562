/**
 * The one door to the native addon: what C++ offers to TypeScript. Only files of this room import the `.node` file.
 *
 * Rules at this border:
 * - File descriptors and mappings cross as objects that own them, never as integers. `take…` moves ownership in (the
 *   object passed is closed-from-JS afterwards), everything else borrows.
 * - No packet and no view of shared memory reaches JavaScript.
 * - Failures are thrown (or rejected) as {@link NativeFault}: an Error with `code` (errno name), `errno`, `syscall`,
 *   and where it helps `path`. Misuse (a closed object, a wrong type) throws TypeError.
 * - Handlers are called on the JS thread, one event at a time; an exception in a handler goes to `uncaughtException`.
 */
import type { ControlCommand } from '../virtio/control.ts';

/** What a failed system call looks like. */
export interface NativeFault extends Error {
  readonly code: string;
  readonly errno: number;
  readonly syscall: string;
  readonly path?: string;
}

/** Owner of one file descriptor (O_CLOEXEC). `close` is idempotent; a finalizer closes what was forgotten. */
export interface NativeFd {
  close(): void;
  readonly isOpen: boolean;
  /** st_dev and st_ino: what tells two namespaces apart. */
  identity(): FileIdentity;
}

export interface FileIdentity {
  readonly device: bigint;
  readonly inode: bigint;
}

export interface PeerCredentials {
  readonly pid: number;
  readonly uid: number;
  readonly gid: number;
}

export interface SocketHandlers {
  /**
   * Bytes in order, at most 64 KiB at a time, with the descriptors that came with them. The handler owns `fds` and
   * must close every one that it does not keep. The next chunk is read only after the handler has returned.
   */
  onData(bytes: Buffer, fds: NativeFd[]): void;
  /** Once, last: null for end of file (or after `close()` was called: then it is not called at all). */
  onClose(fault: NativeFault | null): void;
}

/** A connected unix stream socket served by the reactor thread. */
export interface FdSocket {
  readonly peer: PeerCredentials;
  /**
   * One sendmsg with MSG_NOSIGNAL; descriptors travel with the first byte (at most 8, borrowed). What the kernel does
   * not take at once is queued, at most 8 MiB, then sent by the reactor.
   * @throws NativeFault EPIPE, ECONNRESET, ENOBUFS (queue full)
   */
  send(bytes: Uint8Array, fds: readonly NativeFd[]): void;
  /** Number of queued bytes that the kernel has not taken yet. */
  readonly pendingBytes: number;
  /** Closes when queued bytes are out, after 1 s at the latest. Idempotent. No event follows. */
  close(): void;
}

/** `socket` sees the end of file when the last copy of `peer` is closed, ours included. */
export interface SocketPair {
  /** Its `peer` is this process, which made the pair. */
  readonly socket: FdSocket;
  readonly peer: NativeFd;
}

export interface ListenerHandlers {
  /** A peer connected. Call `accept` on it at once or its descriptor is closed: handlers are attached there. */
  onConnection(incoming: IncomingSocket): void;
  onFault(fault: NativeFault): void;
}

export interface IncomingSocket {
  readonly peer: PeerCredentials;
  accept(handlers: SocketHandlers): FdSocket;
  refuse(): void;
}

export interface Listener {
  /** Stops listening and unlinks the path if it is still the socket that this listener bound. Idempotent. */
  close(): void;
}

/** Longest path of a unix socket: sun_path of sockaddr_un holds 108 bytes with its NUL (unix(7)). */
export const longestSocketPathBytes = 107;

/**
 * A socket path as (trusted directory, path below it). `baseDirectory` may contain symbolic links (an admin set it);
 * `relativePath` may not (openat2 RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS).
 */
export interface SocketPath {
  readonly baseDirectory: string;
  readonly relativePath: string;
}

export interface ListenOptions {
  readonly path: SocketPath;
  /** Permission bits of the socket file, e.g. 0o660. */
  readonly mode: number;
  /** chgrp of the socket file, or null. */
  readonly groupId: number | null;
  readonly backlog: number;
}

export interface TapSpec {
  readonly name: string;
  /** TAP queues = queue pairs, 1..256. */
  readonly queues: number;
  /** Bytes of the vnet header: 10 or 12. Set on every open. */
  readonly headerBytes: number;
  /**
   * Re-adoption: the device with this ifindex, whatever its name is by now (ENODEV: there is none, EEXIST: no TAP, ESTALE:
   * it was renamed meanwhile). null: a new one, whose name must be free (EEXIST).
   */
  readonly adoptIfindex: number | null;
  /** Set on creation only. */
  readonly mac: string;
  readonly mtu: number;
  /** Owner-independent extras, set on creation: txqueuelen in packets, gso_max_size in bytes. */
  readonly txQueueLength: number;
  readonly gsoMaxBytes: number;
}

export interface OpenedTap {
  readonly ifindex: number;
  /** One per queue, in order, non-blocking. */
  readonly queues: NativeFd[];
}

export interface PodAddress {
  /** Text of an IPv4 or IPv6 address, no prefix. */
  readonly address: string;
  readonly prefixLength: number;
}

export interface PodRoute {
  readonly destination: string;
  readonly prefixLength: number;
  readonly gateway: string | null;
  readonly mtu: number | null;
  readonly advmss: number | null;
  readonly priority: number | null;
  readonly table: number | null;
  /** RT_SCOPE_* number, or null for the default. */
  readonly scope: number | null;
}

export interface PodLinkSetup {
  readonly ifindex: number;
  readonly addresses: readonly PodAddress[];
  readonly routes: readonly PodRoute[];
}

export interface PodLinkState {
  readonly ifindex: number;
  /** `tun` for a TAP of ours (IFLA_INFO_KIND), or null. */
  readonly kind: string | null;
  readonly mac: string;
  readonly mtu: number;
  readonly up: boolean;
  readonly carrier: boolean;
  readonly addresses: readonly PodAddress[];
  readonly routes: readonly PodRoute[];
}

/**
 * Where one vring lies; all values are the labels that go into SET_VRING_ADDR and descriptors (gpa = uva = label).
 * With RING_PACKED the places of the avail and the used ring are the driver's and the device's event structure.
 */
export interface RingLayout {
  readonly size: number;
  readonly descriptorAddress: bigint;
  readonly availAddress: bigint;
  readonly usedAddress: bigint;
}

export interface SessionOptions {
  /** Queue pairs; rings are 2·pairs, rx = 2·i, tx = 2·i+1. */
  readonly pairs: number;
  /** Entries per ring: a power of two, 64..4096. */
  readonly queueSize: number;
  /** Bytes of one receive buffer, 2048..69632. */
  readonly rxBufferBytes: number;
  /** Acked feature mask: decides header size, EVENT_IDX, MRG_RXBUF, the kind of ring, and, with CTRL_VQ, the control queue. */
  readonly features: bigint;
  readonly memory: 'memfd' | 'hugetlb' | 'thp';
}

/**
 * The control queue in software: driver and device side of one ring, in memory that the backend never gets. A chain that
 * cannot be is answered with an error where it says where, and else ends the queue: every method throws EPIPE with the
 * reason from then on.
 */
export interface ControlQueue {
  /** Driver. @returns what its answer will carry. @throws NativeFault ENOSPC (ring full), EMSGSIZE, EPIPE */
  submit(command: ControlCommand): number;
  /** Driver: the next answer. */
  takeAnswer(): { readonly token: number; readonly ack: number } | null;
  /** Device: the next command; one at a time. */
  next(): ControlCommand | null;
  /** Device: answers what `next` returned, 0 for success. */
  complete(ack: number): void;
}

/** Which frames of the backend are for the pod. */
export interface RxFilterRules {
  /** Everything passes, whatever the rest says. */
  readonly promiscuous: boolean;
  readonly allMulticast: boolean;
  readonly allUnicast: boolean;
  readonly noMulticast: boolean;
  readonly noUnicast: boolean;
  readonly noBroadcast: boolean;
  readonly mac: string;
  readonly unicast: readonly string[];
  readonly multicast: readonly string[];
  /** VLAN ids whose tagged frames pass; null: tags are not looked at. */
  readonly vlans: readonly number[] | null;
}

/** What the pod's interface wants of its device: what a network card would be told. */
export interface PodLinkFilter {
  readonly mac: string;
  readonly mtu: number;
  readonly promiscuous: boolean;
  /**
   * Also where the kernel (before 6.14) does not tell when a group is joined, and instead of more groups than a command
   * carries, as `promiscuous` instead of more addresses: what one has at will costs the agent nothing. `multicast` is empty
   * then.
   */
  readonly allMulticast: boolean;
  /** Addresses beside `mac`: a macvlan on top, for instance. */
  readonly unicast: readonly string[];
  readonly multicast: readonly string[];
}

/** Watches the links of a pod's namespace, which it keeps alive until closed. */
export interface PodLinkWatch {
  /**
   * How the link is now; null: it is gone. From the call on, the next change is told once: call it again to learn of
   * further ones.
   */
  read(): Promise<PodLinkFilter | null>;
  close(): void;
}

/**
 * The memory of one backend connection: a sealed memfd with zeroed rings first and lazily touched buffers behind, and
 * a kick and a call eventfd per ring. Receive buffers are posted when the session is made, before any peer sees it.
 */
export interface Session {
  readonly memory: NativeFd;
  readonly memoryBytes: bigint;
  /** Label of offset 0 of the memory (gpa = userspace_addr). */
  readonly memoryLabel: bigint;
  readonly rings: readonly RingLayout[];
  readonly kicks: readonly NativeFd[];
  readonly calls: readonly NativeFd[];
  /** Where CTRL_VQ is among the features. */
  readonly control: ControlQueue | null;
  /**
   * What GET_VRING_BASE answers, in its low 16 bits, from a backend that has completed all it took: an anomaly check.
   * Split: used->idx. Packed: slot | wrap counter << 15. Call it when no port owns the session.
   */
  expectedBase(ring: number): number;
  /**
   * Adds a region with receive buffers of another size, 2048..69632 bytes each. What is posted stays valid; new ones are
   * posted there after `Port.useReceiveBuffers`, when the backend has mapped it. Owned by the session.
   * @throws NativeFault ENOSPC (8 regions are all that a memory table names), ENOMEM, EMFILE
   */
  addReceiveBuffers(rxBufferBytes: number): {
    readonly fd: NativeFd;
    readonly label: bigint;
    readonly sizeBytes: bigint;
  };
  /**
   * Takes the last `addReceiveBuffers` back, before the backend or a port has had anything of it.
   * @throws NativeFault EBUSY when a port uses it
   */
  dropReceiveBuffers(): void;
  /** Unmaps. Throws while a port still owns the session (quiesce first). Idempotent. */
  close(): void;
}

export interface PumpOptions {
  /** Thread name, at most 15 bytes. */
  readonly name: string;
  /** Adaptive spin after the last work, microseconds; 0 never spins. */
  readonly spinUs: number;
}

/** One native thread that moves frames for the ports assigned to it. */
export interface Pump {
  /** false: the kernel gave no AIO context, and every frame for a pod is a write of its own; nothing else changes. */
  readonly writesTogether: boolean;
  /** Joins the thread. Every port must be closed first. */
  close(): void;
}

/** What a backend did that broke its port. The port has stopped touching the session by itself. */
export type PortBreak = 'ring-corrupt' | 'kick-blocked' | 'memory-lost';

export interface PortEvent {
  /**
   * `ring-corrupt`: a used entry that cannot be.
   * `kick-blocked`: writes to a kick eventfd blocked or took milliseconds, which only a backend can bring about.
   * `memory-lost`: shared memory is gone; with huge pages the backend can punch holes.
   * `tap-gone`: the TAP was deleted (EBADFD, ENODEV).
   * `backend-stalled`: the backend has taken nothing of what waits for 5 s; again after every further 5 s.
   */
  readonly kind: PortBreak | 'tap-gone' | 'backend-stalled';
  readonly reason: string;
}

export interface PortOptions {
  /** Queue i of the TAP belongs to pair i. Ownership moves in (take). */
  readonly taps: readonly NativeFd[];
  /** Pair i is moved by pumps[i % pumps.length]. */
  readonly pumps: readonly Pump[];
  readonly onEvent: (event: PortEvent) => void;
}

export interface PortStartOptions {
  /** Segment TSO frames from the pod in software: the backend lacks HOST_TSO4/6. */
  readonly softwareGso: boolean;
  /** Complete partial checksums in software: the backend lacks CSUM. */
  readonly softwareChecksum: boolean;
  /** Merge TCP segments and UDP datagrams from the backend before they are written to the TAP. */
  readonly softwareGro: boolean;
  /** Pairs that carry traffic, 1..pairs; the others rest until `enlist`. */
  readonly activePairs: number;
}

/** Counters of one port since it was made, summed over pairs and sessions. tx: pod → backend, rx: backend → pod. */
export interface PortCounters {
  readonly txFrames: bigint;
  readonly txBytes: bigint;
  readonly rxFrames: bigint;
  readonly rxBytes: bigint;
  /** reason → frames. Every reason is present, with 0. */
  readonly drops: Readonly<Record<string, bigint>>;
  /** kicks sent, calls received, kicks suppressed, gso segments, gro merges, ring resets … every key present. */
  readonly events: Readonly<Record<string, bigint>>;
}

/**
 * A pod's TAP as the pump sees it, with or without a session.
 * States: `held` (made, or quiesced: nothing is read, the TAP's queue holds), `running`, `discarding` (read and
 * dropped, counted), `closed`.
 */
export interface Port {
  /** TUN_F_* mask. @throws NativeFault EINVAL for an illegal combination */
  setOffload(mask: number): void;
  setCarrier(up: boolean): void;
  /** held|discarding → running. Kicks every ring once. Resolves when the pumps own the session. */
  start(session: Session, options: PortStartOptions): Promise<void>;
  /** running|discarding → held. Resolves when no pump touches the session any more; frames in flight count as lost. */
  quiesce(): Promise<void>;
  /** Posts the buffers that the session got last, from now on, and kicks every ring once. @throws NativeFault ESHUTDOWN (not running) */
  useReceiveBuffers(): Promise<void>;
  /** From now on, also in later sessions. Resolves when the pumps obey. */
  setRxFilter(rules: RxFilterRules): Promise<void>;
  /**
   * Queue pairs that carry traffic while running, in steps (VIRTIO_NET_CTRL_MQ). Fewer: `finishTransmit(n)` sends what
   * waits in the TAP queues of the others, `detachQueues(n)` makes the kernel use the first n only, then the caller
   * disables the rings, and `retire(n)` delivers what these had received. More: the caller enables the rings, then
   * `enlist(n)`, which also takes `finishTransmit` back. What a pair has in its rings stays there.
   * @throws NativeFault EINVAL (none, or more than the session has), ESHUTDOWN (not running)
   */
  finishTransmit(pairs: number): Promise<void>;
  detachQueues(pairs: number): void;
  retire(pairs: number): Promise<void>;
  enlist(pairs: number): Promise<void>;
  /** held → discarding. */
  discard(): void;
  /**
   * Sends a frame (Ethernet, at most 1514 bytes) to the backend as if the pod had: announcements. Dropped unless running.
   */
  inject(frame: Uint8Array): void;
  counters(): PortCounters;
  /** Quiesces, then lets the TAP fds go (a persistent TAP stays). Idempotent. */
  close(): Promise<void>;
}

export interface ChildSpec {
  readonly path: string;
  /** NAME=value; nothing is inherited. */
  readonly environment: readonly string[];
  /** All of stdin. */
  readonly input: string;
  /** stdin is given only after `feed`: the program starts up meanwhile, and can do nothing yet. */
  readonly holdInput: boolean;
  readonly timeoutMs: number;
  /** stdout and stderr together; more ends the child. */
  readonly outputLimitBytes: number;
}

export interface ChildOutcome {
  readonly kind: 'exited' | 'signalled' | 'timeout' | 'killed' | 'flooded';
  /** Exit code, or signal number. */
  readonly code: number;
  /** Both are empty unless it exited. */
  readonly stdout: string;
  readonly stderr: string;
}

/** A program in a process group of its own. */
export interface Child {
  /** Resolves when it has been reaped. Rejects with a NativeFault when it could not be started (ENOENT, EACCES, ETXTBSY). */
  readonly ended: Promise<ChildOutcome>;
  /**
   * What is on its stdout as soon as that looks like a whole JSON object, before it has been reaped (for a Go program
   * 0.5 ms); null when it ended before. Never rejects.
   */
  readonly printed: Promise<string | null>;
  /** SIGKILL for the whole group. Idempotent. */
  kill(): void;
  /** Gives the held stdin. Idempotent. */
  feed(): void;
}

export interface NativeBinding {
  /** @throws NativeFault EADDRINUSE when somebody answers on the path; a dead socket file is replaced. */
  listenUnix(options: ListenOptions, handlers: ListenerHandlers): Listener;
  /** @throws NativeFault ENOENT, ECONNREFUSED, EACCES, ENOTSOCK, ELOOP, EAGAIN (backlog full) */
  connectUnix(path: SocketPath, handlers: SocketHandlers): FdSocket;
  /** Two connected sockets, one of them to be given away. @throws NativeFault EMFILE, ENFILE, ENOMEM */
  socketPair(handlers: SocketHandlers): SocketPair;

  /** Opens a namespace file. @throws NativeFault ENOENT; EINVAL when it is not a network namespace. */
  openNetns(path: string): NativeFd;
  /** The agent's own network namespace. */
  ownNetns(): NativeFd;
  /** @throws NativeFault EINVAL when a received descriptor is not a network namespace. */
  checkNetns(fd: NativeFd): void;

  openTap(netns: NativeFd, spec: TapSpec): Promise<OpenedTap>;
  /** Sets the link up, adds addresses (IPv6 without DAD) and routes. All or nothing is the caller's: on failure delete the link. */
  setupPodLink(netns: NativeFd, setup: PodLinkSetup): Promise<void>;
  /** null when the namespace has no such link. */
  inspectPodLink(netns: NativeFd, name: string): Promise<PodLinkState | null>;
  /** Deletes the TAP of that ifindex, whatever its name is by now; `name` is for errors. false: it was not there. */
  deletePodLink(netns: NativeFd, name: string, ifindex: number): Promise<boolean>;

  /** `onChange` is called when links or multicast groups of the namespace change; see PodLinkWatch. */
  watchPodLink(netns: NativeFd, ifindex: number, onChange: () => void): Promise<PodLinkWatch>;

  createSession(options: SessionOptions): Session;
  createPump(options: PumpOptions): Pump;
  createPort(options: PortOptions): Port;

  /** Runs a program to its end without forking this process. */
  runChild(spec: ChildSpec): Child;

  /**
   * A new file `temporary` (0600) with these contents, made durable and renamed to `path`, in one step of the thread
   * pool. A failure leaves `path` as it was. The name is durable after `syncDirectory`.
   * @throws NativeFault ENOSPC, EDQUOT, EIO, EACCES, EEXIST (the temporary) …
   */
  replaceFile(temporary: string, path: string, contents: string): Promise<void>;
  /** Makes durable what was created, renamed or removed in a directory. @throws NativeFault EIO, ENOENT, EACCES … */
  syncDirectory(path: string): Promise<void>;

  /**
   * Every thread of this process but the pumps' keeps off these cores, and so do as many of the programs that it runs as
   * there are cores left; none named: all run wherever the process may. Before Linux 6.2 a change of the cpuset undoes it.
   * @returns false when nothing else is left to it; then nothing has changed
   * @throws NativeFault EPERM (a seccomp filter), EMFILE …
   */
  keepOffCores(cores: readonly number[]): boolean;

  /** flock(LOCK_EX|LOCK_NB) on a file, created 0600. null: another process holds it. Released by close. */
  tryLockFile(path: string, shared: boolean): NativeFd | null;
  /** Stops every thread and closes every object of this environment, at once; for shutdown and for tests. Idempotent. */
  shutdown(): void;
}
