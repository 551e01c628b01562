/** An IPAM plugin's leases, in memory. */
import { VirtioUserError } from '../../src/errors.ts';
import type { Ipam, IpamAnswer, IpamCall } from '../../src/ipam/result.ts';
import type { Gate } from './gate.ts';

export class FakeIpam implements Ipam {
  readonly leases = new Map<string, string>();
  readonly calls: string[] = [];
  failing: 'ADD' | 'DEL' | 'CHECK' | 'GC' | null = null;
  /** ADD takes a lease, fails, and cannot give it back. */
  leaks = false;
  /** ADD prints its result and takes a lease, and ends badly all the same. */
  relents = false;
  /** An ADD that has printed its result ends when this resolves. */
  lingering: Promise<void> = Promise.resolve();
  /** Netconfs that DEL was called with. */
  readonly deletedWith: string[] = [];
  hangs = false;
  readonly #gate: Gate;

  constructor(gate: Gate) {
    this.#gate = gate;
  }

  async add(call: IpamCall, signal: AbortSignal, permission?: Promise<unknown>): Promise<IpamAnswer> {
    await permission;
    const result = await this.#gate.pass('ipam.add', async () => {
      this.#called('ADD');
      if (this.hangs) {
        await new Promise<void>((_resolve, reject) => {
          const onAbort = (): void => reject(new VirtioUserError('CANCELLED', 'IPAM ADD cancelled'));
          if (signal.aborted) onAbort();
          signal.addEventListener('abort', onAbort);
        });
      }
      const key = `${call.containerId}/${call.ifName}`;
      if (this.leases.has(key)) throw new VirtioUserError('IPAM_FAILED', 'duplicate allocation is not allowed');
      const address = `10.77.0.${this.leases.size + 2}`;
      this.leases.set(key, address);
      if (this.leaks) throw new VirtioUserError('IPAM_FAILED', 'no answer', { details: { undone: false } });
      return {
        ips: [
          { address: `${address}/24`, gateway: '10.77.0.1' },
          { address: 'fd77::2/64', gateway: null },
        ],
        routes: [{ dst: '0.0.0.0/0', gw: null, mtu: null, advmss: null, priority: null, table: null, scope: null }],
        dns: null,
      };
    });
    const confirmed = this.#gate.pass('ipam.ended', async () => {
      await this.lingering;
      if (this.relents) throw new VirtioUserError('IPAM_FAILED', 'killed by SIGKILL');
    });
    confirmed.catch(() => undefined);
    return { result, confirmed };
  }

  async del(call: IpamCall, _signal?: AbortSignal, permission?: Promise<unknown>): Promise<void> {
    await permission;
    return this.#gate.pass('ipam.del', () => {
      this.deletedWith.push(call.netconf);
      this.#called('DEL');
      this.leases.delete(`${call.containerId}/${call.ifName}`);
    });
  }

  async check(): Promise<void> {
    this.#called('CHECK');
  }

  /** What the last GC said to keep. */
  valid: readonly string[] = [];

  async gc(_call: unknown, valid: readonly { readonly containerId: string; readonly ifName: string }[]): Promise<void> {
    this.valid = valid.map(({ containerId, ifName }) => `${containerId}/${ifName}`);
    this.#called('GC');
  }

  async status(): Promise<void> {
    this.calls.push('STATUS');
  }

  #called(verb: 'ADD' | 'DEL' | 'CHECK' | 'GC'): void {
    this.calls.push(verb);
    if (this.failing === verb) throw new VirtioUserError('IPAM_FAILED', `IPAM plugin ${verb}: the pool is on fire`);
  }
}
