/**
 * What must come of a negotiation, from the virtio specification (1.3: 2.2, 5.1.3, 6) and DPDK's virtio-user, bit by bit.
 * It imports nothing of the code under test, whose tables and formula it judges.
 */

/**
 * - `driver`: acked when it is offered and nothing stands against it
 * - `frontend`: served by the frontend itself, never on the wire
 * - `transport`: of vhost-user, on the wire exactly when it is offered
 * - `never`: not ours, whoever offers it
 */
type Side = 'driver' | 'frontend' | 'transport' | 'never';

interface Row {
  readonly side: Side;
  /** Of each group at least one must be there. */
  readonly needs: readonly (readonly number[])[];
}

const row = (side: Side, ...needs: readonly (readonly number[])[]): Row => ({ side, needs });
const notOurs = row('never');

/** Bits that are not here are `never`, as reserved ones must be. */
const table: ReadonlyMap<number, Row> = new Map([
  [0, row('driver')], // CSUM
  [1, row('driver')], // GUEST_CSUM
  [5, row('frontend')], // MAC
  [7, row('driver', [1])], // GUEST_TSO4
  [8, row('driver', [1])], // GUEST_TSO6
  [11, row('driver', [0])], // HOST_TSO4
  [12, row('driver', [0])], // HOST_TSO6
  [15, row('driver')], // MRG_RXBUF
  [16, row('frontend')], // STATUS
  [17, row('frontend')], // CTRL_VQ
  [18, row('frontend', [17])], // CTRL_RX
  [19, row('frontend', [17])], // CTRL_VLAN
  [20, row('frontend', [17])], // CTRL_RX_EXTRA
  [21, row('frontend', [17])], // GUEST_ANNOUNCE
  [22, row('driver', [17])], // MQ
  [23, row('frontend', [17])], // CTRL_MAC_ADDR
  [28, row('driver')], // INDIRECT_DESC
  [29, row('driver')], // EVENT_IDX
  [30, row('transport')], // PROTOCOL_FEATURES
  [32, row('driver')], // VERSION_1
  [34, row('driver', [32])], // RING_PACKED
  [35, row('driver')], // IN_ORDER
]);

const bits = Array.from({ length: 64 }, (_, bit) => bit);
const has = (mask: bigint, bit: number): boolean => ((mask >> BigInt(bit)) & 1n) === 1n;
const maskOf = (wanted: (bit: number) => boolean): bigint =>
  bits.filter(wanted).reduce((mask, bit) => mask | (1n << BigInt(bit)), 0n);

export interface ModelOffer {
  readonly features: bigint;
  /** 1 where the backend has no multi-queue. */
  readonly maxQueuePairs: number;
}

export interface ModelOptions {
  readonly queues: number;
  readonly cq: boolean;
  readonly mrgRxbuf: boolean;
  readonly inOrder: boolean;
  readonly packedVq: boolean;
}

export interface ModelAgreement {
  readonly acked: bigint;
  readonly local: bigint;
  readonly queuePairs: number;
  /** Of the vnet header in front of every frame. */
  readonly headerBytes: number;
  /** The payload of SET_FEATURES. */
  readonly wire: bigint;
}

/**
 * @param first of the device's first connection: a later one gets nothing that it had not
 * @returns null: there is no device without VERSION_1
 */
export function modelNegotiation(
  offer: ModelOffer,
  options: ModelOptions,
  first: ModelAgreement | null = null,
): ModelAgreement | null {
  if (!has(offer.features, 32)) return null;
  const pairs = Math.min(options.queues, offer.maxQueuePairs, first?.queuePairs ?? options.queues);
  const wanted = (bit: number): boolean => {
    if (first !== null && table.get(bit)?.side === 'driver' && !has(first.acked, bit)) return false;
    if (bit === 15) return options.mrgRxbuf;
    if (bit >= 17 && bit <= 23) return options.cq && (bit !== 22 || pairs > 1);
    if (bit === 34) return options.packedVq;
    return bit !== 35 || options.inOrder;
  };
  const agreed = (bit: number): boolean => {
    const { side, needs } = table.get(bit) ?? notOurs;
    if (side !== 'frontend' && (side !== 'driver' || !has(offer.features, bit))) return false;
    return wanted(bit) && needs.every((group) => group.some(agreed));
  };
  const ofSide = (side: Side): bigint => maskOf((bit) => table.get(bit)?.side === side && agreed(bit));
  const acked = ofSide('driver');
  return {
    acked,
    local: ofSide('frontend'),
    queuePairs: has(acked, 22) ? pairs : 1,
    headerBytes: has(acked, 15) || has(acked, 32) || has(acked, 34) ? 12 : 10,
    wire: acked | maskOf((bit) => table.get(bit)?.side === 'transport' && has(offer.features, bit)),
  };
}

/** Bits of a mask whose dependencies are not in `present`. */
export function lackingDependencies(mask: bigint, present: bigint): number[] {
  return bits.filter(
    (bit) =>
      has(mask, bit) && !(table.get(bit) ?? notOurs).needs.every((group) => group.some((one) => has(present, one))),
  );
}
