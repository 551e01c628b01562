/**
 * Commands of the control queue: what the driver writes into them and what the device reads out (virtio 1.3, 5.1.6.5).
 * Class and command numbers of linux/virtio_net.h.
 */

/** As it lies on the ring. */
export interface ControlCommand {
  /** VIRTIO_NET_CTRL_* class and command, a byte each. */
  readonly commandClass: number;
  readonly command: number;
  /** At most 4096 bytes. */
  readonly data: Uint8Array;
}

/** Modes of class RX, in the order of their command numbers. */
export const rxModes = [
  'promiscuous',
  'allMulticast',
  'allUnicast',
  'noMulticast',
  'noUnicast',
  'noBroadcast',
] as const;
export type RxMode = (typeof rxModes)[number];

/** A command as the device understands it. */
export type Control =
  | { readonly kind: 'rx-mode'; readonly mode: RxMode; readonly on: boolean }
  | { readonly kind: 'mac-table'; readonly unicast: readonly string[]; readonly multicast: readonly string[] }
  | { readonly kind: 'mac'; readonly mac: string }
  | { readonly kind: 'vlan'; readonly id: number; readonly pass: boolean }
  | { readonly kind: 'announced' }
  | { readonly kind: 'queue-pairs'; readonly pairs: number };

const classRx = 0;
const classMac = 1;
const classVlan = 2;
const classAnnounce = 3;
const classMq = 4;

const macBytes = 6;
/** What a command can carry; the native queue holds no more. */
export const controlDataBytes = 4096;
/** Addresses that both tables of one command can hold together. */
export const macTableEntries = Math.floor((controlDataBytes - 8) / macBytes);
const vlanIds = 4096;

function macOf(bytes: Uint8Array): string {
  return [...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join(':');
}

function bytesOf(mac: string): Buffer {
  return Buffer.from(mac.replaceAll(':', ''), 'hex');
}

function u16(value: number): Buffer {
  const data = Buffer.alloc(2);
  data.writeUInt16LE(value);
  return data;
}

function table(macs: readonly string[]): Buffer {
  const count = Buffer.alloc(4);
  count.writeUInt32LE(macs.length);
  return Buffer.concat([count, ...macs.map(bytesOf)]);
}

export function encodeControl(control: Control): ControlCommand {
  switch (control.kind) {
    case 'rx-mode':
      return {
        commandClass: classRx,
        command: rxModes.indexOf(control.mode),
        data: Uint8Array.of(control.on ? 1 : 0),
      };
    case 'mac-table':
      return {
        commandClass: classMac,
        command: 0,
        data: Buffer.concat([table(control.unicast), table(control.multicast)]),
      };
    case 'mac':
      return { commandClass: classMac, command: 1, data: bytesOf(control.mac) };
    case 'vlan':
      return { commandClass: classVlan, command: control.pass ? 0 : 1, data: u16(control.id) };
    case 'announced':
      return { commandClass: classAnnounce, command: 0, data: new Uint8Array(0) };
    case 'queue-pairs':
      return { commandClass: classMq, command: 0, data: u16(control.pairs) };
  }
}

/** @returns null for a class or command that nobody serves here, and for data of another length than it has */
export function decodeControl({ commandClass, command, data }: ControlCommand): Control | null {
  const bytes = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  switch (commandClass) {
    case classRx: {
      const mode = rxModes[command];
      return mode === undefined || bytes.length !== 1 ? null : { kind: 'rx-mode', mode, on: bytes[0] !== 0 };
    }
    case classMac:
      if (command === 0) return decodeTables(bytes);
      return command !== 1 || bytes.length !== macBytes ? null : { kind: 'mac', mac: macOf(bytes) };
    case classVlan: {
      if (command > 1 || bytes.length !== 2) return null;
      const id = bytes.readUInt16LE();
      return id >= vlanIds ? null : { kind: 'vlan', id, pass: command === 0 };
    }
    case classAnnounce:
      return command === 0 && bytes.length === 0 ? { kind: 'announced' } : null;
    case classMq:
      return command === 0 && bytes.length === 2 ? { kind: 'queue-pairs', pairs: bytes.readUInt16LE() } : null;
    default:
      return null;
  }
}

function decodeTables(bytes: Buffer): Control | null {
  const unicast = takeTable(bytes, 0);
  if (unicast === null) return null;
  const multicast = takeTable(bytes, 4 + unicast.length * macBytes);
  if (multicast === null || 8 + (unicast.length + multicast.length) * macBytes !== bytes.length) return null;
  return { kind: 'mac-table', unicast, multicast };
}

function takeTable(bytes: Buffer, at: number): string[] | null {
  if (bytes.length < at + 4) return null;
  const count = bytes.readUInt32LE(at);
  if (count > (bytes.length - at - 4) / macBytes) return null;
  return Array.from({ length: count }, (_, index) => {
    const start = at + 4 + index * macBytes;
    return macOf(bytes.subarray(start, start + macBytes));
  });
}
