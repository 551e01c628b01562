/** The ports of a switch's database, in memory. */
import { VirtioUserError } from '../../src/errors.ts';
import type { OvsPort, OvsPorts, OvsPortSpec } from '../../src/ovs/ports.ts';
import type { Gate } from './gate.ts';

export class FakeOvs implements OvsPorts {
  readonly ports = new Map<string, OvsPortSpec>();
  away = false;
  /** How often a port was asked for. */
  asked = 0;
  readonly #gate: Gate;

  constructor(gate: Gate) {
    this.#gate = gate;
  }

  ensure(spec: OvsPortSpec): Promise<void> {
    this.asked += 1;
    return this.#gate.pass('ovs.ensure', () => {
      this.#reach('no');
      this.ports.set(spec.name, spec);
    });
  }

  remove(name: string): Promise<boolean> {
    return this.#gate.pass('ovs.remove', () => {
      this.#reach('no');
      return this.ports.delete(name);
    });
  }

  list(nodeName: string): Promise<readonly OvsPort[]> {
    return this.#gate.pass('ovs.list', () => {
      this.#reach('no');
      return [...this.ports.values()].filter((port) => port.externalIds['virtio-user-node'] === nodeName);
    });
  }

  close(): void {}

  #reach(committed: string): void {
    if (!this.away) return;
    throw new VirtioUserError('OVS_UNAVAILABLE', 'OVSDB: ECONNREFUSED', { details: { committed } });
  }
}
