/**
 * Positions in rings as SET_VRING_BASE and GET_VRING_BASE carry them.
 *
 * Split: the next avail index, 16 bits. Packed: bits 0–14 the next available slot, bit 15 its wrap counter, bits 16–31
 * the same of used elements; DPDK fills the low half only (vhost-user specification, "A vring state description").
 */

/** Where a ring begins that nobody has used: in a packed one both wrap counters are 1. */
export function freshBase(packed: boolean): number {
  return packed ? 0x80008000 : 0;
}

export interface RingShape {
  readonly size: number;
  readonly packed: boolean;
}

/**
 * Can a backend have stopped at `base` where `expected` (Session.expectedBase) is behind the last entry it completed?
 * It may hold entries that it took and did not complete: at most a ring full.
 */
export function plausibleBase(base: number, expected: number, ring: RingShape): boolean {
  if (!ring.packed) return base <= 0xffff && ((base - expected) & 0xffff) <= ring.size;
  const slot = base & 0x7fff;
  const lap = ((base ^ expected) & 0x8000) === 0 ? 0 : ring.size;
  const ahead = slot + lap - (expected & 0x7fff);
  return slot < ring.size && ahead >= 0 && ahead <= ring.size;
}
