/** OCI archives made from a directory, so that no registry is needed: one layer, a config, an index with the name. */
import { createHash } from 'node:crypto';
import { copyFileSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { imageRoot } from '../../deploy/support/runc.ts';
import { run } from '../../support/process.ts';

/** As the manifests name it, completed as runtimes complete it. */
export const agentImageName = 'docker.io/library/virtio-user-cni';

export interface ImageSpec {
  /** e.g. `vu.test/pause:1` */
  readonly name: string;
  readonly entrypoint: readonly string[];
  readonly path?: string;
}

function digest(data: Buffer): string {
  return createHash('sha256').update(data).digest('hex');
}

/** Packs `rootDirectory` as the only layer and writes the archive to `archivePath`. */
export async function writeImage(spec: ImageSpec, rootDirectory: string, archivePath: string): Promise<void> {
  const work = `${archivePath}.work`;
  const blobs = join(work, 'blobs', 'sha256');
  mkdirSync(blobs, { recursive: true });
  const layerPath = join(work, 'layer.tar');
  await run('tar', ['--numeric-owner', '--owner=0', '--group=0', '-C', rootDirectory, '-cf', layerPath, '.']);
  const layer = readFileSync(layerPath);
  const put = (data: Buffer): { digest: string; size: number } => {
    const hash = digest(data);
    writeFileSync(join(blobs, hash), data);
    return { digest: `sha256:${hash}`, size: data.length };
  };
  const layerBlob = put(layer);
  const config = put(
    Buffer.from(
      JSON.stringify({
        architecture: 'amd64',
        os: 'linux',
        config: { Entrypoint: spec.entrypoint, Env: [`PATH=${spec.path ?? '/bin:/usr/bin'}`] },
        rootfs: { type: 'layers', diff_ids: [layerBlob.digest] },
      }),
    ),
  );
  const manifest = put(
    Buffer.from(
      JSON.stringify({
        schemaVersion: 2,
        mediaType: 'application/vnd.oci.image.manifest.v1+json',
        config: { mediaType: 'application/vnd.oci.image.config.v1+json', ...config },
        layers: [{ mediaType: 'application/vnd.oci.image.layer.v1.tar', ...layerBlob }],
      }),
    ),
  );
  writeFileSync(
    join(work, 'index.json'),
    JSON.stringify({
      schemaVersion: 2,
      manifests: [
        {
          mediaType: 'application/vnd.oci.image.manifest.v1+json',
          ...manifest,
          annotations: { 'io.containerd.image.name': spec.name },
        },
      ],
    }),
  );
  writeFileSync(join(work, 'oci-layout'), '{"imageLayoutVersion":"1.0.0"}');
  await run('tar', ['-C', work, '-cf', archivePath, 'oci-layout', 'index.json', 'blobs']);
  rmSync(work, { recursive: true });
}

/** The sandbox's pause: a static process that waits for the end. */
export async function pauseImage(directory: string): Promise<string> {
  const root = join(directory, 'pause-root');
  mkdirSync(root, { recursive: true });
  writeFileSync(
    join(directory, 'pause.c'),
    `#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int s) { (void)s; _exit(0); }
static void reap(int s) { (void)s; while (waitpid(-1, 0, WNOHANG) > 0) {} }
int main(void) { signal(SIGINT, end); signal(SIGTERM, end); signal(SIGCHLD, reap); for (;;) pause(); }
`,
  );
  await run('musl-gcc', ['-Os', '-static', '-o', join(root, 'pause'), join(directory, 'pause.c')]);
  const archive = join(directory, 'pause.tar');
  await writeImage({ name: 'vu.test/pause:1', entrypoint: ['/pause'] }, root, archive);
  return archive;
}

/** busybox for ordinary pods. */
export async function busyboxImage(directory: string): Promise<string> {
  const root = join(directory, 'busybox-root');
  mkdirSync(join(root, 'bin'), { recursive: true });
  mkdirSync(join(root, 'tmp'), { recursive: true });
  copyFileSync('/bin/busybox', join(root, 'bin', 'busybox'));
  await run('sh', [
    '-c',
    `for applet in $(/bin/busybox --list); do [ $applet = busybox ] || ln -sf busybox ${root}/bin/$applet; done`,
  ]);
  const archive = join(directory, 'busybox.tar');
  await writeImage({ name: 'vu.test/busybox:1', entrypoint: ['/bin/sleep', 'infinity'] }, root, archive);
  return archive;
}

/**
 * The agent's: the archive that scripts/build-image.sh wrote where IMAGE_ARCHIVE names it, else the same root file system
 * laid out from what is built here.
 */
export async function agentImage(directory: string, version: string): Promise<string> {
  const built = process.env['IMAGE_ARCHIVE'] ?? '';
  if (built !== '') return resolve(built);
  const rootfs = await imageRoot(join(directory, 'agent'));
  const archive = join(directory, 'agent.tar');
  const spec = {
    name: `${agentImageName}:${version}`,
    entrypoint: ['virtio-user-cni'],
    path: '/usr/local/bin:/usr/bin',
  };
  await writeImage(spec, rootfs, archive);
  rmSync(join(directory, 'agent'), { recursive: true });
  return archive;
}
