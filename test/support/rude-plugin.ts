/** IPAM plugins that misbehave, as shell scripts in a directory for CNI_PATH. */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

const scripts: Readonly<Record<string, string>> = {
  'ipam-fails': `cat >/dev/null
if [ "$CNI_COMMAND" = ADD ]; then echo '{"cniVersion":"1.0.0","code":100,"msg":"the pool is dry"}'; exit 1; fi`,
  'ipam-hangs': `cat >/dev/null
if [ "$CNI_COMMAND" = ADD ]; then exec sleep 300; fi`,
  'ipam-garbage': `cat >/dev/null
if [ "$CNI_COMMAND" = ADD ]; then echo 'hello, I am no JSON'; fi`,
  'ipam-floods': `cat >/dev/null
if [ "$CNI_COMMAND" = ADD ]; then head -c 20000000 /dev/zero | tr '\\0' x; fi`,
  'ipam-wrong-shape': `cat >/dev/null
if [ "$CNI_COMMAND" = ADD ]; then echo '{"cniVersion":"1.0.0","ips":[{"address":"999.1.2.3/99"}]}'; fi`,
};

export const rudePluginNames = Object.keys(scripts);

/** Writes them all; the directory goes into CNI_PATH. */
export function writeRudePlugins(directory: string): string {
  mkdirSync(directory, { recursive: true });
  for (const [name, body] of Object.entries(scripts)) {
    const answer = `if [ "$CNI_COMMAND" = VERSION ]; then cat >/dev/null; echo '{"cniVersion":"1.0.0","supportedVersions":["0.4.0","1.0.0"]}'; exit 0; fi`;
    writeFileSync(join(directory, name), `#!/bin/sh\n${answer}\n${body}\n`, { mode: 0o755 });
  }
  return directory;
}
