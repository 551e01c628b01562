import { readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';
import { encodeMessage } from '../../../src/vhost-user/header.ts';
import {
  decodeU64,
  decodeVringState,
  emptyPayload,
  encodeMemoryTable,
  encodeU64,
  encodeVringAddress,
  encodeVringFile,
  encodeVringState,
} from '../../../src/vhost-user/payload.ts';
import { protocolFeatureNames, supportedProtocolFeatures } from '../../../src/vhost-user/protocol-feature.ts';
import { type RequestName, requests, type RequestSpec } from '../../../src/vhost-user/request.ts';

function golden(name: string): string {
  const text = readFileSync(new URL(`../../golden/vhost-user/${name}.hex`, import.meta.url), 'utf8');
  return text
    .split('\n')
    .filter((line) => !line.startsWith('#'))
    .join('');
}

const region = { guestAddress: 0x7f0000000000n, userAddress: 0x7f0000000000n, sizeBytes: 0x2800000n, offsetBytes: 0n };
const second = {
  guestAddress: 0x7f0000001000n,
  userAddress: 0x7f0000001000n,
  sizeBytes: 0x3000n,
  offsetBytes: 0x2000n,
};
const address = { index: 1, descriptors: 0x7f0000010000n, used: 0x7f0000018000n, avail: 0x7f0000014000n };

const messages: readonly (readonly [string, RequestName, number, Uint8Array])[] = [
  ['get-features', 'GET_FEATURES', 1, emptyPayload],
  ['set-features', 'SET_FEATURES', 9, encodeU64(0x8000000160001983n)],
  ['set-owner', 'SET_OWNER', 1, emptyPayload],
  ['set-mem-table', 'SET_MEM_TABLE', 9, encodeMemoryTable([region])],
  ['set-mem-table-two', 'SET_MEM_TABLE', 1, encodeMemoryTable([{ ...region, sizeBytes: 0x1000n }, second])],
  ['set-vring-num', 'SET_VRING_NUM', 9, encodeVringState({ index: 1, num: 1024 })],
  ['set-vring-addr', 'SET_VRING_ADDR', 9, encodeVringAddress(address)],
  ['set-vring-base', 'SET_VRING_BASE', 9, encodeVringState({ index: 1, num: 0 })],
  ['get-vring-base', 'GET_VRING_BASE', 1, encodeVringState({ index: 1, num: 0 })],
  ['set-vring-kick', 'SET_VRING_KICK', 9, encodeVringFile(1, true)],
  ['set-vring-kick-nofd', 'SET_VRING_KICK', 9, encodeVringFile(1, false)],
  ['set-vring-call', 'SET_VRING_CALL', 9, encodeVringFile(255, true)],
  ['get-protocol-features', 'GET_PROTOCOL_FEATURES', 1, emptyPayload],
  ['set-protocol-features', 'SET_PROTOCOL_FEATURES', 1, encodeU64(supportedProtocolFeatures)],
  ['get-queue-num', 'GET_QUEUE_NUM', 1, emptyPayload],
  ['set-vring-enable', 'SET_VRING_ENABLE', 9, encodeVringState({ index: 3, num: 1 })],
  ['net-set-mtu', 'NET_SET_MTU', 9, encodeU64(1500n)],
  ['set-backend-req-fd', 'SET_BACKEND_REQ_FD', 9, emptyPayload],
  ['set-status', 'SET_STATUS', 9, encodeU64(0x0bn)],
  ['get-status', 'GET_STATUS', 1, emptyPayload],
];

describe('messages', () => {
  it.each(messages)('[30] %s has the bytes of the specification', (name, request, flags, payload) => {
    expect(encodeMessage(requests[request].number, flags, payload).toString('hex')).toBe(golden(name));
  });

  it('[30] have the sizes of the request table', () => {
    for (const [, request, , payload] of messages) {
      const spec: RequestSpec = requests[request];
      if (spec.payloadBytes !== null) expect(payload.length).toBe(spec.payloadBytes);
    }
  });

  it('[31] put used before avail in SET_VRING_ADDR, and no log', () => {
    const bytes = encodeVringAddress(address);
    const words = [8, 16, 24, 32].map((at) => bytes.readBigUInt64LE(at));
    expect(words).toEqual([address.descriptors, address.used, address.avail, 0n]);
  });

  it('[32] carry the ring in bits 0 to 7 and NOFD in bit 8 exactly when no descriptor goes along', () => {
    for (const ring of [0, 1, 128, 255]) {
      expect(decodeU64(encodeVringFile(ring, true))).toBe(BigInt(ring));
      expect(decodeU64(encodeVringFile(ring, false))).toBe(BigInt(ring) | 0x100n);
    }
  });

  it.each([-1, 256, 1.5, Number.NaN])('refuse ring %d, which the wire cannot name', (ring) => {
    expect(() => encodeVringFile(ring, true)).toThrow('ring');
    expect(() => encodeVringState({ index: ring, num: 0 })).toThrow('ring');
    expect(() => encodeVringAddress({ ...address, index: ring })).toThrow('ring');
  });

  it('[8] bring 64-bit values back unchanged', () => {
    for (const value of [0n, 1n << 53n, 1n << 63n, (1n << 64n) - 1n]) expect(decodeU64(encodeU64(value))).toBe(value);
    expect(() => encodeU64(1n << 64n)).toThrow('u64');
    expect(() => encodeU64(-1n)).toThrow('u64');
  });

  it('bring a vring state back', () => {
    expect(decodeVringState(encodeVringState({ index: 7, num: 0xffffffff }))).toEqual({ index: 7, num: 0xffffffff });
  });
});

describe('memory table', () => {
  it.each([
    ['no region', []],
    [
      'nine regions',
      Array.from({ length: 9 }, (_, i) => ({
        ...second,
        guestAddress: BigInt(i) << 32n,
        userAddress: BigInt(i) << 32n,
      })),
    ],
    ['an empty region', [{ ...region, sizeBytes: 0n }]],
    ['a size that is no page multiple', [{ ...region, sizeBytes: 0x1001n }]],
    ['an offset that is no page multiple', [{ ...region, offsetBytes: 0x123n }]],
    ['an end beyond the address space', [{ ...region, guestAddress: (1n << 64n) - 0x1000n }]],
    ['an offset that overflows', [{ ...region, offsetBytes: (1n << 64n) - 0x1000n }]],
    ['overlap', [region, second]],
    ['overlap in user addresses only', [region, { ...second, guestAddress: 0n, userAddress: 0x7f0000002000n }]],
  ])('[37] refuses %s', (_what, regions) => {
    expect(() => encodeMemoryTable(regions)).toThrow('vhost-user cannot carry');
  });

  it('[37] takes eight regions that touch each other', () => {
    const regions = Array.from({ length: 8 }, (_, index) => ({
      guestAddress: BigInt(index) * 0x1000n,
      userAddress: BigInt(index) * 0x1000n,
      sizeBytes: 0x1000n,
      offsetBytes: 0n,
    }));
    expect(encodeMemoryTable(regions.toReversed())).toHaveLength(8 + 8 * 32);
  });
});

describe('protocol features', () => {
  it('[24] acks MQ, REPLY_ACK, MTU, BACKEND_REQ and STATUS, and no descriptors on the back channel', () => {
    const names = protocolFeatureNames(supportedProtocolFeatures);
    expect(names).toEqual(['MQ', 'REPLY_ACK', 'MTU', 'BACKEND_REQ', 'STATUS']);
  });

  it('names bits, numbers those without a name', () => {
    expect(protocolFeatureNames((1n << 40n) | 1n)).toEqual(['MQ', 'BIT_40']);
  });
});
