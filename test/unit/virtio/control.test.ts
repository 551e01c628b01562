import { describe, expect, it } from '@jest/globals';
import { type Control, decodeControl, encodeControl, macTableEntries, rxModes } from '../../../src/virtio/control.ts';
import { randomBelow, seededRandom } from '../../support/random.ts';

const mac = (number: number): string => `02:00:00:00:00:${number.toString(16).padStart(2, '0')}`;

describe('commands of the control queue', () => {
  it.each<[string, Control, number, number, string]>([
    ['PROMISC', { kind: 'rx-mode', mode: 'promiscuous', on: true }, 0, 0, '01'],
    ['ALLMULTI', { kind: 'rx-mode', mode: 'allMulticast', on: false }, 0, 1, '00'],
    ['NOBCAST', { kind: 'rx-mode', mode: 'noBroadcast', on: true }, 0, 5, '01'],
    [
      'TABLE_SET',
      { kind: 'mac-table', unicast: [mac(1)], multicast: ['33:33:00:00:00:01'] },
      1,
      0,
      '01000000' + '020000000001' + '01000000' + '333300000001',
    ],
    ['ADDR_SET', { kind: 'mac', mac: mac(7) }, 1, 1, '020000000007'],
    ['VLAN_ADD', { kind: 'vlan', id: 0x123, pass: true }, 2, 0, '2301'],
    ['VLAN_DEL', { kind: 'vlan', id: 4095, pass: false }, 2, 1, 'ff0f'],
    ['ANNOUNCE_ACK', { kind: 'announced' }, 3, 0, ''],
    ['VQ_PAIRS_SET', { kind: 'queue-pairs', pairs: 0x8000 }, 4, 0, '0080'],
  ])('%s has the numbers and bytes of virtio_net.h, both ways', (_name, control, commandClass, command, hex) => {
    const encoded = encodeControl(control);
    expect([encoded.commandClass, encoded.command, Buffer.from(encoded.data).toString('hex')]).toEqual([
      commandClass,
      command,
      hex,
    ]);
    expect(decodeControl(encoded)).toEqual(control);
  });

  it('carries as many addresses as it says', () => {
    const control: Control = {
      kind: 'mac-table',
      unicast: Array.from({ length: macTableEntries }, (_, index) => mac(index % 256)),
      multicast: [],
    };
    expect(encodeControl(control).data.length).toBeLessThanOrEqual(4096);
    expect(decodeControl(encodeControl(control))).toEqual(control);
  });

  it.each([
    ['another class', 5, 0, '00'],
    ['another command', 0, rxModes.length, '01'],
    ['an RX mode of no byte', 0, 0, ''],
    ['an RX mode of two', 0, 0, '0100'],
    ['a MAC address of five bytes', 1, 1, '0200000000'],
    ['another MAC command', 1, 2, '020000000001'],
    ['tables without the second one', 1, 0, '00000000'],
    ['tables with a count beyond their data', 1, 0, 'ffffffff00000000'],
    ['tables with bytes left over', 1, 0, '000000000000000000'],
    ['a second table beyond the data', 1, 0, '00000000' + '02000000' + '333300000001'],
    ['a VLAN id of 13 bits', 2, 0, '0010'],
    ['a VLAN id of one byte', 2, 0, '01'],
    ['an announcement with data', 3, 0, '00'],
    ['RSS', 4, 1, '0100'],
    ['pairs of three bytes', 4, 0, '010000'],
  ])('[F61] refuses %s', (_what, commandClass, command, hex) => {
    expect(decodeControl({ commandClass, command, data: Buffer.from(hex, 'hex') })).toBeNull();
  });

  it('[F61] takes or refuses any bytes, and what it takes it would have written itself', () => {
    const random = seededRandom(61);
    let taken = 0;
    for (let round = 0; round < 20_000; round += 1) {
      const data = Buffer.from(Array.from({ length: randomBelow(random, 20) }, () => randomBelow(random, 3)));
      const command = { commandClass: randomBelow(random, 7), command: randomBelow(random, 7), data };
      const control = decodeControl(command);
      if (control === null) continue;
      taken += 1;
      const again = encodeControl(control);
      expect([again.commandClass, again.command]).toEqual([command.commandClass, command.command]);
      if (control.kind !== 'rx-mode') expect(Buffer.from(again.data)).toEqual(data);
    }
    expect(taken).toBeGreaterThan(100);
  });
});
