/**
 * Virtio feature bits: number, name, what a bit depends on, and which of them this project implements.
 *
 * Masks are `bigint` from end to end: bits from 53 on do not survive a JS number, and `1 << 32` is 1.
 * Source: virtio 1.3 sections 5.1.3 and 6; bits 26, 27 and 30 are vhost's own (linux/vhost_types.h, vhost-user).
 */
import { VirtioUserError } from '../errors.ts';

export interface FeatureInfo {
  readonly bit: number;
  /** As in the specification, without `VIRTIO_F_`, `VIRTIO_NET_F_`, `VHOST_…_F_`. */
  readonly name: string;
  /** Every group must be satisfied by at least one of its bits. */
  readonly needs: readonly (readonly number[])[];
  /** Where the feature is implemented here, or null: never acknowledged. */
  readonly room: string | null;
}

const info = (
  bit: number,
  name: string,
  needs: readonly (readonly number[])[] = [],
  room: string | null = null,
): FeatureInfo => ({ bit, name, needs, room });

/** Every bit with a name, ascending. A stage that implements one more fills in its room. */
export const featureTable: readonly FeatureInfo[] = [
  info(0, 'CSUM', [], 'native/core: the TAP header passes through; completed in software where absent'),
  info(1, 'GUEST_CSUM', [], 'native/core: the TAP takes NEEDS_CSUM frames'),
  info(2, 'CTRL_GUEST_OFFLOADS', [[17]]),
  info(3, 'MTU'),
  info(5, 'MAC', [], 'device: net state'),
  info(6, 'GSO'),
  info(7, 'GUEST_TSO4', [[1]], 'native/core: the TAP takes GSO frames'),
  info(8, 'GUEST_TSO6', [[1]], 'native/core: the TAP takes GSO frames'),
  info(9, 'GUEST_ECN', [[7, 8]]),
  info(10, 'GUEST_UFO', [[1]]),
  info(11, 'HOST_TSO4', [[0]], 'native/core: the TAP header passes through; segmented in software where absent'),
  info(12, 'HOST_TSO6', [[0]], 'native/core: the TAP header passes through; segmented in software where absent'),
  info(13, 'HOST_ECN', [[11, 12]]),
  info(14, 'HOST_UFO', [[0]]),
  info(15, 'MRG_RXBUF', [], 'native/core: receive path gathers buffers'),
  info(16, 'STATUS', [], 'device: net state'),
  info(17, 'CTRL_VQ', [], 'native/core: control queue; device: its commands'),
  info(18, 'CTRL_RX', [[17]], 'device: net state; native/core: receive filter'),
  info(19, 'CTRL_VLAN', [[17]], 'device: net state; native/core: receive filter'),
  info(20, 'CTRL_RX_EXTRA', [[17]], 'device: net state; native/core: receive filter'),
  info(21, 'GUEST_ANNOUNCE', [[17]], 'device: net state; attachment: announcements'),
  info(22, 'MQ', [[17]], 'device: queue pairs; native/core: port'),
  info(23, 'CTRL_MAC_ADDR', [[17]], 'device: net state; native/core: receive filter'),
  info(24, 'NOTIFY_ON_EMPTY'),
  info(26, 'LOG_ALL'),
  info(27, 'ANY_LAYOUT'),
  info(28, 'INDIRECT_DESC', [], 'native/core: transmit chains of two parts'),
  info(29, 'EVENT_IDX', [], 'native/core: split and packed virtqueue'),
  info(30, 'PROTOCOL_FEATURES', [], 'vhost-user: transport bit, on the wire only'),
  info(32, 'VERSION_1', [], 'native/core: 12-byte header, little-endian rings'),
  info(33, 'ACCESS_PLATFORM'),
  info(34, 'RING_PACKED', [[32]], 'native/core: packed virtqueue'),
  info(35, 'IN_ORDER', [], 'native/core: batches of used elements'),
  info(36, 'ORDER_PLATFORM'),
  info(37, 'SR_IOV'),
  info(38, 'NOTIFICATION_DATA'),
  info(39, 'NOTIF_CONFIG_DATA'),
  info(40, 'RING_RESET'),
  info(41, 'ADMIN_VQ'),
  info(43, 'SUSPEND'),
  info(50, 'DEVICE_STATS', [[17]]),
  info(51, 'HASH_TUNNEL', [[17]]),
  info(52, 'VQ_NOTF_COAL', [[17]]),
  info(53, 'NOTF_COAL', [[17]]),
  info(54, 'GUEST_USO4', [[1]]),
  info(55, 'GUEST_USO6', [[1]]),
  info(56, 'HOST_USO', [[0]]),
  info(57, 'HASH_REPORT', [[17]]),
  info(59, 'GUEST_HDRLEN'),
  info(60, 'RSS', [[17]]),
  info(61, 'RSC_EXT'),
  info(62, 'STANDBY'),
  info(63, 'SPEED_DUPLEX'),
];

