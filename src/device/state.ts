/**
 * States of the device and the virtio status byte that belongs to each; the byte is derived, never kept beside.
 *
 *     idle ──bringUp──▶ negotiating ──▶ ready
 *      ▲                     │            │
 *      │                     ├──▶ parked  │      the backend lacks what nothing stands in for
 *      │                     └──▶ failed  │      a step was refused, timed out, or the connection ended
 *      └──────────────shutDown────────────┘      from every state; bringUp is legal from all but ready
 */
import { statusBit, statusDriverOk, statusFeaturesOk } from '../virtio/status.ts';
import type { DeviceState } from './api.ts';

/**
 * @param featuresAgreed SET_FEATURES was accepted on this connection
 * @param needsReset the session or its backend has broken since DRIVER_OK
 */
export function statusOf(state: DeviceState, featuresAgreed: boolean, needsReset: boolean): number {
  switch (state.kind) {
    case 'idle':
      return 0;
    case 'negotiating':
      return featuresAgreed ? statusFeaturesOk : statusBit.ACKNOWLEDGE | statusBit.DRIVER;
    case 'ready':
      return needsReset ? statusDriverOk | statusBit.NEEDS_RESET : statusDriverOk;
    case 'parked':
    case 'failed':
      return statusBit.ACKNOWLEDGE | statusBit.DRIVER | statusBit.FAILED;
  }
}
