/** Addresses with a prefix length, as text. */
import { isIP } from 'node:net';
import ipaddr from 'ipaddr.js';

/** 4, 6, or 0. ipaddr.js takes octal and shortened forms for other addresses; `isIP` refuses them, but takes zones. */
export function familyOf(text: string): number {
  return text.includes('%') ? 0 : isIP(text);
}

export function isCidr(text: string): boolean {
  const [address = '', prefix = '', ...more] = text.split('/');
  const family = familyOf(address);
  return (
    more.length === 0 &&
    family !== 0 &&
    /^(0|[1-9]\d{0,2})$/.test(prefix) &&
    Number(prefix) <= (family === 4 ? 32 : 128)
  );
}

/** Of an {@link isCidr}: one spelling per address, so that texts can be compared. */
export function canonicalCidr(text: string): string {
  const [address = '', prefix = ''] = text.split('/');
  return `${ipaddr.parse(address).toString()}/${prefix}`;
}
