/** Finds IPAM plugins and remembers what each supports: its VERSION is asked once, and again when the file was replaced. */
import { type Stats, statSync } from 'node:fs';
import { join } from 'node:path';
import { VirtioUserError } from '../errors.ts';
import { isJsonObject, type JsonObject } from '../json.ts';
import { runPlugin } from './plugin-process.ts';
import { pluginName } from './result.ts';

const versionTimeoutMs = 2_000;

export interface Plugin {
  readonly path: string;
  /** What it says that it supports; empty when it would not say. */
  readonly versions: readonly string[];
}

interface Known {
  readonly fingerprint: string;
  readonly versions: Promise<readonly string[]>;
}

export class PluginCatalog {
  readonly #binDirs: readonly string[];
  readonly #known = new Map<string, Known>();

  /** @param binDirs searched after the caller's CNI_PATH */
  constructor(binDirs: readonly string[]) {
    this.#binDirs = binDirs;
  }

  /** CNI_PATH for the plugin: it may delegate further. */
  searchPath(cniPath: string): string {
    return this.#directories(cniPath).join(':');
  }

  /**
   * A regular file (or a link to one) that somebody may execute.
   * @throws VirtioUserError CONFIG_INVALID for a type that is no name, IPAM_FAILED with details.missing when there is none
   */
  async find(type: string, cniPath: string): Promise<Plugin> {
    if (!pluginName.test(type)) {
      throw new VirtioUserError(
        'CONFIG_INVALID',
        `ipam.type: ${JSON.stringify(type.slice(0, 80))}; accepted: the name of a plugin`,
        { details: { key: 'ipam.type' } },
      );
    }
    const directories = this.#directories(cniPath);
    for (const directory of directories) {
      const path = join(directory, type);
      const file = statOf(path);
      if (file?.isFile() !== true || (file.mode & 0o111) === 0) continue;
      return { path, versions: await this.#versionsOf(path, file) };
    }
    throw new VirtioUserError('IPAM_FAILED', `IPAM plugin ${type} is in none of ${directories.join(', ')}`, {
      details: { plugin: type, missing: true },
      remedy: 'install the plugin there, or correct ipam.type',
    });
  }

  #directories(cniPath: string): string[] {
    return [...new Set([...cniPath.split(':'), ...this.#binDirs])].filter((directory) => directory.startsWith('/'));
  }

  /** Not bound to the call that happens to come first: others wait for the same answer. */
  #versionsOf(path: string, file: Stats): Promise<readonly string[]> {
    const fingerprint = `${file.size} ${file.mtimeMs} ${file.ino}`;
    const known = this.#known.get(path);
    if (known?.fingerprint === fingerprint) return known.versions;
    const versions = askVersions(path);
    this.#known.set(path, { fingerprint, versions });
    void versions.then((list) => {
      // No answer may mean a bad moment: ask the next time.
      if (list.length === 0 && this.#known.get(path)?.versions === versions) this.#known.delete(path);
    });
    return versions;
  }
}

/** On this thread: the plugin's start would wait for a step of the thread pool and a turn of the event loop. */
function statOf(path: string): Stats | undefined {
  try {
    return statSync(path, { throwIfNoEntry: false });
  } catch {
    return undefined;
  }
}

async function askVersions(path: string): Promise<readonly string[]> {
  const outcome = await runPlugin({
    path,
    environment: { CNI_COMMAND: 'VERSION' },
    stdin: '{"cniVersion":"1.0.0"}',
    timeoutMs: versionTimeoutMs,
    signal: new AbortController().signal,
  });
  if (outcome.kind !== 'exited') return [];
  const value = parseRecord(outcome.stdout);
  const list = value?.['supportedVersions'];
  if (!Array.isArray(list)) return [];
  return list.filter((version): version is string => typeof version === 'string' && /^\d+\.\d+\.\d+$/.test(version));
}

/** A JSON object, or null. */
export function parseRecord(text: string): JsonObject | null {
  try {
    const value: unknown = JSON.parse(text);
    return isJsonObject(value) ? value : null;
  } catch {
    return null;
  }
}

function versionNumber(version: string): number {
  const [major = 0, minor = 0, patch = 0] = version.split('.').map(Number);
  return major * 1_000_000 + minor * 1_000 + patch;
}

export function isAtLeast(version: string, least: string): boolean {
  return versionNumber(version) >= versionNumber(least);
}

/** The highest version that the plugin supports and that is not above what was asked for; that itself when unknown. */
export function loweredVersion(asked: string, supported: readonly string[]): string {
  if (supported.includes(asked)) return asked;
  const below = supported.filter((version) => isAtLeast(asked, version));
  return (
    below.reduce<string | null>((best, one) => (best === null || isAtLeast(one, best) ? one : best), null) ?? asked
  );
}
