/** What an IPAM plugin gave, validated: addresses, routes, DNS. CNI 1.1.0, section "Delegated plugins (IPAM)". */

export interface IpamAddress {
  /** CIDR. */
  readonly address: string;
  readonly gateway: string | null;
}

export interface IpamRoute {
  /** CIDR. */
  readonly dst: string;
  readonly gw: string | null;
  readonly mtu: number | null;
  readonly advmss: number | null;
  readonly priority: number | null;
  readonly table: number | null;
  readonly scope: number | null;
}

export interface IpamDns {
  readonly nameservers: readonly string[];
  readonly domain: string | null;
  readonly search: readonly string[];
  readonly options: readonly string[];
}

export interface IpamResult {
  readonly ips: readonly IpamAddress[];
  readonly routes: readonly IpamRoute[];
  readonly dns: IpamDns | null;
}

/** What an ADD gave. The plugin has printed it and may still be ending. */
export interface IpamAnswer {
  readonly result: IpamResult;
  /**
   * Resolves when the plugin has ended well. When it rejects (a VirtioUserError as of `add`) the result does not count,
   * and the lease is still to be given back. Settles soon after `signal` of the ADD is aborted.
   */
  readonly confirmed: Promise<void>;
}

/** Name of a plugin's executable: no path separator, nothing hidden. */
export const pluginName = /^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/;

/** Whether a plugin asks over the pod's interface itself, which must be up and connected before it can answer. */
export function asksOverInterface(type: string): boolean {
  return type === 'dhcp';
}

/** Everything that a delegate is told about the attachment. */
export interface IpamCall {
  /** A {@link pluginName}. */
  readonly type: string;
  /** The network configuration as it came on stdin; `cniVersion` is lowered to what the plugin supports. */
  readonly netconf: string;
  readonly containerId: string;
  /** May be empty on DEL. */
  readonly netnsPath: string;
  readonly ifName: string;
  readonly cniArgs: string;
  /** CNI_PATH of the caller; the agent's `--cni-bin-dir` is searched after it. */
  readonly cniPath: string;
}

/** @throws VirtioUserError IPAM_FAILED (missing, failed, hung, garbage), CANCELLED */
export interface Ipam {
  /**
   * @param permission the plugin is started at once, and told what to do when this resolves; when it rejects nothing has
   *   happened
   * @throws with `details.undone` false when a lease may be left all the same; else a failed ADD leaves none
   */
  add(call: IpamCall, signal: AbortSignal, permission?: Promise<unknown>): Promise<IpamAnswer>;
  /** Idempotent: a lease that is not there is success. */
  del(call: IpamCall, signal: AbortSignal, permission?: Promise<unknown>): Promise<void>;
  check(call: IpamCall, prevResult: unknown, signal: AbortSignal): Promise<void>;
  /**
   * A plugin that does not know GC or STATUS (older than CNI 1.1.0) counts as success.
   * @param valid what keeps its lease, whatever the configuration lists
   */
  gc(
    call: Pick<IpamCall, 'type' | 'netconf' | 'cniPath'>,
    valid: readonly Pick<IpamCall, 'containerId' | 'ifName'>[],
    signal: AbortSignal,
  ): Promise<void>;
  status(call: Pick<IpamCall, 'type' | 'netconf' | 'cniPath'>, signal: AbortSignal): Promise<void>;
}
