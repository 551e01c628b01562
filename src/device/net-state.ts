/**
 * What the device has been told through its control queue, and what of it a frame meets. Pure: a command gives a new
 * state, or is refused and changes nothing.
 */
import type { RxFilterRules } from '../native/binding.ts';
import { type Control, rxModes, type RxMode } from '../virtio/control.ts';
import { featureBit, hasFeature } from '../virtio/feature.ts';

export interface NetState {
  /** Address of the configuration space. */
  readonly mac: string;
  readonly rxModes: ReadonlySet<RxMode>;
  readonly unicast: readonly string[];
  readonly multicast: readonly string[];
  /**
   * VLANs that pass; null until a VLAN command comes: filtering is best effort (virtio 1.3, 5.1.6.5.3), and the kernel
   * does not tell which VLANs the pod wants on a TAP.
   */
  readonly vlans: readonly number[] | null;
  /** VIRTIO_NET_S_ANNOUNCE of the configuration space: the driver is asked to tell where it is. */
  readonly announce: boolean;
}

/** Of a device that was just reset: everything passes, so that a driver without commands loses nothing. */
export function initialNetState(mac: string, localFeatures: bigint): NetState {
  return {
    mac,
    rxModes: new Set(['promiscuous']),
    unicast: [],
    multicast: [],
    vlans: null,
    announce: hasFeature(localFeatures, featureBit.GUEST_ANNOUNCE),
  };
}

/**
 * @param localFeatures a command whose feature is not among them is refused
 * @returns null: refused
 */
export function applyControl(
  state: NetState,
  control: Exclude<Control, { kind: 'queue-pairs' }>,
  localFeatures: bigint,
): NetState | null {
  const has = (bit: number): boolean => hasFeature(localFeatures, bit);
  switch (control.kind) {
    case 'rx-mode': {
      const basic = control.mode === 'promiscuous' || control.mode === 'allMulticast';
      if (!has(basic ? featureBit.CTRL_RX : featureBit.CTRL_RX_EXTRA)) return null;
      const modes = rxModes.filter((mode) => (mode === control.mode ? control.on : state.rxModes.has(mode)));
      return { ...state, rxModes: new Set(modes) };
    }
    case 'mac-table':
      if (!has(featureBit.CTRL_RX) || !isMulticast(control.multicast, true) || !isMulticast(control.unicast, false)) {
        return null;
      }
      return { ...state, unicast: control.unicast, multicast: control.multicast };
    case 'mac':
      if (!has(featureBit.CTRL_MAC_ADDR) || !isMulticast([control.mac], false)) return null;
      return { ...state, mac: control.mac };
    case 'vlan': {
      if (!has(featureBit.CTRL_VLAN)) return null;
      const others = (state.vlans ?? []).filter((id) => id !== control.id);
      return { ...state, vlans: control.pass ? [...others, control.id] : others };
    }
    case 'announced':
      return has(featureBit.GUEST_ANNOUNCE) ? { ...state, announce: false } : null;
  }
}

function isMulticast(macs: readonly string[], wanted: boolean): boolean {
  return macs.every((mac) => (parseInt(mac.slice(0, 2), 16) & 1) === (wanted ? 1 : 0));
}

export function rxFilterOf({ mac, rxModes: modes, unicast, multicast, vlans }: NetState): RxFilterRules {
  return {
    promiscuous: modes.has('promiscuous'),
    allMulticast: modes.has('allMulticast'),
    allUnicast: modes.has('allUnicast'),
    noMulticast: modes.has('noMulticast'),
    noUnicast: modes.has('noUnicast'),
    noBroadcast: modes.has('noBroadcast'),
    mac,
    unicast,
    multicast,
    vlans,
  };
}
