/** What we print to runtimes, kept in files: whoever changes one changes what other people's programs read. */
import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';

/**
 * What the file below test/golden says. VIRTIO_USER_GOLDEN=write makes it anew of `rendered`; read the difference before
 * committing it.
 */
export function golden(name: string, rendered: unknown): unknown {
  const path = fileURLToPath(new URL(`../golden/${name}.json`, import.meta.url));
  if (process.env['VIRTIO_USER_GOLDEN'] === 'write') {
    mkdirSync(dirname(path), { recursive: true });
    writeFileSync(path, `${JSON.stringify(rendered, null, 2)}\n`);
  }
  return JSON.parse(readFileSync(path, 'utf8'));
}
