/**
 * What the driver and a backend agree on: virtio features, queue pairs, buffers and offloads. Pure.
 *
 *     acked = close(SUPPORTED & offered & ~masked & remembered)
 *
 * `remembered` is the set of this device's first connection: a backend that comes back with more is not given more
 * (nothing in the pod expects it), one that comes back with less is compared against it.
 */
import {
  closeDependencies,
  controlFeatures,
  featureBit,
  featureMask,
  featureNames,
  hasFeature,
  localFeatures,
  supportedFeatures,
  transportFeatures,
} from '../virtio/feature.ts';
import { type OffloadPlan, planOffloads } from '../virtio/offload.ts';
import type { DeviceOptions } from './api.ts';

/** What one connection of the device had. */
export interface Agreement {
  readonly ackedFeatures: bigint;
  readonly queuePairs: number;
}

export interface Offer {
  readonly features: bigint;
  /** 1 where the backend has no multi-queue. */
  readonly maxQueuePairs: number;
}

export type Negotiation =
  | {
      readonly kind: 'agreed';
      readonly ackedFeatures: bigint;
      /** Served by the frontend itself, beside the acked ones. */
      readonly localFeatures: bigint;
      /** Offered, and not implemented here, taken away by an option, or of no use (MQ with one pair). */
      readonly unsupportedFeatures: bigint;
      readonly queuePairs: number;
      readonly rxBufferBytes: number;
      readonly offloads: OffloadPlan;
      /** Names of what the first connection had and software stands in for now. */
      readonly degradedBy: readonly string[];
    }
  | { readonly kind: 'refused'; readonly missing: readonly string[] };

/**
 * Features without which there is no device: VERSION_1 fixes the header (12 bytes) and the byte order. All others of
 * SUPPORTED shape frames or notifications only, and every connection has fresh memory, so that they may come and go.
 */
const required = featureMask(featureBit.VERSION_1);

export function negotiate(offer: Offer, options: DeviceOptions, remembered: Agreement | null): Negotiation {
  const missing = required & ~offer.features;
  if (missing !== 0n) return { kind: 'refused', missing: featureNames(missing) };

  const wantedPairs = Math.min(options.queues, remembered?.queuePairs ?? options.queues);
  const pairs = Math.min(wantedPairs, offer.maxQueuePairs);
  const masked = maskedByOptions(options) | (pairs > 1 ? 0n : featureMask(featureBit.MQ));
  const acked = close(supportedFeatures & offer.features & ~masked, options) & (remembered?.ackedFeatures ?? -1n);
  const queuePairs = hasFeature(acked, featureBit.MQ) ? pairs : 1;
  return {
    kind: 'agreed',
    ackedFeatures: acked,
    localFeatures: localOf(options),
    unsupportedFeatures: offer.features & ((~supportedFeatures & ~localFeatures & ~transportFeatures) | masked),
    queuePairs,
    rxBufferBytes: rxBufferBytes(acked, options.mtu),
    offloads: planOffloads(acked, options.softwareOffloads),
    degradedBy: remembered === null ? [] : lost(remembered, acked, queuePairs),
  };
}

/** The original's devargs that take features away. */
export function maskedByOptions(options: DeviceOptions): bigint {
  const { MRG_RXBUF, IN_ORDER, RING_PACKED, MQ } = featureBit;
  return (
    (options.mrgRxbuf ? 0n : featureMask(MRG_RXBUF)) |
    (options.inOrder ? 0n : featureMask(IN_ORDER)) |
    (options.packedVq ? 0n : featureMask(RING_PACKED)) |
    (options.cq ? 0n : controlFeatures | featureMask(MQ))
  );
}

/** Dependencies count the bits that the frontend supplies itself (MQ hangs on the software control queue). */
function close(features: bigint, options: DeviceOptions): bigint {
  return closeDependencies(features | localOf(options)) & ~localFeatures;
}

function localOf(options: DeviceOptions): bigint {
  return options.cq ? localFeatures : localFeatures & ~controlFeatures;
}

const pageBytes = 4096;
const mergeableBytes = 4096;
/** Header, Ethernet and the largest IP packet. */
const largestFrameBytes = 12 + 14 + 65535;

/**
 * Without MRG_RXBUF every frame must fit one buffer: 64 KiB where the backend may send TSO frames, else one MTU frame
 * (with a VLAN tag).
 */
export function rxBufferBytes(acked: bigint, mtu: number): number {
  if (hasFeature(acked, featureBit.MRG_RXBUF)) return mergeableBytes;
  const large = hasFeature(acked, featureBit.GUEST_TSO4) || hasFeature(acked, featureBit.GUEST_TSO6);
  const needed = large ? largestFrameBytes : 12 + 18 + mtu;
  return Math.ceil(needed / pageBytes) * pageBytes;
}

function lost(remembered: Agreement, acked: bigint, queuePairs: number): string[] {
  const fewerPairs = queuePairs < remembered.queuePairs ? featureMask(featureBit.MQ) : 0n;
  return featureNames((remembered.ackedFeatures & ~acked) | fewerPairs);
}
