/** vhost-user protocol features (GET/SET_PROTOCOL_FEATURES), as opposed to virtio features. */

export const protocolFeatureBit = {
  MQ: 0,
  LOG_SHMFD: 1,
  RARP: 2,
  REPLY_ACK: 3,
  MTU: 4,
  BACKEND_REQ: 5,
  CROSS_ENDIAN: 6,
  CRYPTO_SESSION: 7,
  PAGEFAULT: 8,
  CONFIG: 9,
  BACKEND_SEND_FD: 10,
  HOST_NOTIFIER: 11,
  INFLIGHT_SHMFD: 12,
  RESET_DEVICE: 13,
  INBAND_NOTIFICATIONS: 14,
  CONFIGURE_MEM_SLOTS: 15,
  STATUS: 16,
  XEN_MMAP: 17,
  SHARED_OBJECT: 18,
  DEVICE_STATE: 19,
  GET_VRING_BASE_INFLIGHT: 20,
  GPA_ADDRESSES: 21,
  SHMEM_MAP: 22,
} as const;

export type ProtocolFeature = keyof typeof protocolFeatureBit;

export function protocolFeatureMask(...names: readonly ProtocolFeature[]): bigint {
  return names.reduce((mask, name) => mask | (1n << BigInt(protocolFeatureBit[name])), 0n);
}

/**
 * Those that we ack when they are offered. STATUS has a price: once acked, DPDK does not run the device before it has
 * seen DRIVER_OK by SET_STATUS. BACKEND_REQ without BACKEND_SEND_FD: no request of the backend's that we serve brings a
 * descriptor, so none may.
 */
export const supportedProtocolFeatures = protocolFeatureMask('MQ', 'REPLY_ACK', 'MTU', 'BACKEND_REQ', 'STATUS');

export function hasProtocolFeature(mask: bigint, name: ProtocolFeature): boolean {
  return (mask & protocolFeatureMask(name)) !== 0n;
}

const nameByBit: ReadonlyMap<number, string> = new Map(
  Object.entries(protocolFeatureBit).map(([name, bit]) => [bit, name]),
);

/** Names of the bits set, ascending; `BIT_40` for one without a name. */
export function protocolFeatureNames(mask: bigint): string[] {
  return Array.from({ length: 64 }, (_, bit) => bit)
    .filter((bit) => ((mask >> BigInt(bit)) & 1n) === 1n)
    .map((bit) => nameByBit.get(bit) ?? `BIT_${bit}`);
}
