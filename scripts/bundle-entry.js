// Builds src/main.ts alone: the one file that an old Node.js must be able to parse.
import { chmodSync, renameSync } from 'node:fs';
import { build } from 'esbuild';

/** @type {(source: string, target: string) => Promise<void>} */
export async function buildEntry(source, target) {
  await build({
    entryPoints: [source],
    outfile: `${target}.new`,
    bundle: true,
    format: 'esm',
    platform: 'node',
    target: 'node18',
    logLevel: 'warning',
    plugins: [
      {
        name: 'program-stays-apart',
        setup: (bundle) =>
          bundle.onResolve({ filter: /\/cli\/run\.ts$/ }, () => ({ path: './cli.js', external: true })),
      },
    ],
  });
  chmodSync(`${target}.new`, 0o755);
  renameSync(`${target}.new`, target);
}
