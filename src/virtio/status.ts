/** The virtio device status byte (virtio 1.3 section 2.1). */
export const statusBit = {
  ACKNOWLEDGE: 0x01,
  DRIVER: 0x02,
  DRIVER_OK: 0x04,
  FEATURES_OK: 0x08,
  NEEDS_RESET: 0x40,
  FAILED: 0x80,
} as const;

/** 0x0B: features agreed on, device not running yet. */
export const statusFeaturesOk = statusBit.ACKNOWLEDGE | statusBit.DRIVER | statusBit.FEATURES_OK;

/** 0x0F: the driver runs the device. */
export const statusDriverOk = statusFeaturesOk | statusBit.DRIVER_OK;

/** Names of the bits set, ascending; `BIT_4` for one without a name. Empty for a reset device. */
export function statusNames(status: number): string[] {
  const named = new Map<number, string>(Object.entries(statusBit).map(([name, mask]) => [mask, name]));
  return Array.from({ length: 8 }, (_, bit) => bit)
    .filter((bit) => (status & (1 << bit)) !== 0)
    .map((bit) => named.get(1 << bit) ?? `BIT_${bit}`);
}
