/** A session without memory: labels laid out like the native one's, descriptors from a ledger. */
import type { CreateSession, DeviceOptions } from '../../src/device/api.ts';
import type { NativeFd, Session, SessionOptions } from '../../src/native/binding.ts';
import { featureBit, hasFeature } from '../../src/virtio/feature.ts';
import { FakeControlQueue } from './fake-control-queue.ts';
import type { FdLedger } from './memory-socket.ts';

export const memoryLabel = 0x7f0000000000n;

export interface FakeSessions {
  readonly create: CreateSession;
  /** Options of every session made, in order. */
  readonly made: SessionOptions[];
  /** Sessions not closed yet. */
  readonly open: Set<Session>;
  /** What every ring expects of GET_VRING_BASE. */
  expectedBase: number;
  /** Thrown by the next `create`. */
  failWith: Error | null;
  /** Thrown by `addReceiveBuffers`. */
  failGrowth: Error | null;
  /** Thrown by `close`, once. */
  failClose: Error | null;
}

export function fakeSessions(ledger: FdLedger): FakeSessions {
  const sessions: FakeSessions = {
    made: [],
    open: new Set(),
    expectedBase: 0,
    failWith: null,
    failGrowth: null,
    failClose: null,
    create: (options) => {
      if (sessions.failWith !== null) throw sessions.failWith;
      sessions.made.push(options);
      const session = makeSession(options, ledger, sessions);
      sessions.open.add(session);
      return session;
    },
  };
  return sessions;
}

function makeSession(options: SessionOptions, ledger: FdLedger, sessions: FakeSessions): Session {
  const rings = Array.from({ length: 2 * options.pairs }, (_, ring) => {
    const base = memoryLabel + BigInt(ring) * 0x10000n;
    return {
      size: options.queueSize,
      descriptorAddress: base,
      availAddress: base + 0x4000n,
      usedAddress: base + 0x8000n,
    };
  });
  const memory = ledger.make();
  const kicks = rings.map(() => ledger.make());
  const calls = rings.map(() => ledger.make());
  const grown: NativeFd[] = [];
  const session: Session = {
    memory,
    memoryBytes: 0x4000000n,
    memoryLabel,
    rings,
    kicks,
    calls,
    control: hasFeature(options.features, featureBit.CTRL_VQ) ? new FakeControlQueue() : null,
    addReceiveBuffers: () => {
      if (sessions.failGrowth !== null) throw sessions.failGrowth;
      const fd = ledger.make();
      grown.push(fd);
      return { fd, label: memoryLabel + 0x100000000n * BigInt(grown.length), sizeBytes: 0x400000n };
    },
    dropReceiveBuffers: () => {
      const last = grown.pop();
      if (last === undefined) throw new Error('no receive buffers to drop');
      last.close();
    },
    expectedBase: () => sessions.expectedBase,
    close: () => {
      const failure = sessions.failClose;
      sessions.failClose = null;
      if (failure !== null) throw failure;
      for (const fd of [memory, ...kicks, ...calls, ...grown]) fd.close();
      sessions.open.delete(session);
    },
  };
  return session;
}

export function deviceOptions(changes: Partial<DeviceOptions> = {}): DeviceOptions {
  return {
    queues: 1,
    queueSize: 1024,
    cq: true,
    mac: '02:00:00:00:00:01',
    mrgRxbuf: true,
    inOrder: true,
    packedVq: false,
    mtu: 1500,
    memory: 'memfd',
    softwareOffloads: true,
    wantedPairs: null,
    ...changes,
  };
}
