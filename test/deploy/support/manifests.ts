/** What kubectl and helm make of deploy/, as objects. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseAllDocuments } from 'yaml';
import { run, runAny } from '../../support/process.ts';

export const root = fileURLToPath(new URL('../../..', import.meta.url));
export const deploy = join(root, 'deploy');
export const chart = join(deploy, 'helm/virtio-user-cni');
export const namespace = 'virtio-user-system';

/** From the environment, or as built. */
export function tool(variable: string, name: string): string {
  const path = process.env[variable] ?? join(root, 'build/cluster/bin', name);
  if (!existsSync(path)) throw new Error(`${path} is missing: run scripts/build-cluster.sh, or set ${variable}`);
  return path;
}

export const kubectl = tool('KUBECTL', 'kubectl');
export const helm = tool('HELM', 'helm');

/** helm built from its module takes itself for a client of Kubernetes 1.20. */
const kubeVersion = ['--kube-version', '1.34.0'];

export interface Manifest {
  readonly apiVersion: string;
  readonly kind: string;
  readonly metadata: {
    readonly name: string;
    readonly namespace?: string;
    readonly labels?: Readonly<Record<string, string>>;
    readonly annotations?: Readonly<Record<string, string>>;
  };
  readonly [key: string]: unknown;
}

export function manifestsOf(text: string): Manifest[] {
  return parseAllDocuments(text)
    .map((document) => {
      if (document.errors.length > 0) throw document.errors[0]!;
      return document.toJS({ maxAliasCount: 100 }) as Manifest | null;
    })
    .filter((value) => value !== null);
}

export async function kustomize(directory: string): Promise<Manifest[]> {
  return manifestsOf(await run(kubectl, ['kustomize', directory]));
}

export async function helmTemplate(values: Readonly<Record<string, unknown>> = {}): Promise<Manifest[]> {
  const args = ['template', 'virtio-user-cni', chart, '--namespace', namespace, '--include-crds', ...kubeVersion];
  return manifestsOf(await run(helm, [...args, '--values', '-'], { stdin: JSON.stringify(values) }));
}

/** null, or why helm refuses these values. */
export async function helmRefusal(values: Readonly<Record<string, unknown>>): Promise<string | null> {
  const args = ['template', 'virtio-user-cni', chart, '--namespace', namespace, ...kubeVersion, '--values', '-'];
  const finished = await runAny(helm, args, { stdin: JSON.stringify(values) });
  return finished.code === 0 ? null : finished.stderr;
}

export async function helmLint(): Promise<string> {
  return run(helm, ['lint', chart, '--strict', ...kubeVersion]);
}

export function find(manifests: readonly Manifest[], kind: string, name?: string): Manifest {
  const found = manifests.filter((one) => one.kind === kind && (name === undefined || one.metadata.name === name));
  if (found.length !== 1) throw new Error(`${found.length} objects of kind ${kind} ${name ?? ''}`);
  return found[0]!;
}

/** `kind namespace/name` → object, with lists of named things in one order, which merging patches do not keep. */
export function byIdentity(manifests: readonly Manifest[]): ReadonlyMap<string, unknown> {
  return new Map(
    manifests
      .map((one): [string, unknown] => [
        `${one.kind} ${one.metadata.namespace ?? ''}/${one.metadata.name}`,
        ordered(one),
      ])
      .sort(([a], [b]) => (a < b ? -1 : 1)),
  );
}

function ordered(value: unknown): unknown {
  if (Array.isArray(value)) {
    const items = value.map(ordered);
    const key = (item: unknown): string => {
      const { name, mountPath } = (item ?? {}) as { readonly name?: string; readonly mountPath?: string };
      return `${mountPath ?? ''} ${name ?? ''}`;
    };
    return items.every((item) => typeof item === 'object' && item !== null && 'name' in item)
      ? items.sort((a, b) => (key(a) < key(b) ? -1 : 1))
      : items;
  }
  if (typeof value !== 'object' || value === null) return value;
  return Object.fromEntries(
    Object.entries(value).map(([key, inner]) => {
      // JSON inside a ConfigMap may be laid out in another way.
      if (typeof inner === 'string' && /\.(json|conflist)$/.test(key)) return [key, JSON.parse(inner) as unknown];
      return [key, ordered(inner)];
    }),
  );
}

export interface Container {
  readonly name: string;
  readonly image: string;
  readonly command?: readonly string[];
  readonly args?: readonly string[];
  readonly env?: readonly { readonly name: string; readonly value?: string; readonly valueFrom?: unknown }[];
  readonly ports?: readonly { readonly containerPort: number; readonly hostPort: number }[];
  readonly securityContext: {
    readonly privileged?: boolean;
    readonly allowPrivilegeEscalation: boolean;
    readonly readOnlyRootFilesystem: boolean;
    readonly seccompProfile?: { readonly type: string; readonly localhostProfile?: string };
    readonly capabilities: { readonly drop: readonly string[]; readonly add?: readonly string[] };
  };
  readonly volumeMounts: readonly {
    readonly name: string;
    readonly mountPath: string;
    readonly readOnly?: boolean;
    readonly mountPropagation?: string;
  }[];
  readonly startupProbe?: Probe;
  readonly livenessProbe?: Probe;
  readonly readinessProbe?: Probe;
  readonly resources: { readonly limits?: unknown; readonly requests?: unknown };
}

export interface Probe {
  readonly httpGet: { readonly host: string; readonly port: number; readonly path: string };
}

export interface PodSpec {
  readonly hostNetwork: boolean;
  readonly hostPID?: boolean;
  readonly priorityClassName: string;
  readonly terminationGracePeriodSeconds: number;
  readonly tolerations: unknown;
  readonly securityContext: { readonly seccompProfile: { readonly type: string } };
  readonly initContainers: readonly Container[];
  readonly containers: readonly Container[];
  readonly volumes: readonly {
    readonly name: string;
    readonly hostPath?: { readonly path: string; readonly type: string };
    readonly configMap?: { readonly name: string };
    readonly emptyDir?: unknown;
  }[];
}

export function podSpec(daemonSet: Manifest): PodSpec {
  return (daemonSet['spec'] as { readonly template: { readonly spec: PodSpec } }).template.spec;
}

export function container(spec: PodSpec, name: string): Container {
  const found = [...spec.initContainers, ...spec.containers].find((one) => one.name === name);
  if (found === undefined) throw new Error(`no container ${name}`);
  return found;
}

export function configMapData(manifests: readonly Manifest[]): Readonly<Record<string, string>> {
  return find(manifests, 'ConfigMap', 'virtio-user-agent')['data'] as Readonly<Record<string, string>>;
}

export function readJson(path: string): unknown {
  return JSON.parse(readFileSync(path, 'utf8'));
}
