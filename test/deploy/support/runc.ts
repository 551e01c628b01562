/**
 * Containers of the DaemonSet under runc, without kubelet: the image's root file system, and capabilities, mounts,
 * environment, read-only root and seccomp profile exactly as the rendered manifest has them.
 */
import { cpSync, existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Cleanup } from '../../support/cleanup.ts';
import { Daemon, type Finished, run, runAny } from '../../support/process.ts';
import { type Container, type PodSpec, root } from './manifests.ts';

/** Lays the image out as its build does, from what is built here. */
export async function imageRoot(directory: string): Promise<string> {
  const parts = join(directory, 'image');
  await run(process.execPath, ['--no-warnings', join(root, 'scripts/image-root.ts'), parts]);
  const merged = join(directory, 'rootfs');
  for (const part of ['system', 'product']) {
    cpSync(join(parts, part), merged, { recursive: true, verbatimSymlinks: true });
  }
  return merged;
}

export interface PodFiles {
  /** ConfigMap key → text */
  readonly config: Readonly<Record<string, string>>;
  /** By the downward API. */
  readonly nodeName: string;
  /** Where kubelet would look for seccomp profiles. */
  readonly seccompDir: string;
}

export class RuncPod {
  readonly #directory: string;
  readonly #rootfs: string;
  readonly #spec: PodSpec;
  readonly #files: PodFiles;
  readonly #cleanup: Cleanup;

  constructor(directory: string, rootfs: string, spec: PodSpec, files: PodFiles, cleanup: Cleanup) {
    this.#directory = directory;
    this.#rootfs = rootfs;
    this.#spec = spec;
    this.#files = files;
    this.#cleanup = cleanup;
    mkdirSync(join(directory, 'config'), { recursive: true });
    for (const [name, text] of Object.entries(files.config)) writeFileSync(join(directory, 'config', name), text);
  }

  /** Runs an init container to its end. */
  async runInit(name: string): Promise<Finished> {
    const { bundle, id } = this.#bundle(this.#find(this.#spec.initContainers, name));
    return runAny('runc', [...this.#state, 'run', '--bundle', bundle, id]);
  }

  start(name: string): Daemon {
    const { bundle, id } = this.#bundle(this.#find(this.#spec.containers, name));
    const log = join(this.#directory, `${name}.log`);
    const daemon = new Daemon(name, 'runc', [...this.#state, 'run', '--bundle', bundle, id], log);
    this.#cleanup.add(`container ${name}`, async () => {
      await runAny('runc', [...this.#state, 'delete', '--force', id]);
      await daemon.stop('SIGTERM', 15_000);
    });
    return daemon;
  }

  /** As `kubectl exec` does. */
  exec(name: string, ...command: string[]): Promise<Finished> {
    return runAny('runc', [...this.#state, 'exec', this.#id(name), ...command]);
  }

  async kill(name: string, signal: string): Promise<void> {
    await run('runc', [...this.#state, 'kill', this.#id(name), signal]);
  }

  get #state(): readonly string[] {
    return ['--root', join(this.#directory, 'runc')];
  }

  #id(name: string): string {
    return `vu-deploy-${process.pid}-${name}`;
  }

  #find(containers: readonly Container[], name: string): Container {
    const found = containers.find((one) => one.name === name);
    if (found === undefined) throw new Error(`no container ${name}`);
    return found;
  }

  #bundle(container: Container): { readonly bundle: string; readonly id: string } {
    const bundle = join(this.#directory, 'bundles', container.name);
    mkdirSync(bundle, { recursive: true });
    const capabilities = (container.securityContext.capabilities.add ?? []).map((name) => `CAP_${name}`);
    const spec = {
      ociVersion: '1.0.2',
      process: {
        user: { uid: 0, gid: 0 },
        args: [...(container.command ?? ['virtio-user-cni']), ...(container.args ?? [])],
        env: ['PATH=/usr/local/bin:/usr/bin', ...this.#environment(container)],
        cwd: '/',
        capabilities: { bounding: capabilities, effective: capabilities, permitted: capabilities },
        noNewPrivileges: !container.securityContext.allowPrivilegeEscalation,
      },
      root: { path: this.#rootfs, readonly: container.securityContext.readOnlyRootFilesystem },
      mounts: [...systemMounts, ...this.#mounts(container)],
      linux: {
        // hostNetwork: no network namespace.
        namespaces: ['pid', 'ipc', 'uts', 'mount'].map((type) => ({ type })),
        rootfsPropagation: 'rslave',
        cgroupsPath: `/${this.#id(container.name)}`,
        resources: {
          devices: [
            { allow: false, access: 'rwm' },
            { allow: true, type: 'c', major: 10, minor: 200, access: 'rwm' },
          ],
        },
        maskedPaths: ['/proc/kcore', '/proc/keys', '/proc/timer_list', '/sys/firmware'],
        readonlyPaths: ['/proc/bus', '/proc/fs', '/proc/irq', '/proc/sys', '/proc/sysrq-trigger'],
        ...this.#seccomp(container),
      },
    };
    writeFileSync(join(bundle, 'config.json'), JSON.stringify(spec));
    return { bundle, id: this.#id(container.name) };
  }

  #environment(container: Container): string[] {
    return (container.env ?? []).map(({ name, value }) => `${name}=${value ?? this.#files.nodeName}`);
  }

  #mounts(container: Container): object[] {
    return container.volumeMounts.map(({ name, mountPath, readOnly, mountPropagation }) => {
      const volume = this.#spec.volumes.find((one) => one.name === name);
      const source =
        volume?.hostPath?.path ?? join(this.#directory, volume?.configMap === undefined ? `volume-${name}` : 'config');
      if (!existsSync(source)) mkdirSync(source, { recursive: true });
      const propagation = mountPropagation === 'HostToContainer' ? 'rslave' : 'rprivate';
      return {
        destination: mountPath,
        type: 'bind',
        source,
        options: ['rbind', propagation, readOnly === true ? 'ro' : 'rw'],
      };
    });
  }

  /** A Localhost profile, read from the node when the container is made, in the OCI form. */
  #seccomp({ securityContext: { seccompProfile } }: Container): object {
    if (seccompProfile?.localhostProfile === undefined) return {};
    return {
      seccomp: JSON.parse(
        readFileSync(join(this.#files.seccompDir, seccompProfile.localhostProfile), 'utf8'),
      ) as object,
    };
  }
}

const systemMounts = [
  { destination: '/proc', type: 'proc', source: 'proc' },
  {
    destination: '/dev',
    type: 'tmpfs',
    source: 'tmpfs',
    options: ['nosuid', 'strictatime', 'mode=755', 'size=65536k'],
  },
  { destination: '/dev/shm', type: 'tmpfs', source: 'shm', options: ['nosuid', 'noexec', 'nodev', 'mode=1777'] },
  { destination: '/sys', type: 'sysfs', source: 'sysfs', options: ['nosuid', 'noexec', 'nodev', 'ro'] },
];
