/** What the life cycle is given at the composition root; tests give it something else. */
import type { Clock } from '../clock.ts';
import type { VirtioUserDevice, DeviceOptions } from '../device/api.ts';
import type { FrontendSource } from '../device/frontend.ts';
import type { DataPath } from '../device/queue-pairs.ts';
import type { Ipam } from '../ipam/result.ts';
import type { NativeBinding, Pump } from '../native/binding.ts';
import type { OvsPorts } from '../ovs/ports.ts';
import type { Logger } from '../telemetry/log.ts';
import type { CutConnections } from './cut-connections.ts';
import type { DeviceInfoFiles } from './device-info.ts';
import type { BackendSpec, PodIdentity } from './spec.ts';
import type { StoreFiles } from './store.ts';

export interface LifeCycleOptions {
  readonly nodeName: string;
  readonly stateDir: string;
  /** How long the TAP's queue holds frames and carrier stays on after the backend is gone, milliseconds. */
  readonly holdMs: number;
  readonly softwareOffloads: boolean;
  readonly bootId: string;
}

export interface AttachmentDependencies {
  readonly binding: NativeBinding;
  readonly pumps: readonly Pump[];
  readonly deviceInfo: DeviceInfoFiles;
  readonly ipam: Ipam;
  readonly ovs: OvsPorts;
  readonly cuts: CutConnections;
  readonly createDevice: (options: DeviceOptions, path: DataPath) => VirtioUserDevice;
  readonly createSource: (backend: BackendSpec) => FrontendSource;
  readonly clock: Clock;
  readonly log: Logger;
  readonly options: LifeCycleOptions;
  /**
   * Why nothing of this pod may be removed on suspicion, or null; never asked on DEL. Default: nothing keeps it. Also
   * asked of a record that names no pod: whoever would look the pod up must say what that means.
   */
  readonly whyKeepPod?: (pod: PodIdentity | null) => string | null;
  /** Where records are written; default: the disk. */
  readonly files?: StoreFiles;
}
