/** The port as far as the device commands it: records the commands, fails where the test says. */
import type { DataPath } from '../../src/device/queue-pairs.ts';
import type { RxFilterRules } from '../../src/native/binding.ts';

export class FakeDataPath implements DataPath {
  readonly calls: string[] = [];
  readonly filters: RxFilterRules[] = [];
  /** The command (`retire`, …) that fails. */
  failing: string | null = null;

  async setRxFilter(rules: RxFilterRules): Promise<void> {
    this.#called('setRxFilter');
    this.filters.push(rules);
  }

  async useReceiveBuffers(): Promise<void> {
    this.#called('useReceiveBuffers');
  }

  async finishTransmit(pairs: number): Promise<void> {
    this.#called(`finishTransmit ${pairs}`);
  }

  detachQueues(pairs: number): void {
    this.#called(`detachQueues ${pairs}`);
  }

  async retire(pairs: number): Promise<void> {
    this.#called(`retire ${pairs}`);
  }

  async enlist(pairs: number): Promise<void> {
    this.#called(`enlist ${pairs}`);
  }

  #called(call: string): void {
    this.calls.push(call);
    if (this.failing !== null && call.startsWith(this.failing)) throw new Error(`${call} failed`);
  }
}
