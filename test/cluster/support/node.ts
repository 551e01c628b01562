/** One Kubernetes node: a machine with kubelet, a switch of its own, and a subnet for its pods. */
import { mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Daemon } from '../../support/process.ts';
import { binary, type ContainerdVersion } from './binaries.ts';
import type { ControlPlane } from './control-plane.ts';
import { Machine } from './machine.ts';
import { PodNamespace } from './pod-namespace.ts';

const staticPods = '/var/lib/kubelet/static-pods';

export class Node extends Machine {
  readonly #plane: ControlPlane;
  #kubelet: Daemon | null = null;

  constructor(name: string, index: number, directory: string, containerd: ContainerdVersion, plane: ControlPlane) {
    super({ name, directory, containerd, uplink: { bridge: plane.bridge, index } });
    this.#plane = plane;
  }

  override async boot(): Promise<void> {
    await super.boot();
    this.startKubelet();
  }

  override async powerOff(): Promise<void> {
    await super.powerOff();
    await this.#kubelet?.ended;
  }

  startKubelet(): void {
    const config = join(this.directory, 'kubelet.yaml');
    mkdirSync(this.hostPath(staticPods), { recursive: true });
    writeFileSync(
      config,
      JSON.stringify({
        apiVersion: 'kubelet.config.k8s.io/v1beta1',
        kind: 'KubeletConfiguration',
        cgroupDriver: 'cgroupfs',
        cgroupRoot: `/${this.name}`,
        failSwapOn: false,
        makeIPTablesUtilChains: false,
        containerRuntimeEndpoint: 'unix:///run/containerd/containerd.sock',
        evictionHard: { 'memory.available': '50Mi', 'nodefs.available': '1%', 'imagefs.available': '1%' },
        maxPods: 250,
        // Else what the controller wrote while the API server was away stands until kubelet's own view is renewed.
        nodeStatusReportFrequency: '10s',
        authentication: { anonymous: { enabled: true }, webhook: { enabled: false } },
        authorization: { mode: 'AlwaysAllow' },
        address: this.address,
        healthzPort: 0,
        serializeImagePulls: false,
        registerNode: true,
        staticPodPath: staticPods,
      }),
    );
    this.#kubelet = this.daemon(
      'kubelet',
      binary('kubelet'),
      `--config=${config}`,
      `--kubeconfig=${this.#plane.kubeconfig(this.name)}`,
      `--hostname-override=${this.name}`,
      `--node-ip=${this.address}`,
    );
  }

  get kubelet(): Daemon | null {
    return this.#kubelet;
  }

  /** A pod that kubelet runs without asking the API server; null removes it. */
  setStaticPod(name: string, manifest: object | null): void {
    const path = join(this.hostPath(staticPods), `${name}.json`);
    if (manifest === null) rmSync(path);
    else writeFileSync(path, JSON.stringify(manifest));
  }

  /** The network namespace of a pod that runs here, found by a process of its cgroup. */
  podNamespace(name: string, uid: string): PodNamespace {
    const root = join('/sys/fs/cgroup/pids', this.name);
    const group = readdirSync(root, { recursive: true, encoding: 'utf8' }).find((path) => path.endsWith(`/pod${uid}`));
    if (group === undefined) throw new Error(`no cgroup of pod ${name} on ${this.name}`);
    for (const container of readdirSync(join(root, group), { withFileTypes: true })) {
      if (!container.isDirectory()) continue;
      const [pid] = readFileSync(join(root, group, container.name, 'cgroup.procs'), 'utf8').split('\n');
      if (pid !== undefined && pid !== '') return new PodNamespace(name, Number(pid));
    }
    throw new Error(`no process of pod ${name} on ${this.name}`);
  }
}
