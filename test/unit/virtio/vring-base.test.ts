import { describe, expect, it } from '@jest/globals';
import { freshBase, plausibleBase } from '../../../src/virtio/vring-base.ts';

describe('the position in a ring', () => {
  it('begins at 0 in a split ring, and in a packed one at slot 0 with both wrap counters 1', () => {
    expect(freshBase(false)).toBe(0);
    expect(freshBase(true)).toBe(0x80008000);
  });

  it('of a packed backend lies up to one ring ahead of what it completed, across the wrap', () => {
    const ring = { size: 8, packed: true };
    const cursors = Array.from({ length: 16 }, (_, at) => (at % 8) | (at < 8 ? 0x8000 : 0));
    for (const [at, expected] of cursors.entries()) {
      const plausible = cursors.filter((base) => plausibleBase(base, expected, ring));
      // Slots that can follow: this lap's from here on, and the next lap's up to here.
      const follow = Array.from({ length: 9 }, (_, ahead) => cursors[(at + ahead) % 16]);
      expect(new Set(plausible)).toEqual(new Set(follow));
    }
    expect(plausibleBase(8 | 0x8000, 0x8000, ring)).toBe(false);
  });
});
