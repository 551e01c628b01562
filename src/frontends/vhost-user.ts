/** The backend operations over a vhost-user socket (`vhost_user.c` of the original). */
import { errnoOf, messageOf, VirtioUserError } from '../errors.ts';
import type { Frontend, FrontendAbilities, MemoryRegion } from '../device/frontend.ts';
import type { NativeBinding, NativeFd, RingLayout } from '../native/binding.ts';
import type { Logger } from '../telemetry/log.ts';
import {
  encodeMemoryTable,
  encodeU64,
  encodeVringAddress,
  encodeVringFile,
  encodeVringState,
  decodeU64,
  decodeVringState,
  maximumRing,
} from '../vhost-user/payload.ts';
import { hasProtocolFeature, protocolFeatureNames, supportedProtocolFeatures } from '../vhost-user/protocol-feature.ts';
import {
  featureBit,
  featureMask,
  featureNames,
  formatMask,
  hasFeature,
  localFeatures,
  supportedFeatures,
} from '../virtio/feature.ts';
import { statusBit, statusNames } from '../virtio/status.ts';
import { BackChannel } from './back-channel.ts';
import type { Channel } from './channel.ts';
import type { Timers } from '../clock.ts';

/** A file message names a ring in 8 bits. */
const maximumPairs = (maximumRing + 1) / 2;

const nothingAgreed: FrontendAbilities = {
  protocolFeatures: [],
  maxQueuePairs: 1,
  ringEnable: false,
  status: false,
  mtu: false,
};

/** What the back channel is made of. */
export interface VhostUserFrontendParts {
  readonly binding: Pick<NativeBinding, 'socketPair'>;
  readonly timers: Timers;
  readonly logger: Logger;
  /** For messages: the socket path. */
  readonly name: string;
}

export class VhostUserFrontend implements Frontend {
  readonly generation: number;
  readonly backendPid: number | null;
  onConfigChange: (() => void) | null = null;
  readonly #channel: Channel;
  readonly #parts: VhostUserFrontendParts;
  #offered = 0n;
  #abilities = nothingAgreed;
  /** Those that SET_VRING_CALL has named. */
  #rings = 0;

  constructor(channel: Channel, generation: number, parts: VhostUserFrontendParts) {
    this.#channel = channel;
    this.#parts = parts;
    this.generation = generation;
    this.backendPid = channel.backendPid;
  }

  get abilities(): FrontendAbilities {
    return this.#abilities;
  }

  get isOpen(): boolean {
    return this.#channel.isOpen;
  }

  get onDisconnect(): ((error: Error) => void) | null {
    return this.#channel.onEnd;
  }

  set onDisconnect(handler: ((error: Error) => void) | null) {
    this.#channel.onEnd = handler;
  }

  async setOwner(): Promise<void> {
    await this.#channel.tell('SET_OWNER');
  }

  async getFeatures(): Promise<bigint> {
    const channel = this.#channel;
    this.#offered = decodeU64(await channel.ask('GET_FEATURES'));
    this.#abilities = nothingAgreed;
    if (!hasFeature(this.#offered, featureBit.PROTOCOL_FEATURES)) return this.#offered;

    const protocol = decodeU64(await channel.ask('GET_PROTOCOL_FEATURES')) & supportedProtocolFeatures;
    await channel.tell('SET_PROTOCOL_FEATURES', encodeU64(protocol));
    channel.acknowledges = hasProtocolFeature(protocol, 'REPLY_ACK');
    const maxQueuePairs = hasProtocolFeature(protocol, 'MQ') ? await readQueuePairs(channel) : 1;
    if (hasProtocolFeature(protocol, 'BACKEND_REQ') && channel.companion === null) await this.#openBackChannel();
    this.#abilities = {
      protocolFeatures: protocolFeatureNames(protocol),
      maxQueuePairs,
      ringEnable: true,
      status: hasProtocolFeature(protocol, 'STATUS'),
      mtu: hasProtocolFeature(protocol, 'MTU'),
    };
    return this.#offered;
  }

  async setFeatures(features: bigint): Promise<void> {
    const wire = features & ~localFeatures;
    const stray = wire & ~(this.#offered & supportedFeatures);
    if (stray !== 0n) {
      throw this.#fail(new VirtioUserError('BUG', `SET_FEATURES with ${featureNames(stray).join(', ')}, not offered`));
    }
    const transport = this.#offered & featureMask(featureBit.PROTOCOL_FEATURES);
    await this.#channel.tell('SET_FEATURES', encodeU64(wire | transport));
  }

  async setMemoryTable(regions: readonly MemoryRegion[]): Promise<void> {
    const payload = encodeMemoryTable(
      regions.map(({ label, sizeBytes, offsetBytes }) => ({
        guestAddress: label,
        userAddress: label,
        sizeBytes,
        offsetBytes,
      })),
    );
    await this.#channel.tell(
      'SET_MEM_TABLE',
      payload,
      regions.map(({ fd }) => fd),
    );
    await this.barrier();
  }

  async setVringNum(ring: number, size: number): Promise<void> {
    await this.#channel.tell('SET_VRING_NUM', encodeVringState({ index: ring, num: size }));
  }

  async setVringBase(ring: number, base: number): Promise<void> {
    await this.#channel.tell('SET_VRING_BASE', encodeVringState({ index: ring, num: base }));
  }

  async setVringAddr(ring: number, layout: RingLayout): Promise<void> {
    const payload = encodeVringAddress({
      index: ring,
      descriptors: layout.descriptorAddress,
      used: layout.usedAddress,
      avail: layout.availAddress,
    });
    await this.#channel.tell('SET_VRING_ADDR', payload);
  }

  async setVringKick(ring: number, eventfd: NativeFd): Promise<void> {
    await this.#channel.tell('SET_VRING_KICK', encodeVringFile(ring, true), [eventfd]);
  }

  async setVringCall(ring: number, eventfd: NativeFd): Promise<void> {
    this.#rings = Math.max(this.#rings, ring + 1);
    await this.#channel.tell('SET_VRING_CALL', encodeVringFile(ring, true), [eventfd]);
  }

  async setVringEnable(ring: number, enabled: boolean): Promise<void> {
    this.#require(this.#abilities.ringEnable, 'SET_VRING_ENABLE', 'PROTOCOL_FEATURES');
    await this.#channel.tell(
      'SET_VRING_ENABLE',
      encodeVringState({ index: ring, num: enabled ? 1 : 0 }),
      [],
      'survives',
    );
    // Memory is reused after a ring is disabled: only a backend that has seen it makes that safe.
    if (!enabled) await this.barrier();
  }

