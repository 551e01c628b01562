/**
 * A machine inside the test machine: a network namespace and a mount namespace of its own with a containerd. Its /run,
 * /var/lib, /etc/cni and /opt/cni are private, so nothing of the outer machine's own is touched and several of them fit on
 * it. Its directory must not lie below /run, which it covers with a tmpfs of its own.
 */
import {
  cpSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  readlinkSync,
  rmdirSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { join } from 'node:path';
import type { Cleanup } from '../../support/cleanup.ts';
import { Daemon, type Finished, run, runAny, type RunOptions, until } from '../../support/process.ts';
import { binary, type ContainerdVersion, containerdPaths } from './binaries.ts';

const privateDirectories = ['/var/lib', '/var/log/pods', '/var/log/containers', '/etc/cni', '/opt/cni'] as const;

/** Run by the machine's shell at power on: the mounts, then it waits to be killed. */
function mountScript(directory: string): string {
  const binds = privateDirectories.map(
    (path) =>
      `mkdir -p ${path} ${join(directory, 'root', path)}\nmount --bind ${join(directory, 'root', path)} ${path}`,
  );
  return `set -e
mount --make-rprivate /
mount --make-rshared /
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/netns /run/lock
mount --bind /run/netns /run/netns
mount --make-shared /run/netns
mkdir /run/hugepages
mount -t hugetlbfs -o pagesize=2M none /run/hugepages
${binds.join('\n')}
mount --rbind /sys/fs/cgroup ${join(directory, 'cgroup')}
mount -t sysfs sysfs /sys
mount --rbind ${join(directory, 'cgroup')} /sys/fs/cgroup
echo ready > ${join(directory, 'mounted')}
exec sleep infinity
`;
}

export interface MachineOptions {
  readonly name: string;
  readonly directory: string;
  readonly containerd: ContainerdVersion;
  /** Its place on a bridge, or null: the loopback only. */
  readonly uplink: { readonly bridge: string; readonly index: number } | null;
}

export class Machine {
  readonly name: string;
  readonly directory: string;
  readonly containerdVersion: ContainerdVersion;
  readonly #uplink: MachineOptions['uplink'];
  #shell: Daemon | null = null;
  #containerd: Daemon | null = null;

  constructor({ name, directory, containerd, uplink }: MachineOptions) {
    this.name = name;
    this.directory = directory;
    this.containerdVersion = containerd;
    this.#uplink = uplink;
  }

  get address(): string {
    if (this.#uplink === null) throw new Error(`${this.name} has no uplink`);
    return `10.250.0.${10 + this.#uplink.index}`;
  }

  /** Makes it, powers it on and gives it these images. */
  async start(images: readonly string[], cleanup: Cleanup): Promise<void> {
    mkdirSync(join(this.directory, 'cgroup'), { recursive: true });
    mkdirSync(this.hostPath('/opt/cni/bin'), { recursive: true });
    mkdirSync(this.hostPath('/etc/cni/net.d'), { recursive: true });
    mkdirSync(this.hostPath('/var/lib/openvswitch'), { recursive: true }); // as its package does
    cpSync('/usr/lib/cni', this.hostPath('/opt/cni/bin'), { recursive: true });
    await runAny('ip', ['netns', 'del', this.#netns]);
    await run('ip', ['netns', 'add', this.#netns]);
    cleanup.add(`namespace of ${this.name}`, () => run('ip', ['netns', 'del', this.#netns]));
    const inside = ['netns', 'exec', this.#netns, 'ip'];
    await run('ip', [...inside, 'link', 'set', 'lo', 'up']);
    if (this.#uplink !== null) {
      const veth = `vuk8s${this.#uplink.index}`;
      await run('ip', ['link', 'add', veth, 'type', 'veth', 'peer', 'name', 'eth0', 'netns', this.#netns]);
      cleanup.add(`link of ${this.name}`, () => runAny('ip', ['link', 'del', veth]));
      await run('ip', ['link', 'set', veth, 'master', this.#uplink.bridge, 'up']);
      await run('ip', [...inside, 'addr', 'add', `${this.address}/24`, 'dev', 'eth0']);
      await run('ip', [...inside, 'link', 'set', 'eth0', 'up']);
      await run('ip', [...inside, 'route', 'add', 'default', 'via', '10.250.0.1']);
    }
    cleanup.add(`machine ${this.name}`, () => this.powerOff());
    await this.boot();
    for (const image of images) await this.importImage(image);
  }

  get #netns(): string {
    return `vu-k8s-${this.name}`;
  }

  get #shellPid(): number {
    if (this.#shell === null) throw new Error(`${this.name} is not booted`);
    return this.#shell.pid;
  }

  #cgroupDirectories(): string[] {
    const root = '/sys/fs/cgroup';
    return readdirSync(root)
      .map((hierarchy) => join(root, hierarchy))
      .filter((path) => statSync(path).isDirectory() && !path.endsWith('/unified'))
      .map((path) => join(path, this.name));
  }

  /** kubelet's cgroupRoot must exist in every hierarchy; a new cpuset is empty until it is filled. */
  #makeCgroup(): void {
    for (const path of this.#cgroupDirectories()) {
      mkdirSync(path, { recursive: true });
      if (!path.includes('/cpuset/')) continue;
      for (const file of ['cpuset.cpus', 'cpuset.mems']) {
        writeFileSync(join(path, file), readFileSync(join(path, '..', file)));
      }
    }
  }

  /** Power on: mounts, containerd. /run is empty, /var/lib is kept. */
  async boot(): Promise<void> {
    const marker = join(this.directory, 'mounted');
    await run('rm', ['-f', marker]);
    writeFileSync(join(this.directory, 'mounts.sh'), mountScript(this.directory));
    const shell = new Daemon(
      `${this.name} shell`,
      'nsenter',
      [
        `--net=/run/netns/${this.#netns}`,
        'unshare',
        '-m',
        '--propagation',
        'private',
        'sh',
        join(this.directory, 'mounts.sh'),
      ],
      join(this.directory, 'shell.log'),
    );
    this.#shell = shell;
    await until(`mounts of ${this.name}`, () => {
      if (!shell.alive) throw new Error(`${this.name} shell ended:\n${shell.logTail()}`);
      return statSync(marker, { throwIfNoEntry: false }) !== undefined;
    });
    this.#makeCgroup();
    await this.startContainerd();
  }

  async startContainerd(): Promise<void> {
    const { containerd, shimDirectory } = containerdPaths(this.containerdVersion);
    const config = join(this.directory, 'containerd.toml');
    writeFileSync(config, containerdConfig(this.containerdVersion));
    const daemon = this.daemon(
      'containerd',
      'env',
      `PATH=${shimDirectory}:/usr/sbin:/usr/bin:/sbin:/bin`,
      containerd,
      '-c',
      config,
    );
    this.#containerd = daemon;
    await until(
      `containerd of ${this.name}`,
      async () => {
        if (!daemon.alive) throw new Error(`containerd ended (${daemon.exit}):\n${daemon.logTail()}`);
        // Not `ctr version`: CRI comes later, and kubelet ends where it is not there yet.
        return (await this.execAny(binary('crictl'), [...this.#crictlFlags, 'info'])).code === 0;
      },
      30_000,
      100,
    );
  }

  /** A long-running child inside; killed by a power off. */
  daemon(name: string, command: string, ...args: string[]): Daemon {
    return new Daemon(
      `${this.name} ${name}`,
      'nsenter',
      ['-t', String(this.#shellPid), '-m', '-n', '--', command, ...args],
      join(this.directory, `${name}.log`),
    );
  }

  execAny(command: string, args: readonly string[], options: RunOptions = {}): Promise<Finished> {
    return runAny('nsenter', ['-t', String(this.#shellPid), '-m', '-n', '--', command, ...args], options);
  }

  exec(command: string, ...args: string[]): Promise<string> {
    return run('nsenter', ['-t', String(this.#shellPid), '-m', '-n', '--', command, ...args]);
  }

  /** Path on the host of a file in one of the private directories. */
  hostPath(path: string): string {
    return join(this.directory, 'root', path);
  }

  get #crictlFlags(): readonly string[] {
    return ['--runtime-endpoint=unix:///run/containerd/containerd.sock', '--timeout=60s'];
  }

  crictl(...args: string[]): Promise<string> {
    return this.exec(binary('crictl'), ...this.#crictlFlags, ...args);
  }

  /** What the runtime tells kubelet about the network of pods. */
  async networkReady(): Promise<boolean> {
    const { status } = JSON.parse(await this.crictl('info')) as {
      readonly status: { readonly conditions: readonly { readonly type: string; readonly status: boolean }[] };
    };
    return status.conditions.some((one) => one.type === 'NetworkReady' && one.status);
  }

  ctr(...args: string[]): Promise<string> {
    return this.exec(containerdPaths(this.containerdVersion).ctr, '-n', 'k8s.io', ...args);
  }

  async importImage(archive: string): Promise<void> {
    await this.ctr('images', 'import', archive);
  }

  #pidsInside(): number[] {
    const mine = readlinkSync(`/proc/${this.#shellPid}/ns/mnt`);
    const pids: number[] = [];
    for (const entry of readdirSync('/proc')) {
      if (!/^\d+$/.test(entry)) continue;
      try {
        if (readlinkSync(`/proc/${entry}/ns/mnt`) === mine) pids.push(Number(entry));
      } catch {
        // ended meanwhile
      }
    }
    return pids;
  }

  #pidsInCgroup(): number[] {
    const pids = new Set<number>();
    const walk = (directory: string): void => {
      for (const entry of readdirSync(directory, { withFileTypes: true })) {
        if (entry.isDirectory()) walk(join(directory, entry.name));
      }
      for (const line of readFileSync(join(directory, 'cgroup.procs'), 'utf8').split('\n'))
        if (line !== '') pids.add(Number(line));
    };
    for (const directory of this.#cgroupDirectories()) {
      try {
        walk(directory);
      } catch {
        // removed meanwhile
      }
    }
    return [...pids];
  }

  /** Power off: everything dies at once; `/run` goes with the mount namespace. */
  async powerOff(): Promise<void> {
    if (this.#shell?.alive === true) await this.#killAll(this.#shell);
    this.#removeCgroups();
  }

  async #killAll(shell: Daemon): Promise<void> {
    const kill = (pid: number): void => {
      try {
        process.kill(pid, 'SIGKILL');
      } catch {
        // ended meanwhile
      }
    };
    for (const pid of this.#pidsInside()) if (pid !== shell.pid) kill(pid);
    await until(`containers of ${this.name} to end`, () => {
      const left = this.#pidsInCgroup();
      left.forEach(kill);
      return left.length === 0;
    });
    await this.#containerd?.ended;
    await shell.stop('SIGKILL');
    this.#shell = null;
  }

  /** A boot finds none: kubelet takes three seconds over each container that it finds a stale one of. */
  #removeCgroups(): void {
    const remove = (directory: string): void => {
      for (const entry of readdirSync(directory, { withFileTypes: true })) {
        if (entry.isDirectory()) remove(join(directory, entry.name));
      }
      rmdirSync(directory);
    };
    for (const directory of this.#cgroupDirectories()) {
      if (statSync(directory, { throwIfNoEntry: false }) !== undefined) remove(directory);
    }
  }
}

function containerdConfig(version: ContainerdVersion): string {
  const cri = version === '1.6' ? 'io.containerd.grpc.v1.cri' : 'io.containerd.cri.v1.runtime';
  const sandbox =
    version === '1.6'
      ? `[plugins."io.containerd.grpc.v1.cri"]\n  sandbox_image = "vu.test/pause:1"\n  restrict_oom_score_adj = true`
      : `[plugins."io.containerd.cri.v1.images".pinned_images]\n  sandbox = "vu.test/pause:1"\n[plugins."io.containerd.cri.v1.runtime"]\n  restrict_oom_score_adj = true`;
  return `version = ${version === '1.6' ? 2 : 3}
${sandbox}
[plugins."${cri}".cni]
  bin_dir = "/opt/cni/bin"
  conf_dir = "/etc/cni/net.d"
`;
}
