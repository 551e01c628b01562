// Bundles src/ into dist/: main.js is the entry that any Node.js ≥ 18 can parse; cli.js and chunks/ are for the pinned one.
import { mkdirSync, readdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';
import { build } from 'esbuild';
import { buildEntry } from './bundle-entry.js';

// CommonJS dependencies call require() and look for __dirname, which an ES module lacks.
const banner = `import { createRequire as __createRequire } from 'node:module';
const require = __createRequire(import.meta.url);
const __bundleFilename = import.meta.filename, __bundleDirname = import.meta.dirname;`;

const program = await build({
  entryPoints: { cli: 'src/cli/run.ts' },
  outdir: 'dist',
  chunkNames: 'chunks/[name]-[hash]',
  splitting: true,
  bundle: true,
  format: 'esm',
  platform: 'node',
  target: 'node24',
  define: { __filename: '__bundleFilename', __dirname: '__bundleDirname' },
  external: ['*.node'],
  banner: { js: banner },
  legalComments: 'none',
  write: false,
  logLevel: 'warning',
});

const written = new Set();
mkdirSync('dist/chunks', { recursive: true });
for (const file of program.outputFiles) {
  mkdirSync(dirname(file.path), { recursive: true });
  writeFileSync(`${file.path}.new`, file.contents);
  renameSync(`${file.path}.new`, file.path);
  written.add(basename(file.path));
}
await buildEntry('src/main.ts', 'dist/main.js');
for (const name of readdirSync('dist/chunks')) {
  if (!written.has(name)) rmSync(join('dist/chunks', name));
}
