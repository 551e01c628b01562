/**
 * IPAM by CNI plugins (host-local, static, dhcp, whereabouts), run by the agent with only the CNI variables in their
 * environment. The configuration goes to the plugin as it came; `cniVersion` alone is lowered to what the plugin says
 * that it supports, since plugins older than the runtime refuse what they do not know.
 */
import { stat } from 'node:fs/promises';
import { join } from 'node:path';
import { VirtioUserError } from '../errors.ts';
import { type PluginOutcome, runPlugin } from './plugin-process.ts';
import type { Ipam, IpamCall, IpamResult } from './result.ts';
import { parseIpamResult } from './schema.ts';

export interface IpamOptions {
  /** Searched after the caller's CNI_PATH. */
  readonly binDirs: readonly string[];
}

type Verb = 'ADD' | 'DEL' | 'CHECK' | 'GC' | 'STATUS' | 'VERSION';

const timeoutsMs: Readonly<Record<Verb, number>> = {
  ADD: 20_000,
  DEL: 10_000,
  CHECK: 4_000,
  GC: 20_000,
  STATUS: 1_500,
  VERSION: 2_000,
};

/** Undo of a failed ADD, which may come after the caller's deadline. */
const undoTimeoutMs = 5_000;
const busyRetries = 5;
const busyRetryMs = 200;

interface Plugin {
  readonly path: string;
  readonly versions: readonly string[];
}

function versionNumber(version: string): number {
  const [major = 0, minor = 0, patch = 0] = version.split('.').map(Number);
  return major * 1_000_000 + minor * 1_000 + patch;
}

/** The highest version that the plugin supports and that is not above what was asked for. */
function lowered(asked: string, supported: readonly string[]): string {
  if (supported.length === 0 || supported.includes(asked)) return asked;
  const below = supported.filter((version) => versionNumber(version) <= versionNumber(asked));
  return below.sort((a, b) => versionNumber(b) - versionNumber(a))[0] ?? asked;
}

function isRecord(value: unknown): value is Readonly<Record<string, unknown>> {
  return typeof value === 'object' && value !== null && !Array.isArray(value);
}

function parseJson(text: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    return undefined;
  }
}

/** A plugin's own error, in its words, or null. */
function pluginError(stdout: string): { readonly code: number; readonly text: string } | null {
  const value = parseJson(stdout);
  if (!isRecord(value) || typeof value['code'] !== 'number') return null;
  const details = typeof value['details'] === 'string' && value['details'] !== '' ? `; ${value['details']}` : '';
  return { code: value['code'], text: `${String(value['msg'] ?? 'no message')}${details}` };
}

export class DelegatedIpam implements Ipam {
  readonly #binDirs: readonly string[];
  /** Keyed by path, size, modification time and inode: a replaced plugin is asked again. */
  readonly #versions = new Map<string, readonly string[]>();

  constructor(options: IpamOptions) {
    this.#binDirs = options.binDirs;
  }

  async add(call: IpamCall, signal: AbortSignal): Promise<IpamResult> {
    const plugin = await this.#find(call.type, call.cniPath, signal);
    const outcome = await this.#run(plugin, 'ADD', call, {}, signal);
    try {
      const stdout = succeeded(call.type, 'ADD', outcome);
      const parsed = parseIpamResult(parseJson(stdout));
      if ('result' in parsed) return parsed.result;
      throw new VirtioUserError(
        'IPAM_FAILED',
        `IPAM plugin ${call.type} ADD: it printed no result: ${parsed.reason.slice(0, 300)}`,
        {
          details: { plugin: call.type, printed: stdout.slice(0, 120) },
        },
      );
    } catch (error) {
      // Half an ADD may have taken a lease.
      if (outcome.kind !== 'unstartable') {
        await this.#run(plugin, 'DEL', call, {}, AbortSignal.timeout(undoTimeoutMs)).catch(() => undefined);
      }
      throw error;
    }
  }

