/** A network configuration on its way to the container runtime: read, looked at, the node's subnet filled in, installed. */
import { readdirSync, readFileSync } from 'node:fs';
import { readFile } from 'node:fs/promises';
import { basename, dirname, join } from 'node:path';
import { errnoOf, messageOf, VirtioUserError } from '../errors.ts';
import type { Credentials } from './cluster.ts';
import { type Installed, installFile } from './file-install.ts';
import { fillPodCidrs, namesPodCidr } from './pod-cidr-template.ts';

/** Endings of files that a container runtime loads. */
export const confEnding = /\.(conf|conflist|json)$/;

export interface NetworkConf {
  readonly source: string;
  readonly target: string;
  /** Asked only where the text names {podCIDR}. */
  readonly podCidrs: () => Promise<readonly string[]>;
  /** Aborted: nothing is written any more. */
  readonly signal?: AbortSignal;
}

/**
 * @throws VirtioUserError TIMEOUT: no answer about the node's subnets; CONFIG_INVALID: no such file, no JSON, no such
 * subnet; SYSCALL_FAILED. What was at the target before is still there.
 */
export async function installNetworkConf({ source, target, podCidrs, signal }: NetworkConf): Promise<Installed> {
  const text = await readConf(source);
  const filled = namesPodCidr(text) ? fillPodCidrs(text, await podCidrs()) : text;
  signal?.throwIfAborted();
  return installFile({ target, content: Buffer.from(filled), mode: 0o644 });
}

export interface NodeRequest {
  /** Of the configuration, for the message. */
  readonly source: string;
  readonly credentials: Credentials | null;
  readonly nodeName: string;
  readonly waitMs: number;
}

/** @throws VirtioUserError CONFIG_INVALID without credentials; otherwise as `readPodCidrs` */
export async function askPodCidrs({ source, credentials, ...node }: NodeRequest): Promise<readonly string[]> {
  if (credentials === null) {
    throw new VirtioUserError('CONFIG_INVALID', `--conf ${source}: {podCIDR} without access to the Kubernetes API`, {
      remedy: 'run with a service account, set KUBECONFIG, or write the subnet of the node',
    });
  }
  // Loaded here: the client is heavy, and most configurations do without it.
  const { readPodCidrs } = await import('./pod-cidrs.ts');
  return readPodCidrs({ credentials, ...node });
}

/** Of a directory, in the order of a runtime, which takes the first. @throws what the file system says */
export function confNames(directory: string): readonly string[] {
  try {
    return readdirSync(directory)
      .filter((name) => confEnding.test(name))
      .sort();
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return [];
    throw error;
  }
}

/** Whether a configuration calls this plugin, be it JSON or not. @throws what the file system says */
export function namesPlugin(path: string): boolean {
  return /"type"\s*:\s*"virtio-user"/.test(readFileSync(path, 'utf8'));
}

/** A configuration of this plugin that a runtime takes before this one: an old one, most likely. */
export function confBefore(path: string): string | null {
  const directory = dirname(path);
  try {
    const earlier = confNames(directory).filter((name) => name < basename(path));
    return earlier.map((name) => join(directory, name)).find(namesPlugin) ?? null;
  } catch {
    return null; // of what cannot be read `doctor` tells
  }
}

async function readConf(path: string): Promise<string> {
  if (!confEnding.test(path)) {
    throw new VirtioUserError(
      'CONFIG_INVALID',
      `--conf ${path}: no runtime loads a file without .conf, .conflist or .json`,
    );
  }
  let text: string;
  try {
    text = await readFile(path, 'utf8');
  } catch (error) {
    throw new VirtioUserError('CONFIG_INVALID', `read ${path}: ${messageOf(error)}`, {
      remedy: 'give the path of an existing file',
      cause: error,
    });
  }
  try {
    JSON.parse(text);
  } catch (error) {
    throw new VirtioUserError('CONFIG_INVALID', `--conf ${path}: ${messageOf(error)}`, { cause: error });
  }
  return text;
}
