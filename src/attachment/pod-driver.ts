/**
 * The driver of a pod's device as far as commands go: what the pod does to its interface (MAC address, MTU, promiscuous
 * and multicast modes, addresses of a macvlan on top) becomes commands of the control queue, as a network card's driver would
 * send them. A device that was reset knows nothing, so each connection is told everything anew.
 *
 * Changes are learnt from the kernel's link events. What it tells nobody (a packet socket that joins a group) is found by
 * looking again now and then.
 */
import type { Clock } from '../clock.ts';
import type { VirtioUserDevice } from '../device/api.ts';
import { VirtioUserError } from '../errors.ts';
import type { PodLinkFilter, PodLinkWatch } from '../native/binding.ts';
import type { Logger } from '../telemetry/log.ts';
import { type Control, macTableEntries } from '../virtio/control.ts';

export interface PodDriverParts {
  readonly device: Pick<VirtioUserDevice, 'control' | 'net' | 'setMtu'>;
  /** null: the namespace is gone. */
  readonly openWatch: (onChange: () => void) => Promise<PodLinkWatch | null>;
  /** The pod has another MAC address than the switch was told. */
  readonly onMacChange: () => void;
  readonly clock: Clock;
  readonly log: Logger;
}

/** Between two looks at a link that keeps changing. */
export const quietMs = 100;
/** For what no event tells. */
export const lookAgainMs = 30_000;

export class PodDriver {
  readonly #parts: PodDriverParts;
  #watch: PodLinkWatch | null = null;
  #running = false;
  #closed = false;
  /** What this connection's device was told. */
  #told: PodLinkFilter | null = null;
  #dirty = false;
  #working: Promise<void> | null = null;
  #cancelTimer: (() => void) | null = null;

  constructor(parts: PodDriverParts) {
    this.#parts = parts;
  }

  /** The device has reached DRIVER_OK and its port runs: everything is told anew. */
  start(): void {
    if (this.#closed) return;
    this.#running = true;
    this.#told = null;
    this.#look();
  }

  /** The switch was told where the pod is: the device need not ask any more (VIRTIO_NET_CTRL_ANNOUNCE_ACK). */
  announced(): void {
    if (!this.#running) return;
    this.#parts.device.control({ kind: 'announced' }).catch((error: unknown) => {
      if (this.#running)
        this.#parts.log.warn({ error }, 'the device did not take the acknowledgement of an announcement');
    });
  }

  /** The connection is over; the watch stays for the next one. */
  stop(): void {
    this.#running = false;
    this.#cancelTimer?.();
    this.#cancelTimer = null;
  }

  /** Lets the pod's namespace go. Resolves when nothing of it is in use any more. Idempotent. */
  async close(): Promise<void> {
    this.#closed = true;
    this.stop();
    this.#watch?.close();
    this.#watch = null;
    await this.#working;
  }

  #look(): void {
    this.#dirty = true;
    this.#cancelTimer?.();
    this.#cancelTimer = null;
    this.#working ??= this.#work().finally(() => {
      this.#working = null;
      if (this.#running && this.#dirty) this.#look();
    });
  }

  #lookIn(ms: number): void {
    if (!this.#running) return;
    this.#cancelTimer?.();
    this.#cancelTimer = this.#parts.clock.after(ms, () => this.#look());
  }

  /** Never rejects. */
  async #work(): Promise<void> {
    this.#dirty = false;
    try {
      const watch = await this.#openWatch();
      if (watch === null) return;
      const wanted = await watch.read();
      // Gone: the port says so by itself.
      if (wanted === null || !this.#running) return;
      await this.#tell(wanted);
      // What has changed meanwhile is looked at sooner.
      if (this.#cancelTimer === null) this.#lookIn(lookAgainMs);
    } catch (thrown) {
      if (!this.#running || this.#closed) return;
      const error = VirtioUserError.from(thrown, "commands of the pod's interface", 'SYSCALL_FAILED');
      // A device that takes no commands passes everything: the pod loses nothing.
      if (error.code !== 'CONTROL_QUEUE_BROKEN' && error.code !== 'DEVICE_NOT_RUNNING') this.#lookIn(lookAgainMs);
      this.#parts.log.warn({ error }, "the device could not be told of the pod's interface");
    }
  }

  async #openWatch(): Promise<PodLinkWatch | null> {
    if (this.#watch !== null) return this.#watch;
    const watch = await this.#parts.openWatch(() => this.#changed());
    if (this.#closed) {
      watch?.close();
      return null;
    }
    this.#watch = watch;
    return watch;
  }

  /** Told once until the next look, so that a pod that changes its links in a loop sets the pace of nothing. */
  #changed(): void {
    this.#lookIn(quietMs);
  }

  async #tell(wanted: PodLinkFilter): Promise<void> {
    const { device, onMacChange } = this.#parts;
    const macBefore = device.net?.mac;
    for (const command of commandsFor(this.#told, wanted)) await device.control(command);
    // No command of the control queue: virtio has none for it, vhost-user a message.
    if (this.#told?.mtu !== wanted.mtu) await device.setMtu(wanted.mtu);
    this.#told = wanted;
    if (macBefore !== undefined && macBefore !== wanted.mac) onMacChange();
  }
}

/**
 * Commands that bring a device from `told` (null: just reset, promiscuous) to `wanted`. What lets frames in comes before
 * what keeps them out.
 */
export function commandsFor(told: PodLinkFilter | null, wanted: PodLinkFilter): readonly Control[] {
  const commands: Control[] = [];
  const mode = (name: 'promiscuous' | 'allMulticast', on: boolean): Control => ({ kind: 'rx-mode', mode: name, on });
  const before = effective(
    told ?? { mac: '', mtu: 0, promiscuous: true, allMulticast: false, unicast: [], multicast: [] },
  );
  const after = effective(wanted);
  if (after.promiscuous && !before.promiscuous) commands.push(mode('promiscuous', true));
  if (after.allMulticast && !before.allMulticast) commands.push(mode('allMulticast', true));
  if (after.mac !== before.mac) commands.push({ kind: 'mac', mac: after.mac });
  if (!same(after.unicast, before.unicast) || !same(after.multicast, before.multicast)) {
    commands.push({ kind: 'mac-table', unicast: after.unicast, multicast: after.multicast });
  }
  if (!after.allMulticast && before.allMulticast) commands.push(mode('allMulticast', false));
  if (!after.promiscuous && before.promiscuous) commands.push(mode('promiscuous', false));
  return commands;
}

/** Tables that one command cannot carry become the modes that let them all in. */
function effective(filter: PodLinkFilter): PodLinkFilter {
  const { unicast, multicast } = filter;
  const manyUnicast = unicast.length > macTableEntries / 2;
  const manyMulticast = multicast.length > macTableEntries / 2;
  return {
    ...filter,
    promiscuous: filter.promiscuous || manyUnicast,
    allMulticast: filter.allMulticast || manyMulticast,
    unicast: manyUnicast ? [] : unicast.toSorted(),
    multicast: manyMulticast ? [] : multicast.toSorted(),
  };
}

function same(one: readonly string[], other: readonly string[]): boolean {
  return one.length === other.length && one.every((item, index) => item === other[index]);
}
