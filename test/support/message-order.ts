/**
 * The rules that real backends enforce between them (virtio specification of vhost-user, DPDK, VPP, rust-vmm,
 * libvhost-user), as one checker: it takes messages in order and names the first rule that each breaks.
 */
import { needReplyFlag, versionFlag } from '../../src/vhost-user/header.ts';
import type { WireMessage } from './wire.ts';

export interface OrderOptions {
  /** Features offered, bit 30 included where it is. */
  readonly features: bigint;
  readonly protocolFeatures: bigint;
  readonly queuePairs: number;
  /** The peer only looks: it may leave SET_OWNER out, and must set nothing up. */
  readonly probed?: boolean;
}

/** What the backend has of a ring. */
interface RingProgress {
  call: boolean;
  num: boolean;
  base: boolean;
  addr: boolean;
  kick: boolean;
  enabled: boolean;
}

interface MessageRule {
  readonly bytes: number | null;
  readonly fds: number | null;
  readonly ack: boolean;
  /** Protocol feature bit that must be acked, or null. */
  readonly gate: number | null;
}

const rule = (bytes: number | null, fds: number | null, ack: boolean, gate: number | null = null): MessageRule => ({
  bytes,
  fds,
  ack,
  gate,
});

/** Written from the specification's table, apart from the table of the code under test. */
const rules: Readonly<Record<string, MessageRule>> = {
  GET_FEATURES: rule(0, 0, false),
  SET_FEATURES: rule(8, 0, true),
  SET_OWNER: rule(0, 0, false),
  SET_MEM_TABLE: rule(null, null, true),
  SET_VRING_NUM: rule(8, 0, true),
  SET_VRING_ADDR: rule(40, 0, true),
  SET_VRING_BASE: rule(8, 0, true),
  GET_VRING_BASE: rule(8, 0, false),
  SET_VRING_KICK: rule(8, 1, true),
  SET_VRING_CALL: rule(8, 1, true),
  GET_PROTOCOL_FEATURES: rule(0, 0, false),
  SET_PROTOCOL_FEATURES: rule(8, 0, false),
  GET_QUEUE_NUM: rule(0, 0, false, 0),
  SET_VRING_ENABLE: rule(8, 0, true),
  NET_SET_MTU: rule(8, 0, true, 4),
  SET_BACKEND_REQ_FD: rule(0, 1, true, 5),
  SET_STATUS: rule(8, 0, true, 16),
  GET_STATUS: rule(0, 0, false, 16),
};

const freshRing = { call: false, num: false, base: false, addr: false, kick: false, enabled: false } as const;

const bit = (mask: bigint, number: number): boolean => ((mask >> BigInt(number)) & 1n) === 1n;

export class MessageOrder {
  readonly #options: OrderOptions;
  readonly #rings: RingProgress[] = [];
  #owner = false;
  #protocolRead = false;
  #protocol: bigint | null = null;
  #features: bigint | null = null;
  #statusAgreed = false;
  #statusRead = false;
  #memory = false;
  #driverOk = false;
  #backChannel = false;
  /** Takes the last SET_VRING_ENABLE back. */
  #undoEnable = (): void => {};

  constructor(options: OrderOptions) {
    this.#options = options;
  }

  get ackedProtocol(): bigint {
    return this.#protocol ?? 0n;
  }

  get ackedFeatures(): bigint | null {
    return this.#features;
  }

