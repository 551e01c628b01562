import { describe, expect, it } from '@jest/globals';
import { applyControl, initialNetState, type NetState, rxFilterOf } from '../../../src/device/net-state.ts';
import type { Control } from '../../../src/virtio/control.ts';
import { featureBit, featureMask, localFeatures } from '../../../src/virtio/feature.ts';

const own = '02:00:00:00:00:01';
const group = '33:33:00:00:00:01';
type StateControl = Exclude<Control, { kind: 'queue-pairs' }>;

function after(...controls: readonly StateControl[]): NetState {
  return controls.reduce(
    (state, control) => {
      const next = applyControl(state, control, localFeatures);
      if (next === null) throw new Error(`refused: ${control.kind}`);
      return next;
    },
    initialNetState(own, localFeatures),
  );
}

describe('state of the device as its control queue has set it', () => {
  it('begins promiscuous, with no tables, all VLANs and an announcement wanted', () => {
    const state = initialNetState(own, localFeatures);
    expect(state).toMatchObject({ mac: own, unicast: [], multicast: [], vlans: null, announce: true });
    expect(rxFilterOf(state)).toMatchObject({ promiscuous: true, allMulticast: false, vlans: null });
    expect(initialNetState(own, 0n).announce).toBe(false);
  });

  it('sets and clears each mode by itself', () => {
    const modes = ['promiscuous', 'allMulticast', 'allUnicast', 'noMulticast', 'noUnicast', 'noBroadcast'] as const;
    for (const mode of modes) {
      const on = after({ kind: 'rx-mode', mode: 'promiscuous', on: false }, { kind: 'rx-mode', mode, on: true });
      const filter = rxFilterOf(on);
      for (const other of modes) expect([other, filter[other]]).toEqual([other, other === mode]);
      const off = applyControl(on, { kind: 'rx-mode', mode, on: false }, localFeatures);
      expect(off !== null && rxFilterOf(off)[mode]).toBe(false);
    }
  });

  it('replaces tables and address, and keeps VLANs from the first VLAN command on', () => {
    const state = after(
      { kind: 'mac-table', unicast: ['02:00:00:00:00:09'], multicast: [group] },
      { kind: 'mac-table', unicast: [], multicast: [group] },
      { kind: 'mac', mac: '02:00:00:00:00:08' },
      { kind: 'vlan', id: 5, pass: true },
      { kind: 'vlan', id: 6, pass: true },
      { kind: 'vlan', id: 5, pass: true },
      { kind: 'vlan', id: 6, pass: false },
      { kind: 'announced' },
    );
    expect(state).toMatchObject({ mac: '02:00:00:00:00:08', unicast: [], multicast: [group], vlans: [5] });
    expect(state.announce).toBe(false);
    expect(after({ kind: 'vlan', id: 6, pass: false }).vlans).toEqual([]);
  });

  it('is what the receive filter says, field by field', () => {
    const state = after(
      { kind: 'rx-mode', mode: 'promiscuous', on: false },
      { kind: 'rx-mode', mode: 'allMulticast', on: true },
      { kind: 'rx-mode', mode: 'noBroadcast', on: true },
      { kind: 'mac', mac: '02:00:00:00:00:08' },
      { kind: 'mac-table', unicast: ['02:00:00:00:00:09'], multicast: [group] },
      { kind: 'vlan', id: 5, pass: true },
      { kind: 'vlan', id: 4094, pass: true },
    );
    expect(rxFilterOf(state)).toEqual({
      promiscuous: false,
      allMulticast: true,
      allUnicast: false,
      noMulticast: false,
      noUnicast: false,
      noBroadcast: true,
      mac: '02:00:00:00:00:08',
      unicast: ['02:00:00:00:00:09'],
      multicast: [group],
      vlans: [5, 4094],
    });
  });

  it.each<[string, StateControl]>([
    ['a group as the own address', { kind: 'mac', mac: group }],
    ['a group among unicast addresses', { kind: 'mac-table', unicast: [group], multicast: [] }],
    ['a unicast address among groups', { kind: 'mac-table', unicast: [], multicast: [own] }],
  ])('refuses %s', (_what, control) => {
    expect(applyControl(initialNetState(own, localFeatures), control, localFeatures)).toBeNull();
  });

  it.each<[keyof typeof featureBit, StateControl]>([
    ['CTRL_RX', { kind: 'rx-mode', mode: 'promiscuous', on: true }],
    ['CTRL_RX', { kind: 'mac-table', unicast: [], multicast: [] }],
    ['CTRL_RX_EXTRA', { kind: 'rx-mode', mode: 'noBroadcast', on: true }],
    ['CTRL_MAC_ADDR', { kind: 'mac', mac: own }],
    ['CTRL_VLAN', { kind: 'vlan', id: 1, pass: true }],
    ['GUEST_ANNOUNCE', { kind: 'announced' }],
  ])('without %s refuses its command', (name, control) => {
    const without = localFeatures & ~featureMask(featureBit[name]);
    expect(applyControl(initialNetState(own, without), control, without)).toBeNull();
    expect(applyControl(initialNetState(own, localFeatures), control, localFeatures)).not.toBeNull();
  });
});
