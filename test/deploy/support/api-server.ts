/** A kube-apiserver with its etcd on the loopback, without controllers: what it accepts and refuses, nothing else. */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Cleanup } from '../../support/cleanup.ts';
import { Daemon, type Finished, run, runAny, until } from '../../support/process.ts';
import { kubectl, type Manifest, tool } from './manifests.ts';

const port = 26_443;
const etcdPort = 26_379;
const adminToken = 'admin-token-of-the-test';

export class ApiServer {
  readonly url = `https://127.0.0.1:${port}`;
  readonly #directory: string;
  readonly #cleanup: Cleanup;
  #pid = 0;

  private constructor(directory: string, cleanup: Cleanup) {
    this.#directory = directory;
    this.#cleanup = cleanup;
  }

  static async start(directory: string, cleanup: Cleanup): Promise<ApiServer> {
    mkdirSync(directory, { recursive: true });
    const server = new ApiServer(directory, cleanup);
    const path = (name: string): string => join(directory, name);
    writeFileSync(path('tokens.csv'), `${adminToken},admin,admin,"system:masters"\n`, { mode: 0o600 });
    await run('openssl', ['genrsa', '-out', path('key'), '2048']);
    const etcd = new Daemon(
      'etcd',
      'etcd',
      [
        ...['--data-dir', path('etcd'), '--unsafe-no-fsync'],
        `--listen-client-urls=http://127.0.0.1:${etcdPort}`,
        `--advertise-client-urls=http://127.0.0.1:${etcdPort}`,
        `--listen-peer-urls=http://127.0.0.1:${etcdPort + 1}`,
      ],
      path('etcd.log'),
    );
    cleanup.add('etcd', () => etcd.stop('SIGKILL'));
    const api = new Daemon(
      'kube-apiserver',
      tool('KUBE_APISERVER', 'kube-apiserver'),
      [
        `--etcd-servers=http://127.0.0.1:${etcdPort}`,
        ...['--bind-address=127.0.0.1', `--secure-port=${port}`, '--endpoint-reconciler-type=none'],
        ...[`--cert-dir=${path('certs')}`, `--token-auth-file=${path('tokens.csv')}`, '--authorization-mode=Node,RBAC'],
        ...['--service-cluster-ip-range=10.96.0.0/16', '--service-account-issuer=https://kubernetes.default.svc'],
        ...[`--service-account-key-file=${path('key')}`, `--service-account-signing-key-file=${path('key')}`],
      ],
      path('kube-apiserver.log'),
    );
    server.#pid = api.pid;
    cleanup.add('kube-apiserver', () => api.stop('SIGKILL'));
    await until(
      'kube-apiserver',
      async () => {
        if (!api.alive) throw new Error(`kube-apiserver ended (${api.exit}):\n${api.logTail()}`);
        return existsSync(path('certs/apiserver.crt')) && (await server.tryKubectl('get', '--raw=/readyz')).code === 0;
      },
      90_000,
      200,
    );
    return server;
  }

  /** Connections stay open and nothing is answered. */
  freeze(): void {
    process.kill(this.#pid, 'SIGSTOP');
  }

  thaw(): void {
    process.kill(this.#pid, 'SIGCONT');
  }

  /** Deletes what belongs to an object that is gone. */
  startGarbageCollector(): void {
    const collector = new Daemon(
      'kube-controller-manager',
      tool('KUBE_CONTROLLER_MANAGER', 'kube-controller-manager'),
      [
        ...[`--kubeconfig=${this.kubeconfig()}`, '--controllers=garbage-collector-controller'],
        ...['--leader-elect=false', '--secure-port=0'],
      ],
      join(this.#directory, 'kube-controller-manager.log'),
    );
    this.#cleanup.add('kube-controller-manager', () => collector.stop('SIGKILL'));
  }

  /** For a client with this token. */
  kubeconfig(token = adminToken): string {
    const path = join(this.#directory, `${token.slice(-12)}.kubeconfig`);
    const config = {
      apiVersion: 'v1',
      kind: 'Config',
      'current-context': 'test',
      contexts: [{ name: 'test', context: { cluster: 'test', user: 'test' } }],
      clusters: [{ name: 'test', cluster: { server: this.url, 'insecure-skip-tls-verify': true } }],
      users: [{ name: 'test', user: { token } }],
    };
    writeFileSync(path, JSON.stringify(config), { mode: 0o600 });
    return path;
  }

  tryKubectl(...args: string[]): Promise<Finished> {
    return runAny(kubectl, [`--kubeconfig=${this.kubeconfig()}`, ...args]);
  }

  kubectl(...args: string[]): Promise<string> {
    return run(kubectl, [`--kubeconfig=${this.kubeconfig()}`, ...args]);
  }

  /** @returns stdout and stderr: warnings of the API server are there. */
  async apply(objects: readonly Manifest[], ...args: string[]): Promise<string> {
    const stdin = JSON.stringify({ apiVersion: 'v1', kind: 'List', items: objects });
    const all = [
      `--kubeconfig=${this.kubeconfig()}`,
      'apply',
      '--server-side',
      '--validate=strict',
      ...args,
      '-f',
      '-',
    ];
    const finished = await runAny(kubectl, all, { stdin });
    if (finished.code !== 0) throw new Error(finished.stderr);
    return finished.stdout + finished.stderr;
  }
}