  /** Everything that a backend needs before it moves a frame. */
  get running(): boolean {
    const rings = this.#rings.length > 0 && this.#rings.every((ring) => this.#moves(ring));
    return rings && (this.#driverOk || !bit(this.ackedProtocol, 16));
  }

  /** Rings that a backend works on now, by index. */
  get movingRings(): number[] {
    return [...this.#rings.keys()].filter((index) => this.#moves(this.#rings[index] ?? freshRing));
  }

  /** Without bit 30 rings are enabled from the start. */
  #moves(ring: Readonly<RingProgress>): boolean {
    return ring.kick && (ring.enabled || !bit(this.#features ?? 0n, 30));
  }

  /** The message taken last was refused: a ring stays as it was. */
  refuse({ name }: WireMessage): void {
    if (name === 'SET_VRING_ENABLE') this.#undoEnable();
  }

  /** @returns the rule that this message breaks, or null */
  take(message: WireMessage): string | null {
    return this.#checkShape(message) ?? this.#checkOrder(message);
  }

  #checkShape({ name, flags, payload, fds }: WireMessage): string | null {
    const expected = rules[name];
    if (expected === undefined) return `unknown ${name}`;
    const acks = bit(this.ackedProtocol, 3);
    const wanted = acks && expected.ack ? versionFlag | needReplyFlag : versionFlag;
    if (flags !== wanted) return `${name} with flags 0x${flags.toString(16)} instead of 0x${wanted.toString(16)}`;
    if (expected.bytes !== null && payload.length !== expected.bytes) return `${name} of ${payload.length} bytes`;
    if (expected.fds !== null && fds.length !== expected.fds) return `${name} with ${fds.length} descriptors`;
    if (expected.gate !== null && !bit(this.ackedProtocol, expected.gate)) return `${name} was not agreed on`;
    return null;
  }

  #checkOrder(message: WireMessage): string | null {
    const { name, payload } = message;
    if (this.#options.probed === true) {
      if (!/^GET_|^SET_PROTOCOL_FEATURES$/.test(name)) return `${name} from one that only looks`;
    } else if (name !== 'SET_OWNER' && !this.#owner) {
      return `${name} before SET_OWNER`;
    }
    switch (name) {
      case 'SET_OWNER':
        if (this.#owner) return 'SET_OWNER twice';
        this.#owner = true;
        return null;
      case 'GET_PROTOCOL_FEATURES':
        this.#protocolRead = true;
        return bit(this.#options.features, 30) ? null : `${name} without bit 30`;
      case 'SET_PROTOCOL_FEATURES': {
        if (!this.#protocolRead) return `${name} before GET_PROTOCOL_FEATURES`;
        this.#protocol = payload.readBigUInt64LE(0);
        // Descriptors and host notifiers come on a back channel, and only this frontend knows that it takes none.
        if (bit(this.#protocol, 10) || bit(this.#protocol, 11)) return `${name} that allows descriptors`;
        // It has no use for the configuration space either: all of it is its own.
        if (bit(this.#protocol, 9)) return `${name} with access to the configuration`;
        return (this.#protocol & ~this.#options.protocolFeatures) === 0n ? null : `${name} beyond the offer`;
      }
      case 'SET_FEATURES':
        return this.#setFeatures(payload.readBigUInt64LE(0));
      case 'SET_MEM_TABLE':
        return this.#setMemory(message);
      case 'SET_STATUS':
        return this.#setStatus(payload.readBigUInt64LE(0));
      case 'GET_STATUS':
        this.#statusRead = this.#statusAgreed;
        return null;
      case 'SET_BACKEND_REQ_FD':
        if (this.#backChannel) return `${name} twice`;
        this.#backChannel = true;
        return this.#features === null && this.#rings.length === 0 ? null : `${name} after the first ring`;
      case 'NET_SET_MTU':
        return this.#features === null ? `${name} before SET_FEATURES` : null;
      case 'GET_FEATURES':
      case 'GET_QUEUE_NUM':
        return null;
      default:
        return this.#ringMessage(name, payload);
    }
  }

  #setFeatures(features: bigint): string | null {
    this.#features = features;
    const { features: offered } = this.#options;
    if ((features & ~offered) !== 0n) return `SET_FEATURES 0x${features.toString(16)} beyond the offer`;
    if (bit(features, 30) !== bit(offered, 30)) return 'SET_FEATURES without the bit 30 that was offered';
    const never = [5, 16, 17, 26, 27, 33].find((number) => bit(features, number));
    if (never !== undefined) return `SET_FEATURES with bit ${never}`;
    return this.#rings.length === 0 ? 'SET_FEATURES before SET_VRING_CALL' : null;
  }

  #setMemory({ payload, fds }: WireMessage): string | null {
    if (this.#features === null) return 'SET_MEM_TABLE before SET_FEATURES';
    if (bit(this.ackedProtocol, 16) && !this.#statusRead) return 'SET_MEM_TABLE before FEATURES_OK was read back';
    const regions = payload.readUInt32LE(0);
    const moving = this.movingRings;
    // What a backend reads and writes may go away under it.
    if (moving.length > 0) return `SET_MEM_TABLE while ring ${moving.join(', ')} moves`;
    if (regions < 1 || regions > 8) return `${regions} regions`;
    if (payload.length !== 8 + 32 * regions || fds.length !== regions) return `${regions} regions, ${fds.length} files`;
    if (payload.readUInt32LE(4) !== 0) return 'padding of SET_MEM_TABLE is not zero';
    this.#memory = true;
    return null;
  }

  #setStatus(status: bigint): string | null {
    if (this.#features === null) return 'SET_STATUS before SET_FEATURES';
    if (status === 0x0bn) {
      this.#statusAgreed = true;
      return null;
    }
    if (status !== 0x0fn) return `SET_STATUS 0x${status.toString(16)}`;
    this.#driverOk = true;
    if (this.#rings.some((ring) => !ring.kick)) return 'DRIVER_OK before every ring was started';
    return this.#rings.some((ring) => ring.enabled) ? null : 'DRIVER_OK before SET_VRING_ENABLE';
  }

  #ringMessage(name: string, payload: Buffer): string | null {
    const index = payload.readUInt32LE(0) & (name === 'SET_VRING_KICK' || name === 'SET_VRING_CALL' ? 0xff : ~0);
    if (name === 'SET_VRING_CALL') {
      if (payload.readBigUInt64LE(0) !== BigInt(index)) return `${name} says that no descriptor follows`;
      if (index >= 2 * this.#options.queuePairs) return `${name} of ring ${index}, beyond the queues of the backend`;
      return this.#setCall(index);
    }
    const ring = this.#rings[index];
    if (ring === undefined) return `${name} of ring ${index} before its SET_VRING_CALL`;
    if (this.#features === null) return `${name} before SET_FEATURES`;
    switch (name) {
      case 'SET_VRING_NUM':
        ring.num = true;
        if (!ring.call) return `${name} of ring ${index} before SET_VRING_CALL was sent again`;
        return ring.kick ? `${name} of a started ring` : null;
      case 'SET_VRING_BASE':
        ring.base = true;
        return ring.num && !ring.addr ? null : `${name} of ring ${index} out of order`;
      case 'SET_VRING_ADDR':
        ring.addr = true;
        if (payload.readUInt32LE(4) !== 0 || payload.readBigUInt64LE(32) !== 0n) return `${name} with a dirty log`;
        if (!this.#memory) return `${name} before SET_MEM_TABLE`;
        return ring.num && ring.base && !ring.kick ? null : `${name} of ring ${index} out of order`;
      case 'SET_VRING_KICK':
        ring.kick = true;
        return ring.addr ? null : `${name} of ring ${index} before its address`;
      case 'SET_VRING_ENABLE':
        if (!bit(this.#features, 30)) return `${name} without bit 30`;
        this.#enable(ring, payload.readUInt32LE(4) === 1);
        if (payload.readUInt32LE(4) > 1) return `${name} with ${payload.readUInt32LE(4)}`;
        return ring.kick ? null : `${name} of ring ${index} before its kick`;
      case 'GET_VRING_BASE':
        if (payload.readUInt32LE(4) !== 0) return `${name} with an index that is not zero`;
        if (ring.enabled) return `${name} of ring ${index} while it is enabled`;
        // Eventfds, size and addresses are forgotten with it: whoever starts the ring again says all of it again.
        Object.assign(ring, freshRing);
        return null;
      default:
        return `unknown ${name}`;
    }
  }

  /** The first ones make the queues, in order; later ones belong to rings that were taken back. */
  #setCall(index: number): string | null {
    const known = this.#rings[index];
    if (known !== undefined) {
      if (known.call) return `SET_VRING_CALL of ring ${index} twice`;
      known.call = true;
      return null;
    }
    if (index !== this.#rings.length) return `SET_VRING_CALL of ring ${index} out of order`;
    if (this.#features !== null) return 'SET_VRING_CALL after SET_FEATURES';
    this.#rings.push({ ...freshRing, call: true });
    return null;
  }

  #enable(ring: RingProgress, enabled: boolean): void {
    const before = ring.enabled;
    this.#undoEnable = () => {
      ring.enabled = before;
    };
    ring.enabled = enabled;
  }
}
