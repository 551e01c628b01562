/**
 * Plays a container runtime: calls the CNI executable exactly as containerd was seen to (environment, stdin, one
 * process per call), keeps the result and hands it back as prevResult.
 */
import { randomBytes } from 'node:crypto';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type Finished, runAny } from './process.ts';

export const executablePath = fileURLToPath(new URL('../../dist/cni/virtio-user', import.meta.url));

export interface CniErrorBody {
  readonly code: number;
  readonly msg: string;
  readonly details?: string;
}

export interface CniResult {
  readonly cniVersion: string;
  readonly interfaces: readonly {
    readonly name: string;
    readonly mac?: string;
    readonly mtu?: number;
    readonly sandbox?: string;
    readonly socketPath?: string;
  }[];
  readonly ips?: readonly { readonly address: string; readonly gateway?: string; readonly interface?: number }[];
  readonly routes?: readonly { readonly dst: string; readonly gw?: string }[];
}

export type CniOutcome =
  | { readonly ok: true; readonly stdout: string; readonly durationMs: number }
  | { readonly ok: false; readonly error: CniErrorBody; readonly exitCode: number | null; readonly durationMs: number };

export interface PodCall {
  readonly containerId: string;
  readonly netnsPath: string;
  readonly ifName?: string;
  readonly podName?: string;
  readonly podNamespace?: string;
}

export type Netconf = Readonly<Record<string, unknown>> & { readonly cniVersion: string; readonly name: string };

export function newContainerId(): string {
  return randomBytes(32).toString('hex');
}

export class Runtime {
  readonly #environment: Readonly<Record<string, string>>;
  readonly #executable: string;

  /** `environment` points the executable at a private agent (VIRTIO_USER_AGENT_SOCKET, VIRTIO_USER_STATE_DIR). */
  constructor(environment: Readonly<Record<string, string>>, executable = executablePath) {
    this.#environment = environment;
    this.#executable = executable;
  }

  async call(
    verb: string,
    netconf: Netconf,
    pod: PodCall | null,
    extra: Readonly<Record<string, unknown>> = {},
    overrides: Readonly<Record<string, string | undefined>> = {},
  ): Promise<CniOutcome> {
    const stdin = JSON.stringify({ ...netconf, ...extra });
    const env: Record<string, string | undefined> = {
      PATH: process.env['PATH'],
      LD_LIBRARY_PATH: '/opt/containerd/lib',
      ...this.#environment,
      CNI_COMMAND: verb,
      CNI_PATH: '/usr/lib/cni',
    };
    if (pod !== null) {
      env['CNI_CONTAINERID'] = pod.containerId;
      env['CNI_NETNS'] = pod.netnsPath;
      env['CNI_IFNAME'] = pod.ifName ?? 'eth0';
      env['CNI_ARGS'] =
        `K8S_POD_NAME=${pod.podName ?? 'pod'};K8S_POD_INFRA_CONTAINER_ID=${pod.containerId};` +
        `K8S_POD_UID=57cd01b0-d0c6-4db7-adb7-a6af2e8b86b7;IgnoreUnknown=1;K8S_POD_NAMESPACE=${pod.podNamespace ?? 'default'}`;
    }
    const startedMs = performance.now();
    const finished = await runAny(this.#executable, [], { env: { ...env, ...overrides }, stdin, timeoutMs: 240_000 });
    return outcomeOf(finished, performance.now() - startedMs);
  }

  async add(netconf: Netconf, pod: PodCall): Promise<CniResult> {
    const outcome = await this.call('ADD', netconf, pod);
    if (!outcome.ok) throw new Error(`ADD: code ${outcome.error.code}: ${outcome.error.msg}; ${outcome.error.details}`);
    return JSON.parse(outcome.stdout) as CniResult;
  }

  /** With prevResult as the first DEL has it, or without as kubelet's sandbox GC calls it. */
  async del(netconf: Netconf, pod: PodCall, prevResult?: CniResult): Promise<void> {
    const outcome = await this.call('DEL', netconf, pod, prevResult === undefined ? {} : { prevResult });
    if (!outcome.ok) throw new Error(`DEL: code ${outcome.error.code}: ${outcome.error.msg}; ${outcome.error.details}`);
    if (outcome.stdout !== '') throw new Error(`DEL printed ${outcome.stdout}`);
  }

  check(netconf: Netconf, pod: PodCall, prevResult: CniResult): Promise<CniOutcome> {
    return this.call('CHECK', netconf, pod, { prevResult });
  }
}

/** What a runtime makes of an executable's end. */
export function outcomeOf(finished: Finished, durationMs: number): CniOutcome {
  if (finished.code === 0) return { ok: true, stdout: finished.stdout, durationMs };
  let error: CniErrorBody;
  try {
    error = JSON.parse(finished.stdout) as CniErrorBody;
  } catch {
    error = { code: -1, msg: `not JSON: ${finished.stdout.slice(0, 200)} ${finished.stderr.slice(0, 200)}` };
  }
  return { ok: false, error, exitCode: finished.code, durationMs };
}

/** IPAM that keeps its leases inside the test's own directory. */
export function hostLocal(directory: string, subnets: readonly string[]): Readonly<Record<string, unknown>> {
  return {
    type: 'host-local',
    dataDir: join(directory, 'ipam'),
    ranges: subnets.map((subnet) => [{ subnet }]),
  };
}
