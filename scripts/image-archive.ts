/**
 * Packs an OCI layout as an archive that containerd imports under the image's full name, and prints size and layers.
 * `image-archive.ts LAYOUT NAME ARCHIVE`
 */
import { execFileSync } from 'node:child_process';
import { readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const [, , layout = '', name = '', archive = ''] = process.argv;
if (archive === '') throw new Error('usage: image-archive.ts LAYOUT NAME ARCHIVE');

interface Descriptor {
  readonly digest: string;
  readonly size: number;
  readonly annotations?: Readonly<Record<string, string>>;
}

/** As container runtimes complete a plain name; they look images up by the full one. */
function fullName(plain: string): string {
  const [first = '', ...rest] = plain.split('/');
  if (rest.length > 0 && (/[.:]/.test(first) || first === 'localhost')) return plain;
  return `docker.io/${rest.length > 0 ? '' : 'library/'}${plain}`;
}

function blob(digest: string): Buffer {
  return readFileSync(join(layout, 'blobs', ...digest.split(':')));
}

const indexPath = join(layout, 'index.json');
const index = JSON.parse(readFileSync(indexPath, 'utf8')) as { readonly manifests: readonly Descriptor[] };
const [described] = index.manifests;
if (described === undefined || index.manifests.length !== 1) throw new Error(`${indexPath} describes no single image`);
const annotations = { 'io.containerd.image.name': fullName(name), 'org.opencontainers.image.ref.name': name };
writeFileSync(indexPath, JSON.stringify({ ...index, manifests: [{ ...described, annotations }] }));
execFileSync('tar', [
  '--sort=name',
  '--numeric-owner',
  '--owner=0',
  '--group=0',
  '-C',
  layout,
  '-cf',
  `${archive}.new`,
  '.',
]);
renameSync(`${archive}.new`, archive);

const manifest = JSON.parse(blob(described.digest).toString()) as {
  readonly config: Descriptor;
  readonly layers: readonly Descriptor[];
};
const config = JSON.parse(blob(manifest.config.digest).toString()) as {
  readonly history: readonly { readonly created_by?: string; readonly empty_layer?: boolean }[];
};
const steps = config.history.filter(({ empty_layer: empty }) => empty !== true);
const mib = (bytes: number): string => `${(bytes / 1024 / 1024).toFixed(1)} MiB`;
const lines = manifest.layers.map(({ digest, size }, at) => {
  const unpacked = Number(
    execFileSync('sh', ['-c', `gzip -dc "${join(layout, 'blobs', ...digest.split(':'))}" | wc -c`]),
  );
  return { text: `${mib(size)} (${mib(unpacked)} unpacked)  ${(steps[at]?.created_by ?? '').slice(0, 80)}`, unpacked };
});
process.stdout.write(
  `${fullName(name)}\n${mib(statSync(archive).size)} as an archive, ` +
    `${mib(lines.reduce((sum, { unpacked }) => sum + unpacked, 0))} unpacked, ${lines.length} layers:\n` +
    lines.map(({ text }) => `  ${text}\n`).join(''),
);
rmSync(layout, { recursive: true });