  async del(call: IpamCall, signal: AbortSignal): Promise<void> {
    const plugin = await this.#find(call.type, call.cniPath, signal);
    succeeded(call.type, 'DEL', await this.#run(plugin, 'DEL', call, {}, signal));
  }

  async check(call: IpamCall, prevResult: unknown, signal: AbortSignal): Promise<void> {
    const plugin = await this.#find(call.type, call.cniPath, signal);
    succeeded(call.type, 'CHECK', await this.#run(plugin, 'CHECK', call, { prevResult }, signal));
  }

  async gc(call: Pick<IpamCall, 'type' | 'netconf' | 'cniPath'>, signal: AbortSignal): Promise<void> {
    await this.#optional('GC', call, signal);
  }

  async status(call: Pick<IpamCall, 'type' | 'netconf' | 'cniPath'>, signal: AbortSignal): Promise<void> {
    await this.#optional('STATUS', call, signal);
  }

  /** Verbs of CNI 1.1.0: a plugin that does not speak it is not asked. */
  async #optional(
    verb: 'GC' | 'STATUS',
    call: Pick<IpamCall, 'type' | 'netconf' | 'cniPath'>,
    signal: AbortSignal,
  ): Promise<void> {
    const plugin = await this.#find(call.type, call.cniPath, signal);
    if (!plugin.versions.some((version) => versionNumber(version) >= versionNumber('1.1.0'))) return;
    const full = { ...call, containerId: '', netnsPath: '', ifName: '', cniArgs: '' };
    succeeded(call.type, verb, await this.#run(plugin, verb, full, {}, signal));
  }

  async #run(
    plugin: Plugin,
    verb: Verb,
    call: IpamCall,
    extra: Readonly<Record<string, unknown>>,
    signal: AbortSignal,
  ): Promise<PluginOutcome> {
    const environment: Record<string, string> = {
      CNI_COMMAND: verb,
      CNI_PATH: [call.cniPath, ...this.#binDirs].filter((part) => part !== '').join(':'),
      ...(call.containerId === ''
        ? {}
        : { CNI_CONTAINERID: call.containerId, CNI_IFNAME: call.ifName, CNI_NETNS: call.netnsPath }),
      ...(call.cniArgs === '' ? {} : { CNI_ARGS: call.cniArgs }),
    };
    for (let attempt = 1; ; attempt++) {
      const outcome = await runPlugin(
        plugin.path,
        environment,
        stdinFor(call.netconf, plugin.versions, extra),
        timeoutsMs[verb],
        signal,
      );
      if (outcome.kind !== 'unstartable' || outcome.errno !== 'ETXTBSY' || attempt === busyRetries) return outcome;
      await new Promise((resolve) => setTimeout(resolve, busyRetryMs)); // it is being replaced right now
    }
  }

  async #find(type: string, cniPath: string, signal: AbortSignal): Promise<Plugin> {
    if (!/^[A-Za-z0-9][A-Za-z0-9._-]{0,127}$/.test(type)) {
      throw new VirtioUserError('CONFIG_INVALID', `ipam.type: ${JSON.stringify(type)} is not the name of a plugin`);
    }
    const directories = [...cniPath.split(':'), ...this.#binDirs].filter((directory) => directory.startsWith('/'));
    for (const directory of directories) {
      const path = join(directory, type);
      const file = await stat(path).catch(() => null);
      if (file?.isFile() !== true || (file.mode & 0o111) === 0) continue;
      const key = `${path} ${file.size} ${file.mtimeMs} ${file.ino}`;
      let versions = this.#versions.get(key);
      if (versions === undefined) {
        versions = await this.#askVersions(path, signal);
        if (versions.length > 0) this.#versions.set(key, versions);
      }
      return { path, versions };
    }
    throw new VirtioUserError('IPAM_FAILED', `IPAM plugin ${type} is in none of ${directories.join(', ')}`, {
      details: { plugin: type },
      remedy: 'install the plugin there, or correct ipam.type',
    });
  }

  async #askVersions(path: string, signal: AbortSignal): Promise<readonly string[]> {
    const outcome = await runPlugin(
      path,
      { CNI_COMMAND: 'VERSION' },
      '{"cniVersion":"1.0.0"}',
      timeoutsMs.VERSION,
      signal,
    );
    const value = outcome.kind === 'exited' ? parseJson(outcome.stdout) : undefined;
    const list = isRecord(value) ? value['supportedVersions'] : undefined;
    if (!Array.isArray(list)) return [];
    return list.filter((version): version is string => typeof version === 'string' && /^\d+\.\d+\.\d+$/.test(version));
  }
}

function stdinFor(netconf: string, versions: readonly string[], extra: Readonly<Record<string, unknown>>): string {
  const value = parseJson(netconf);
  if (!isRecord(value)) return netconf;
  const asked = typeof value['cniVersion'] === 'string' ? value['cniVersion'] : '0.3.1';
  return JSON.stringify({ ...value, ...extra, cniVersion: lowered(asked, versions) });
}

/** stdout of a plugin that did what was asked. @throws VirtioUserError IPAM_FAILED, CANCELLED */
function succeeded(type: string, verb: Verb, outcome: PluginOutcome): string {
  const failed = (what: string, remedy?: string): VirtioUserError =>
    new VirtioUserError('IPAM_FAILED', `IPAM plugin ${type} ${verb}: ${what}`, {
      details: { plugin: type, verb },
      ...(remedy === undefined ? {} : { remedy }),
    });
  switch (outcome.kind) {
    case 'exited': {
      if (outcome.code === 0) return outcome.stdout;
      const error = pluginError(outcome.stdout);
      throw failed(error?.text ?? `exit ${outcome.code}: ${(outcome.stderr || outcome.stdout).trim().slice(0, 300)}`);
    }
    case 'signalled':
      throw failed(`killed by ${outcome.signal}`);
    case 'timeout':
      throw failed(`no answer within ${timeoutsMs[verb]} ms, killed`);
    case 'flooded':
      throw failed(`more than ${outputLimitText} of output, killed`);
    case 'unstartable':
      throw outcome.errno === 'ENOENT'
        ? failed(
            'it exists but its ELF interpreter does not (a dynamically linked plugin without its C library)',
            'use statically linked plugins, or an image with glibc',
          )
        : failed(`cannot be started: ${outcome.errno}`);
    case 'aborted':
      throw new VirtioUserError('CANCELLED', `IPAM plugin ${type} ${verb}: the caller is gone`);
  }
}

const outputLimitText = '1 MiB';