  async getVringBase(ring: number): Promise<number> {
    const reply = decodeVringState(
      await this.#channel.ask('GET_VRING_BASE', encodeVringState({ index: ring, num: 0 })),
    );
    if (reply.index !== ring) {
      throw this.#fail(
        new VirtioUserError('PROTOCOL_VIOLATION', `backend answered GET_VRING_BASE of ring ${ring} for ${reply.index}`),
      );
    }
    return reply.num;
  }

  async setStatus(status: number): Promise<void> {
    this.#require(this.#abilities.status, 'SET_STATUS', 'STATUS');
    await this.#channel.tell('SET_STATUS', encodeU64(BigInt(status)));
  }

  async getStatus(): Promise<number> {
    this.#require(this.#abilities.status, 'GET_STATUS', 'STATUS');
    // The byte travels in a u64; what stands above it has no meaning.
    return Number(decodeU64(await this.#channel.ask('GET_STATUS')) & 0xffn);
  }

  async setMtu(mtu: number): Promise<void> {
    this.#require(this.#abilities.mtu, 'NET_SET_MTU', 'MTU');
    await this.#channel.tell('NET_SET_MTU', encodeU64(BigInt(mtu)), [], 'survives');
  }

  async probe(deadlineMs: number): Promise<void> {
    if (!this.#abilities.status) {
      await this.#channel.ask('GET_FEATURES', undefined, deadlineMs);
      return;
    }
    const status = Number(decodeU64(await this.#channel.ask('GET_STATUS', undefined, deadlineMs)) & 0xffn);
    if ((status & (statusBit.NEEDS_RESET | statusBit.FAILED)) === 0) return;
    const names = statusNames(status).join(' ');
    throw this.#fail(new VirtioUserError('BACKEND_REFUSED', `backend asks to be reset: its status is ${names}`));
  }

  /** A request with a reply of its own is the only barrier that every backend has; QEMU takes GET_FEATURES too. */
  async barrier(): Promise<void> {
    if (this.#channel.unconfirmed) await this.#channel.ask('GET_FEATURES');
  }

  close(): void {
    this.#channel.close();
  }

  fail(error: VirtioUserError): void {
    this.#fail(error);
  }

  /** Once, before the first ring, as QEMU does it. A backend that refuses goes without: nothing else depends on it. */
  async #openBackChannel(): Promise<void> {
    const { name, logger } = this.#parts;
    const backChannel = this.#makeBackChannel();
    this.#channel.companion = backChannel;
    try {
      await this.#channel.tell('SET_BACKEND_REQ_FD', undefined, [backChannel.peer], 'survives');
    } catch (thrown) {
      backChannel.close();
      if (!(thrown instanceof VirtioUserError) || thrown.code !== 'BACKEND_REFUSED') throw thrown;
      logger.info({ path: name }, 'the backend offers a back channel and refuses it');
    } finally {
      // The backend has a copy of its own; while ours is open no end of file would come.
      backChannel.peer.close();
    }
  }

  #makeBackChannel(): BackChannel {
    const { binding, ...options } = this.#parts;
    try {
      return new BackChannel(binding, {
        ...options,
        rings: () => this.#rings,
        onConfigChange: () => this.onConfigChange?.(),
      });
    } catch (thrown) {
      const what = `${options.name}: socket pair of the back channel: ${messageOf(thrown)}`;
      const details = { errno: errnoOf(thrown) };
      throw this.#fail(new VirtioUserError('RESOURCE_EXHAUSTED', what, { details, cause: thrown }));
    }
  }

  #require(agreed: boolean, operation: string, feature: string): void {
    if (agreed) return;
    throw this.#fail(
      new VirtioUserError('NOT_NEGOTIATED', `${operation} needs ${feature}, which this backend lacks`, {
        details: { missing: feature, offered: formatMask(this.#offered) },
      }),
    );
  }

  #fail(error: VirtioUserError): VirtioUserError {
    return this.#channel.fail(error);
  }
}

/**
 * GET_QUEUE_NUM, in pairs: what DPDK, OVS, VPP and QEMU's network code mean by it (rust-vmm counts virtqueues; asking
 * for half as many there is safe too, since a ring index beyond what it has is refused and named).
 */
export async function readQueuePairs(channel: Channel): Promise<number> {
  const answer = decodeU64(await channel.ask('GET_QUEUE_NUM'));
  if (answer === 0n) {
    throw channel.fail(new VirtioUserError('PROTOCOL_VIOLATION', 'backend answered GET_QUEUE_NUM with 0'));
  }
  return answer > BigInt(maximumPairs) ? maximumPairs : Number(answer);
}
