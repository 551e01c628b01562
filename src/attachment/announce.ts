/**
 * Frames that tell the switch where the pod is now: gratuitous ARP (RFC 5227 §3) per IPv4 address, unsolicited neighbour
 * advertisement (RFC 4861 §7.2.6) per IPv6 address. Without them a restarted switch floods until the pod speaks.
 */
import ipaddr from 'ipaddr.js';

function macBytes(mac: string): Buffer {
  return Buffer.from(mac.replaceAll(':', ''), 'hex');
}

function gratuitousArp(mac: Buffer, address: Buffer): Buffer {
  const fixed = Buffer.from('0806' + '0001' + '0800' + '06' + '04' + '0001', 'hex');
  const broadcast = Buffer.alloc(6, 0xff);
  return Buffer.concat([broadcast, mac, fixed, mac, address, Buffer.alloc(6), address]);
}

/** RFC 1071. */
function checksum(...parts: readonly Buffer[]): number {
  const data = Buffer.concat(parts);
  let sum = 0;
  for (let at = 0; at < data.length; at += 2) sum += data.readUInt16BE(at);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

function unsolicitedAdvertisement(mac: Buffer, address: Buffer): Buffer {
  const allNodes = Buffer.from('ff020000000000000000000000000001', 'hex');
  const body = Buffer.alloc(32);
  body.writeUInt8(136, 0); // neighbour advertisement
  body.writeUInt32BE(0x2000_0000, 4); // override, not solicited
  address.copy(body, 8);
  body.writeUInt8(2, 24); // option: target link-layer address
  body.writeUInt8(1, 25);
  mac.copy(body, 26);
  const pseudo = Buffer.concat([address, allNodes, Buffer.from([0, 0, 0, body.length, 0, 0, 0, 58])]);
  body.writeUInt16BE(checksum(pseudo, body), 2);
  const ip = Buffer.alloc(8);
  ip.writeUInt32BE(0x6000_0000, 0);
  ip.writeUInt16BE(body.length, 4);
  ip.writeUInt8(58, 6);
  ip.writeUInt8(255, 7);
  const ethernet = Buffer.concat([Buffer.from('333300000001', 'hex'), mac, Buffer.from('86dd', 'hex')]);
  return Buffer.concat([ethernet, ip, address, allNodes, body]);
}

/** @param addresses CIDR or plain */
export function announcements(mac: string, addresses: readonly string[]): Buffer[] {
  return addresses.map((text) => {
    const parsed = ipaddr.parse(text.split('/')[0] ?? '');
    const bytes = Buffer.from(parsed.toByteArray());
    return parsed.kind() === 'ipv4'
      ? gratuitousArp(macBytes(mac), bytes)
      : unsolicitedAdvertisement(macBytes(mac), bytes);
  });
}
