import { describe, expect, it } from '@jest/globals';
import { type BackRequest, BackRequestDecoder, backRequests } from '../../../src/vhost-user/back-request.ts';
import { backMessage, configChange } from '../../support/back-peer.ts';

const decode = (bytes: Buffer, descriptors = 0, rings = 2): BackRequest[] => [
  ...new BackRequestDecoder(() => rings).take(bytes, descriptors),
];

const ring = (index: number, bytes: number): Buffer => {
  const payload = Buffer.alloc(bytes);
  payload.writeUInt32LE(index >>> 0);
  return payload;
};

describe('requests of the backend', () => {
  it.each([
    ['CONFIG_CHANGE_MSG', configChange, null, Buffer.alloc(0)],
    ['CONFIG_CHANGE_MSG', configChange, '1 bytes of payload instead of 0', Buffer.alloc(1)],
    ['request 0', 0, 'unknown', Buffer.alloc(0)],
    ['request 11', 11, 'unknown', Buffer.alloc(256)],
    ['VRING_CALL', 4, 'never agreed on', ring(1, 8)],
    ['VRING_CALL', 4, 'ring 2 of 2', ring(2, 8)],
    ['VRING_CALL', 4, 'ring 4294967295 of 2', ring(-1, 8)],
    ['VRING_CALL', 4, '9 bytes of payload instead of 8', ring(2, 9)],
    ['VRING_ERR', 5, 'ring 256 of 2', ring(256, 8)],
    // The index has 8 bits there; the bit above says that no descriptor follows.
    ['VRING_HOST_NOTIFIER_MSG', 3, 'never agreed on', ring(0x101, 24)],
    ['VRING_HOST_NOTIFIER_MSG', 3, 'ring 2 of 2', ring(0x102, 24)],
    ['VRING_HOST_NOTIFIER_MSG', 3, '23 bytes of payload instead of 24', ring(0, 23)],
  ])('[42] %s (%d) is judged: %s', (name, number, refusal, payload) => {
    expect(decode(backMessage(number, payload))).toEqual([{ number, name, needsReply: true, refusal }]);
    expect(decode(backMessage(number, payload, false))).toEqual([{ number, name, needsReply: false, refusal }]);
  });

  it('[42] of every known type other than CONFIG_CHANGE_MSG are refused though their form is right', () => {
    for (const { number, payloadBytes } of Object.values(backRequests)) {
      const [request] = decode(backMessage(number, Buffer.alloc(payloadBytes)));
      expect(request?.refusal).toBe(number === configChange ? null : 'never agreed on');
    }
  });

  it('[42] have no ring to name before the first ring was set up', () => {
    expect(decode(backMessage(4, ring(0, 8)), 0, 0)[0]?.refusal).toBe('ring 0 of 0');
  });

  it('[42] [F46] that bring descriptors are refused for that alone, the last of a read', () => {
    const bytes = Buffer.concat([backMessage(configChange), backMessage(configChange)]);
    const refusals = decode(bytes, 2).map(({ refusal }) => refusal);
    expect(refusals).toEqual([null, '2 descriptors that nothing allows']);
  });
});
