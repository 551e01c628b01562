/** An attachment is keyed (network name, container id, ifname): CNI 1.1.0, section "ADD". */
import { createHash } from 'node:crypto';

export interface AttachmentKey {
  readonly networkName: string;
  readonly containerId: string;
  readonly ifName: string;
}

/** `vu` + 12 hex digits: names the socket, the OVS port (≤ 15 bytes), the record, and is in every log line. */
export function attachmentId(key: AttachmentKey): string {
  const digest = createHash('sha256').update(`${key.networkName}\0${key.containerId}\0${key.ifName}`).digest('hex');
  return `vu${digest.slice(0, 12)}`;
}

/** A locally administered unicast MAC that is the same for the same attachment on the same node. */
export function derivedMac(nodeName: string, key: AttachmentKey): string {
  const bytes = createHash('sha256')
    .update(`${nodeName}\0${key.networkName}\0${key.containerId}\0${key.ifName}`)
    .digest()
    .subarray(0, 6);
  bytes[0] = ((bytes[0] ?? 0) & 0xfc) | 0x02;
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, '0')).join(':');
}
