/**
 * From negotiated features to what the TAP and the pump must do.
 *
 * The direction flips at the TAP: TUNSETOFFLOAD says what the *pod's kernel may hand us*, so it follows what the
 * backend accepts (CSUM, HOST_TSO4/6). The GUEST bits need no TAP setting: the kernel takes both kinds of TSO on write.
 */
import { featureBit, hasFeature } from './feature.ts';

/** TUN_F_* of linux/if_tun.h, those that we ever set. */
export const tunOffload = { CSUM: 0x01, TSO4: 0x02, TSO6: 0x04 } as const;

/** What the TAP and the pump must do, given what was negotiated. */
export interface OffloadPlan {
  /** TUN_F_* mask for TUNSETOFFLOAD. Legal by construction: nothing without CSUM, never ECN, UFO or USO. */
  readonly tapMask: number;
  readonly softwareGso: boolean;
  readonly softwareChecksum: boolean;
  readonly softwareGro: boolean;
}

/**
 * @param acked negotiated feature mask
 * @param softwareOffloads true: the pod always hands over large, unchecksummed frames, and the pump does what the
 *   backend cannot (4–5 × the throughput on a backend without TSO). false: the TAP follows the backend. Frames are
 *   coalesced whatever the backend takes: one that hands on large frames of its own does not make them of those that
 *   come from a wire, and none does with datagrams.
 */
export function planOffloads(acked: bigint, softwareOffloads: boolean): OffloadPlan {
  const has = (bit: number): boolean => hasFeature(acked, bit);
  const checksum = has(featureBit.CSUM);
  const tso4 = checksum && has(featureBit.HOST_TSO4);
  const tso6 = checksum && has(featureBit.HOST_TSO6);
  if (!softwareOffloads) {
    const mask = (checksum ? tunOffload.CSUM : 0) | (tso4 ? tunOffload.TSO4 : 0) | (tso6 ? tunOffload.TSO6 : 0);
    return { tapMask: mask, softwareGso: false, softwareChecksum: false, softwareGro: false };
  }
  return {
    tapMask: tunOffload.CSUM | tunOffload.TSO4 | tunOffload.TSO6,
    softwareGso: !(tso4 && tso6),
    softwareChecksum: !checksum,
    softwareGro: true,
  };
}
