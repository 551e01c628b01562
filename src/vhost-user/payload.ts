/** Payload layouts (vhost-user.rst, "Payload"). Padding and unused words are zero. */
import { VirtioUserError } from '../errors.ts';

export const emptyPayload: Uint8Array = new Uint8Array(0);

/** VHOST_MEMORY_MAX_NREGIONS: DPDK and VPP refuse more. */
export const maximumRegions = 8;

/** A file message carries the ring in 8 bits. */
export const maximumRing = 255;

const nofdFlag = 0x100n;

export function encodeU64(value: bigint): Buffer {
  if (value < 0n || value >= 1n << 64n) throw bug(`u64 ${value}`);
  const payload = Buffer.alloc(8);
  payload.writeBigUInt64LE(value, 0);
  return payload;
}

/** @param payload exactly 8 bytes (the decoder has checked) */
export function decodeU64(payload: Buffer): bigint {
  return payload.readBigUInt64LE(0);
}

export interface VringState {
  readonly index: number;
  readonly num: number;
}

/** SET_VRING_NUM, SET_VRING_BASE, GET_VRING_BASE (num 0), SET_VRING_ENABLE. */
export function encodeVringState({ index, num }: VringState): Buffer {
  checkRing(index);
  if (!Number.isInteger(num) || num < 0 || num > 0xffffffff) throw bug(`vring state ${num}`);
  const payload = Buffer.alloc(8);
  payload.writeUInt32LE(index, 0);
  payload.writeUInt32LE(num, 4);
  return payload;
}

/** @param payload exactly 8 bytes (the decoder has checked) */
export function decodeVringState(payload: Buffer): VringState {
  return { index: payload.readUInt32LE(0), num: payload.readUInt32LE(4) };
}

export interface VringAddress {
  readonly index: number;
  readonly descriptors: bigint;
  readonly used: bigint;
  readonly avail: bigint;
}

/** Field order is descriptors, used, avail, log: used before avail. No dirty log. */
export function encodeVringAddress({ index, descriptors, used, avail }: VringAddress): Buffer {
  checkRing(index);
  const payload = Buffer.alloc(40);
  payload.writeUInt32LE(index, 0);
  payload.writeBigUInt64LE(descriptors, 8);
  payload.writeBigUInt64LE(used, 16);
  payload.writeBigUInt64LE(avail, 24);
  return payload;
}

/** SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR. Bit 8 (NOFD) is set exactly when no descriptor goes with it. */
export function encodeVringFile(index: number, hasDescriptor: boolean): Buffer {
  checkRing(index);
  return encodeU64(BigInt(index) | (hasDescriptor ? 0n : nofdFlag));
}

export interface RegionPayload {
  readonly guestAddress: bigint;
  readonly sizeBytes: bigint;
  readonly userAddress: bigint;
  readonly offsetBytes: bigint;
}

const pageBytes = 4096n;

/**
 * SET_MEM_TABLE: 8 + 32 bytes per region. Backends accept nonsense here and crash later, so it is checked before it
 * leaves: 1 to 8 regions, page multiples, no overlap.
 */
export function encodeMemoryTable(regions: readonly RegionPayload[]): Buffer {
  checkRegions(regions);
  const payload = Buffer.alloc(8 + 32 * regions.length);
  payload.writeUInt32LE(regions.length, 0);
  regions.forEach((region, index) => {
    const at = 8 + 32 * index;
    payload.writeBigUInt64LE(region.guestAddress, at);
    payload.writeBigUInt64LE(region.sizeBytes, at + 8);
    payload.writeBigUInt64LE(region.userAddress, at + 16);
    payload.writeBigUInt64LE(region.offsetBytes, at + 24);
  });
  return payload;
}

function checkRegions(regions: readonly RegionPayload[]): void {
  if (regions.length < 1 || regions.length > maximumRegions) throw bug(`memory table of ${regions.length} regions`);
  for (const { guestAddress, sizeBytes, userAddress, offsetBytes } of regions) {
    const end = 1n << 64n;
    const aligned = [guestAddress, sizeBytes, userAddress, offsetBytes].every((value) => value % pageBytes === 0n);
    const inside = [guestAddress, userAddress, offsetBytes].every((from) => from >= 0n && from + sizeBytes <= end);
    if (sizeBytes <= 0n || !aligned || !inside) {
      throw bug(`memory region of ${sizeBytes} bytes at ${guestAddress}, offset ${offsetBytes}`);
    }
  }
  for (const key of ['guestAddress', 'userAddress'] as const) {
    const sorted = regions.toSorted((a, b) => (a[key] < b[key] ? -1 : 1));
    sorted.reduce((before, region) => {
      if (before[key] + before.sizeBytes > region[key]) throw bug(`memory regions overlap at ${region[key]}`);
      return region;
    });
  }
}

function checkRing(index: number): void {
  if (!Number.isInteger(index) || index < 0 || index > maximumRing) throw bug(`ring ${index}`);
}

function bug(what: string): VirtioUserError {
  return new VirtioUserError('BUG', `vhost-user cannot carry ${what}`);
}
