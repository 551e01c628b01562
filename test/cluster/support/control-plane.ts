/**
 * etcd, kube-apiserver, kube-controller-manager and kube-scheduler as children, on a bridge address of the host.
 * Identity comes from a token file; the API server's self-signed certificate is the cluster's root.
 */
import { randomBytes } from 'node:crypto';
import { once } from 'node:events';
import { cpSync, existsSync, mkdirSync, rmSync, writeFileSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { join } from 'node:path';
import type { Cleanup } from '../../support/cleanup.ts';
import { Daemon, run, runAny, until } from '../../support/process.ts';
import { binary } from './binaries.ts';

export const hostAddress = '10.250.0.1';
const bridge = 'vu-k8s';
/** The service `kubernetes.default`: the first address of the service range. */
const serviceAddress = '10.96.0.1';

/** Bridge, addresses and ports are fixed: one cluster on a machine. The name is free again when the process ends. */
async function claimMachine(cleanup: Cleanup): Promise<void> {
  const claim = createServer().listen('\0virtio-user-cni test cluster');
  await once(claim, 'listening').catch((error: unknown) => {
    throw new Error('another test cluster runs on this machine: wait for its end', { cause: error });
  });
  cleanup.add('claim on the machine', () => claim.close());
}

export class ControlPlane {
  readonly directory: string;
  readonly port: number;
  readonly #tokens: Readonly<Record<string, string>>;
  #api: Daemon | null = null;
  #etcd: Daemon | null = null;
  readonly #others: Daemon[] = [];

  private constructor(directory: string, nodes: readonly string[]) {
    this.directory = directory;
    this.port = 16_443;
    const users = ['admin', 'kube-controller-manager', 'kube-scheduler', ...nodes];
    this.#tokens = Object.fromEntries(users.map((user) => [user, randomBytes(16).toString('hex')]));
  }

  get bridge(): string {
    return bridge;
  }

  get url(): string {
    return `https://${hostAddress}:${this.port}`;
  }

  get caPath(): string {
    return join(this.directory, 'certs', 'apiserver.crt');
  }

  static async start(directory: string, nodes: readonly string[], cleanup: Cleanup): Promise<ControlPlane> {
    await claimMachine(cleanup);
    mkdirSync(join(directory, 'certs'), { recursive: true });
    const plane = new ControlPlane(directory, nodes);
    await runAny('ip', ['link', 'del', bridge]);
    await run('ip', ['link', 'add', bridge, 'type', 'bridge']);
    cleanup.add('bridge of the cluster', () => run('ip', ['link', 'del', bridge]));
    await run('ip', ['addr', 'add', `${hostAddress}/24`, 'dev', bridge]);
    await run('ip', ['link', 'set', bridge, 'up']);
    await plane.#serveServiceAddress(cleanup);
    const groups = (user: string): string =>
      user === 'admin'
        ? `admin,admin,"system:masters"`
        : user.startsWith('kube-')
          ? `system:${user},${user}`
          : `system:node:${user},${user},"system:nodes"`;
    writeFileSync(
      join(directory, 'tokens.csv'),
      Object.entries(plane.#tokens)
        .map(([user, token]) => `${token},${groups(user)}\n`)
        .join(''),
      { mode: 0o600 },
    );
    await run('openssl', ['genrsa', '-out', join(directory, 'service-account.key'), '2048']);
    cleanup.add('control plane', () => plane.stop());
    await plane.#startAll();
    return plane;
  }

  /** kube-proxy's part, for the one service that the agents use. */
  async #serveServiceAddress(cleanup: Cleanup): Promise<void> {
    await run('ip', ['addr', 'add', `${serviceAddress}/32`, 'dev', bridge]);
    const links = new Set<Socket>();
    const relay = createServer((client) => {
      const server = connect(this.port, hostAddress);
      for (const socket of [client, server]) {
        links.add(socket);
        socket.on('error', () => undefined);
        socket.on('close', () => {
          links.delete(socket);
          client.destroy();
          server.destroy();
        });
      }
      client.pipe(server).pipe(client);
    });
    relay.listen(443, serviceAddress);
    await once(relay, 'listening');
    cleanup.add('service address', async () => {
      relay.close();
      links.forEach((socket) => socket.destroy());
      await once(relay, 'close');
    });
  }

  async #startAll(): Promise<void> {
    const log = (name: string): string => join(this.directory, `${name}.log`);
    this.#startEtcd();
    await this.startApiServer();
    const common = ['--leader-elect=false', '--bind-address=127.0.0.1'];
    this.#others.push(
      new Daemon(
        'kube-controller-manager',
        binary('kube-controller-manager'),
        [
          ...common,
          `--kubeconfig=${this.kubeconfig('kube-controller-manager')}`,
          `--service-account-private-key-file=${join(this.directory, 'service-account.key')}`,
          `--root-ca-file=${this.caPath}`,
          '--use-service-account-credentials=true',
          // Each node gets a /24 for its pods.
          '--allocate-node-cidrs=true',
          '--cluster-cidr=10.244.0.0/16',
        ],
        log('kube-controller-manager'),
      ),
      new Daemon(
        'kube-scheduler',
        binary('kube-scheduler'),
        [...common, `--kubeconfig=${this.kubeconfig('kube-scheduler')}`],
        log('kube-scheduler'),
      ),
    );
    await until(
      'the default service account',
      async () => (await this.tryKubectl('get', 'sa', 'default')).code === 0,
      60_000,
      200,
    );
  }

  #startEtcd(): void {
    this.#etcd = new Daemon(
      'etcd',
      'etcd',
      [
        '--data-dir',
        this.#etcdDirectory,
        '--unsafe-no-fsync',
        '--listen-client-urls',
        'http://127.0.0.1:16379',
        '--advertise-client-urls',
        'http://127.0.0.1:16379',
        '--listen-peer-urls',
        'http://127.0.0.1:16380',
      ],
      join(this.directory, 'etcd.log'),
    );
  }

  get #etcdDirectory(): string {
    return join(this.directory, 'etcd');
  }

  /** A copy of etcd's data as they are now; the API server is away meanwhile. @returns the copy */
  async backUpEtcd(): Promise<string> {
    const copy = join(this.directory, 'etcd-backup');
    await this.#withEtcdStopped(() => cpSync(this.#etcdDirectory, copy, { recursive: true }));
    return copy;
  }

  /** As after a disaster: whatever was written since the backup never happened, and versions are given out again. */
  async restoreEtcd(copy: string): Promise<void> {
    await this.#withEtcdStopped(() => {
      rmSync(this.#etcdDirectory, { recursive: true });
      cpSync(copy, this.#etcdDirectory, { recursive: true });
    });
  }

  async #withEtcdStopped(change: () => void): Promise<void> {
    await this.stopApiServer();
    await this.#etcd?.stop('SIGKILL');
    change();
    this.#startEtcd();
    await this.startApiServer();
  }

  /** (Re)starts the API server and waits until it is ready. */
  async startApiServer(): Promise<void> {
    const api = new Daemon(
      'kube-apiserver',
      binary('kube-apiserver'),
      [
        '--etcd-servers=http://127.0.0.1:16379',
        `--bind-address=${hostAddress}`,
        `--advertise-address=${hostAddress}`,
        `--secure-port=${this.port}`,
        `--cert-dir=${join(this.directory, 'certs')}`,
        `--token-auth-file=${join(this.directory, 'tokens.csv')}`,
        '--authorization-mode=Node,RBAC',
        '--service-cluster-ip-range=10.96.0.0/16',
        '--service-account-issuer=https://kubernetes.default.svc',
        `--service-account-key-file=${join(this.directory, 'service-account.key')}`,
        `--service-account-signing-key-file=${join(this.directory, 'service-account.key')}`,
        '--kubelet-preferred-address-types=InternalIP',
        '--allow-privileged=true',
      ],
      join(this.directory, 'kube-apiserver.log'),
    );
    this.#api = api;
    await until(
      'kube-apiserver',
      async () => {
        if (!api.alive) throw new Error(`kube-apiserver ended (${api.exit}):\n${api.logTail()}`);
        return existsSync(this.caPath) && (await this.tryKubectl('get', '--raw=/readyz')).code === 0;
      },
      90_000,
      200,
    );
  }

  /** SIGKILL: on SIGTERM it lingers for a minute. */
  async stopApiServer(): Promise<void> {
    await this.#api?.stop('SIGKILL');
  }

  async stop(): Promise<void> {
    await Promise.all([...this.#others, this.#api, this.#etcd].map(async (daemon) => daemon?.stop('SIGKILL')));
  }

  /** Path of a kubeconfig for `admin`, a component or a node. */
  kubeconfig(user: string): string {
    const path = join(this.directory, `${user}.kubeconfig`);
    if (existsSync(path)) return path; // somebody may be reading it
    const config = {
      apiVersion: 'v1',
      kind: 'Config',
      'current-context': 'test',
      contexts: [{ name: 'test', context: { cluster: 'test', user } }],
      clusters: [{ name: 'test', cluster: { server: this.url, 'insecure-skip-tls-verify': true } }],
      users: [{ name: user, user: { token: this.#tokens[user] } }],
    };
    writeFileSync(path, JSON.stringify(config), { mode: 0o600 });
    return path;
  }

  tryKubectl(...args: string[]): ReturnType<typeof runAny> {
    return runAny(binary('kubectl'), [`--kubeconfig=${this.kubeconfig('admin')}`, ...args], { timeoutMs: 120_000 });
  }

  kubectl(...args: string[]): Promise<string> {
    return run(binary('kubectl'), [`--kubeconfig=${this.kubeconfig('admin')}`, ...args], { timeoutMs: 120_000 });
  }

  /** kubectl apply -f - */
  apply(...objects: readonly object[]): Promise<string> {
    const list = { apiVersion: 'v1', kind: 'List', items: objects };
    return run(binary('kubectl'), [`--kubeconfig=${this.kubeconfig('admin')}`, 'apply', '-f', '-'], {
      stdin: JSON.stringify(list),
    });
  }
}
