import { describe, expect, it } from '@jest/globals';
import { statusDriverOk, statusFeaturesOk, statusNames } from '../../../src/virtio/status.ts';

describe('status byte', () => {
  it('has the two values that a vhost-user backend ever sees', () => {
    expect([statusFeaturesOk, statusDriverOk]).toEqual([0x0b, 0x0f]);
  });

  it('names its bits ascending', () => {
    expect(statusNames(0x0f)).toEqual(['ACKNOWLEDGE', 'DRIVER', 'DRIVER_OK', 'FEATURES_OK']);
    expect(statusNames(0xc0)).toEqual(['NEEDS_RESET', 'FAILED']);
    expect(statusNames(0x10)).toEqual(['BIT_4']);
    expect(statusNames(0)).toEqual([]);
  });
});
