/** What an attachment shall be: a validated, complete request. Made by `cni/netconf.ts`, kept in the record. */
import type { DeviceOptions } from '../device/api.ts';
import type { IpamResult } from '../ipam/result.ts';
import type { AttachmentKey } from './key.ts';

export interface BackendSpec {
  readonly type: 'vhost-user';
  /** Absolute, placeholders resolved. */
  readonly path: string;
  /** true: we listen and the switch connects. */
  readonly server: boolean;
  readonly wait: 'optional' | 'required';
  readonly waitTimeoutMs: number;
}

/**
 * What a pod's network asks of its device; `mac` is resolved by precedence and lower-case. The rest is the node's, or
 * set later.
 */
export type DeviceSpec = Omit<DeviceOptions, 'softwareOffloads' | 'wantedPairs'>;

export interface OvsSpec {
  readonly bridge: string;
  readonly vlan: number | null;
}

export interface IpamSpec {
  readonly type: string;
  /** The netconf as it came on stdin, for the delegate. */
  readonly netconf: string;
}

export interface PodIdentity {
  readonly namespace: string;
  readonly name: string;
  readonly uid: string;
}

export interface AttachmentSpec {
  readonly key: AttachmentKey;
  /** CNI_NETNS as it came; opened through the passed descriptor on ADD, by path on re-adoption. */
  readonly netnsPath: string;
  readonly pod: PodIdentity | null;
  /** CNI_ARGS and CNI_PATH as they came, for delegates. */
  readonly cniArgs: string;
  readonly cniPath: string;
  readonly backend: BackendSpec;
  readonly device: DeviceSpec;
  readonly ovs: OvsSpec | null;
  readonly ipam: IpamSpec | null;
  /** With prefix length; what the pod asked for where no IPAM plugin is named. */
  readonly addresses: readonly string[];
  /** Where Multus wants the device described, checked; null: nowhere. */
  readonly deviceInfoPath: string | null;
}

/** What ADD made, in our terms; `cni/result.ts` renders it for a cniVersion. */
export interface AttachmentResult {
  readonly ifName: string;
  readonly netnsPath: string;
  readonly mac: string;
  readonly mtu: number;
  /** Path of the vhost-user socket. */
  readonly socketPath: string;
  /** Name of the OVS port, if the agent made one. */
  readonly ovsPort: string | null;
  readonly ipam: IpamResult;
}
