/** A life cycle that does nothing and remembers what it was asked. */
import type {
  Attachments,
  CallContext,
  CheckRequest,
  GarbageRequest,
  RemoveRequest,
} from '../../src/attachment/api.ts';
import type { AttachmentResult, AttachmentSpec, IpamSpec } from '../../src/attachment/spec.ts';
import type { NativeFd } from '../../src/native/binding.ts';

/** What an attachment without addresses and without an OVS port is. */
export function bareResult(spec: AttachmentSpec): AttachmentResult {
  return {
    ifName: spec.key.ifName,
    netnsPath: spec.netnsPath,
    mac: spec.device.mac,
    mtu: spec.device.mtu,
    socketPath: spec.backend.path,
    ovsPort: null,
    ipam: { ips: [], routes: [], dns: null },
  };
}

export class RecordingAttachments implements Attachments {
  readonly added: { readonly spec: AttachmentSpec; readonly netns: NativeFd; readonly context: CallContext }[] = [];
  readonly removed: RemoveRequest[] = [];
  readonly checked: CheckRequest[] = [];
  readonly collected: GarbageRequest[] = [];
  readonly asked: { readonly ipam: IpamSpec | null; readonly cniPath: string }[] = [];
  /** Thrown by whatever is asked next. */
  failWith: Error | null = null;

  #mayFail(): void {
    if (this.failWith !== null) throw this.failWith;
  }

  async add(spec: AttachmentSpec, netns: NativeFd, context: CallContext): Promise<AttachmentResult> {
    this.added.push({ spec, netns, context });
    this.#mayFail();
    return bareResult(spec);
  }

  async remove(request: RemoveRequest): Promise<void> {
    this.removed.push(request);
    this.#mayFail();
  }

  async check(request: CheckRequest): Promise<void> {
    this.checked.push(request);
    this.#mayFail();
  }

  async collectGarbage(request: GarbageRequest): Promise<void> {
    this.collected.push(request);
    this.#mayFail();
  }

  async status(ipam: IpamSpec | null, cniPath: string): Promise<void> {
    this.asked.push({ ipam, cniPath });
    this.#mayFail();
  }

  list(): readonly [] {
    return [];
  }

  async reconnect(): Promise<void> {}

  async setQueuePairs(): Promise<void> {}
}