/** Bit numbers that code refers to. */
export const featureBit = {
  CSUM: 0,
  GUEST_CSUM: 1,
  MAC: 5,
  GUEST_TSO4: 7,
  GUEST_TSO6: 8,
  HOST_TSO4: 11,
  HOST_TSO6: 12,
  MRG_RXBUF: 15,
  STATUS: 16,
  CTRL_VQ: 17,
  CTRL_RX: 18,
  CTRL_VLAN: 19,
  CTRL_RX_EXTRA: 20,
  GUEST_ANNOUNCE: 21,
  MQ: 22,
  CTRL_MAC_ADDR: 23,
  EVENT_IDX: 29,
  PROTOCOL_FEATURES: 30,
  VERSION_1: 32,
  RING_PACKED: 34,
  IN_ORDER: 35,
} as const;

/** The mask with these bits set. */
export function featureMask(...bits: readonly number[]): bigint {
  return bits.reduce((mask, bit) => mask | (1n << BigInt(bit)), 0n);
}

export function hasFeature(mask: bigint, bit: number): boolean {
  return ((mask >> BigInt(bit)) & 1n) === 1n;
}

/** The control queue and what hangs on it, but MQ, in which the backend has its part. */
export const controlFeatures = featureMask(
  featureBit.CTRL_VQ,
  featureBit.CTRL_RX,
  featureBit.CTRL_VLAN,
  featureBit.CTRL_RX_EXTRA,
  featureBit.GUEST_ANNOUNCE,
  featureBit.CTRL_MAC_ADDR,
);

/**
 * Served by the frontend itself whatever the backend offers, and never on the wire: MAC, link status, and the control
 * queue. (DPDK's virtio-user leaves bits 18 to 23 to the backend's offer and then answers their commands itself.)
 */
export const localFeatures = featureMask(featureBit.MAC, featureBit.STATUS) | controlFeatures;

/** Transport bits that are not virtio features of the device. */
export const transportFeatures = featureMask(featureBit.PROTOCOL_FEATURES);

/** What we acknowledge when it is offered: all implemented bits without the transport's and those of the frontend. */
export const supportedFeatures =
  featureMask(...featureTable.filter(({ room }) => room !== null).map(({ bit }) => bit)) &
  ~transportFeatures &
  ~localFeatures;

/** The largest subset of `mask` in which every bit has what it depends on. */
export function closeDependencies(mask: bigint): bigint {
  let closed = mask;
  for (;;) {
    const lacking = featureTable.filter(
      ({ bit, needs }) =>
        hasFeature(closed, bit) && !needs.every((group) => group.some((needed) => hasFeature(closed, needed))),
    );
    if (lacking.length === 0) return closed;
    closed &= ~featureMask(...lacking.map(({ bit }) => bit));
  }
}

const nameByBit: ReadonlyMap<number, string> = new Map(featureTable.map(({ bit, name }) => [bit, name]));
const bitByName: ReadonlyMap<string, number> = new Map(featureTable.map(({ bit, name }) => [name, bit]));

/** The name of a bit; `BIT_42` for one without. */
export function featureName(bit: number): string {
  return nameByBit.get(bit) ?? `BIT_${bit}`;
}

/** Bits set in a mask, ascending. */
export function featureBits(mask: bigint): number[] {
  return Array.from({ length: 64 }, (_, bit) => bit).filter((bit) => hasFeature(mask, bit));
}

/** Names of the bits set in a mask, ascending by bit. */
export function featureNames(mask: bigint): string[] {
  return featureBits(mask).map(featureName);
}

/** `0x…`, the form that logs and tools of this field use. */
export function formatMask(mask: bigint): string {
  return `0x${mask.toString(16)}`;
}

const maximumText = 4096;
const maximumMask = (1n << 64n) - 1n;

/**
 * Reads masks (hexadecimal with 0x, or decimal) and names (any case, with or without the VIRTIO_… prefix), separated
 * by commas or blanks, and joins them.
 * @throws VirtioUserError CONFIG_INVALID naming the part that is neither
 */
export function parseFeatures(text: string): bigint {
  if (text.length > maximumText) throw invalid(`${text.slice(0, 32)}…`, `longer than ${maximumText} characters`);
  const parts = text.split(/[\s,]+/).filter((part) => part !== '');
  if (parts.length === 0) throw invalid(text, 'empty');
  return parts.reduce((mask, part) => mask | parsePart(part), 0n);
}

function parsePart(part: string): bigint {
  if (/^(0x[0-9a-f]+|[0-9]+)$/i.test(part)) {
    const mask = BigInt(part);
    if (mask > maximumMask) throw invalid(part, 'wider than 64 bits');
    return mask;
  }
  const name = part.toUpperCase().replace(/^(VIRTIO_(NET_|RING_)?F_|VHOST_(USER_|NET_)?F_)/, '');
  const bit = bitByName.get(name) ?? unnamedBit(name);
  if (bit === null) throw invalid(part, 'neither a mask nor the name of a feature');
  return featureMask(bit);
}

function unnamedBit(name: string): number | null {
  const number = /^BIT_([0-9]{1,2})$/.exec(name)?.[1];
  return number !== undefined && Number(number) < 64 ? Number(number) : null;
}

function invalid(part: string, why: string): VirtioUserError {
  return new VirtioUserError('CONFIG_INVALID', `features ${JSON.stringify(part)}: ${why}`, {
    details: { features: part },
    remedy: 'Give a mask such as 0x130000000 or names such as VERSION_1,MRG_RXBUF.',
  });
}
