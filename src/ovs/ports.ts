/** vhost-user ports of Open vSwitch, as the attachment life cycle sees them. Implemented over OVSDB in this room. */

export interface OvsPortSpec {
  /** The attachment's id: port and interface carry it. */
  readonly name: string;
  readonly bridge: string;
  readonly vlan: number | null;
  readonly socketPath: string;
  /** dpdkvhostuserclient: OVS connects to our socket; dpdkvhostuser: OVS makes the socket in its own directory. */
  readonly type: 'dpdkvhostuserclient' | 'dpdkvhostuser';
  readonly mtu: number;
  readonly externalIds: Readonly<Record<string, string>>;
}

export interface OvsPort {
  readonly name: string;
  readonly bridge: string;
  readonly externalIds: Readonly<Record<string, string>>;
}

/** @throws VirtioUserError OVS_UNAVAILABLE, OVS_REFUSED, TIMEOUT, CANCELLED */
export interface OvsPorts {
  /** Creates the port, or makes an existing port of ours match. One transaction. */
  ensure(spec: OvsPortSpec, signal: AbortSignal): Promise<void>;
  /** Removes the port if it exists and carries our tag; false: nothing of ours was there. */
  remove(name: string, signal: AbortSignal): Promise<boolean>;
  /** Ports whose external_ids carry `virtio-user-node` = this node. */
  list(nodeName: string, signal: AbortSignal): Promise<readonly OvsPort[]>;
  close(): void;
}
