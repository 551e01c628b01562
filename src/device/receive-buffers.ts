/**
 * Buffer memory that grows while the device runs (`virtio_user_mem_event_cb` of the original): the rings of the active
 * pairs are disabled, the backend gets the longer table, and the rings go on where they were. Where a backend cannot
 * disable rings they are taken from it and given back. Frames meanwhile wait in the TAP's queue.
 */
import type { Session } from '../native/binding.ts';
import { VirtioUserError } from '../errors.ts';
import type { Frontend, MemoryRegion } from './frontend.ts';
import { type DataPath, enableRings } from './queue-pairs.ts';
import { restartRings, stopRings } from './rings.ts';

/** The regions of a session as SET_MEM_TABLE names them. */
export function firstRegion(session: Session): MemoryRegion {
  return { fd: session.memory, label: session.memoryLabel, sizeBytes: session.memoryBytes, offsetBytes: 0n };
}

export interface GrowingDevice {
  readonly frontend: Frontend;
  readonly path: DataPath;
  readonly session: Session;
  /** What the backend has mapped. */
  readonly regions: readonly MemoryRegion[];
  readonly activePairs: number;
}

/**
 * @returns the regions of the table now
 * @throws NativeFault when there is no memory, or VirtioUserError when the backend would not pause, and nothing has
 *   changed; VirtioUserError when it did not take the table, and the connection has ended
 */
export async function growReceiveBuffers(
  device: GrowingDevice,
  rxBufferBytes: number,
): Promise<readonly MemoryRegion[]> {
  const { frontend, path, session, activePairs } = device;
  const added: MemoryRegion = { ...session.addReceiveBuffers(rxBufferBytes), offsetBytes: 0n };
  const regions = [...device.regions, added];
  const pausable = frontend.abilities.ringEnable;
  try {
    if (pausable) await enableRings(frontend, 0, activePairs, false);
  } catch (thrown) {
    // Regions are few, and who wants these buffers asks again.
    session.dropReceiveBuffers();
    throw thrown;
  }
  try {
    const bases = pausable ? [] : await stopRings(frontend, session);
    await frontend.setMemoryTable(regions);
    if (pausable) await enableRings(frontend, 0, activePairs, true);
    else await restartRings(frontend, session, bases);
  } catch (thrown) {
    // Rings that stay disabled would be a link that is up and carries nothing.
    const error = VirtioUserError.from(thrown, 'memory table', 'BACKEND_REFUSED');
    frontend.fail(error);
    throw error;
  }
  await path.useReceiveBuffers();
  return regions;
}
