/**
 * Renders the kustomize manifests of deploy/ from the Helm chart, which is their one source, comments included. What is
 * particular to an overlay (patches) is written by hand; a test holds overlays and chart equal, object by object.
 * `render-deploy.ts` writes, `render-deploy.ts --check` says what would change and exits with 1.
 * Needs helm: scripts/build-cluster.sh builds it, or HELM names it.
 */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { format, resolveConfig } from 'prettier';

const root = fileURLToPath(new URL('..', import.meta.url));
const chart = join(root, 'deploy/helm/virtio-user-cni');
const helm = process.env['HELM'] ?? join(root, 'build/cluster/bin/helm');
const namespace = 'virtio-user-system';

const banner = '# Rendered from deploy/helm/virtio-user-cni by scripts/render-deploy.ts: change it there.\n';

/** Template → its text, with these values. */
function render(values: readonly string[]): ReadonlyMap<string, string> {
  const output = execFileSync(
    helm,
    [
      ...['template', 'virtio-user-cni', chart, '--namespace', namespace, '--include-crds', '--kube-version', '1.34.0'],
      ...values.flatMap((value) => ['--set', value]),
    ],
    { encoding: 'utf8' },
  );
  const files = new Map<string, string>();
  for (const document of output.split(/^---\n/m)) {
    const source = /^# Source: [^/]+\/(.*)\n/.exec(document);
    if (source === null) continue;
    const name = (source[1] ?? '').replace(/^templates\//, '');
    const text = document
      .slice(source[0].length)
      // Only Helm can keep it true; without Helm, restart the DaemonSet after a change.
      .replace(/^ *# The agent reads its options when it starts.*\n *checksum\/config: .*\n/m, '')
      .trim();
    if (text !== '') files.set(name, [files.get(name), text].filter(Boolean).join('\n---\n'));
  }
  return files;
}

const base = render(['network.install=false', 'namespace.create=true']);
const restricted = render(['securityProfile=restricted']);
const observed = render([
  'observability.serviceMonitor=true',
  'observability.prometheusRule=true',
  'observability.dashboard=true',
]);

function part(from: ReadonlyMap<string, string>, name: string): string {
  const text = from.get(name);
  if (text === undefined) throw new Error(`the chart renders no ${name}`);
  return `${banner}${text}\n`;
}

const outputs = new Map<string, string>([
  ['deploy/base/namespace.yaml', part(base, 'namespace.yaml')],
  ['deploy/base/rbac.yaml', part(base, 'rbac.yaml')],
  ['deploy/base/configmap.yaml', part(base, 'configmap.yaml')],
  ['deploy/base/daemonset.yaml', part(base, 'daemonset.yaml')],
  ['deploy/base/virtiousernodes.yaml', part(base, 'crds/virtiousernodes.yaml')],
  ['deploy/overlays/restricted/node-writes.yaml', part(restricted, 'node-writes.yaml')],
  ['deploy/observability/monitoring.yaml', part(observed, 'observability.yaml')],
  // The one copy that is not a rendering: a chart cannot read files beside it.
  [
    'deploy/helm/virtio-user-cni/files/seccomp.json',
    readFileSync(join(root, 'deploy/seccomp/virtio-user.json'), 'utf8'),
  ],
]);

const check = process.argv.includes('--check');
let stale = 0;
for (const [name, rendered] of outputs) {
  const path = join(root, name);
  const text = await format(rendered, { ...(await resolveConfig(path)), filepath: path });
  if (existsSync(path) && readFileSync(path, 'utf8') === text) continue;
  stale += 1;
  process.stdout.write(`${check ? 'stale' : 'written'}: ${name}\n`);
  if (check) continue;
  mkdirSync(dirname(path), { recursive: true });
  writeFileSync(path, text);
}
if (check && stale > 0) process.exitCode = 1;
