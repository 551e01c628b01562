/**
 * Options of the agent. Each may come as a flag, as an environment variable `VIRTIO_USER_…`, from a YAML file named by
 * `--config` (keys are the names of the flags), or by default; the earlier wins.
 */
import { readFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { parse } from 'yaml';
import { defaultDeviceInfoDir } from '../attachment/device-info.ts';
import { messageOf, VirtioUserError } from '../errors.ts';
import { isJsonObject, type JsonObject } from '../json.ts';
import { type LogLevel, logLevels } from '../telemetry/log.ts';
import {
  confFile,
  directories,
  directory,
  groupName,
  integer,
  listenAddress,
  type ListenAddress,
  nodeName,
  oneOf,
  ovsdbRemote,
  type Parser,
  pollingCores,
  type RawValue,
  socketPath,
  truth,
  Unacceptable,
} from './option-values.ts';

export interface AgentOptions {
  readonly socket: string;
  readonly stateDir: string;
  readonly runDir: string;
  readonly cniBinDir: string;
  readonly cniConfDir: string;
  /** The network configuration to put there when the agent is ready, or null. */
  readonly conf: string | null;
  readonly metricsAddress: ListenAddress;
  readonly logLevel: LogLevel;
  readonly kubernetes: 'auto' | 'on' | 'off';
  readonly nodeName: string;
  readonly ovsdb: string;
  readonly backendDirs: readonly string[];
  readonly deviceInfoDir: string;
  readonly vhostGroup: string | null;
  readonly pumpThreads: number;
  /** Polling cores: known, or to be asked of OVS. */
  readonly pollingCores: 'ovs' | readonly number[];
  readonly spinUs: number;
  readonly holdMs: number;
  readonly softwareOffloads: boolean;
}

interface OptionDefinition<T> {
  readonly describe: string;
  readonly parse: Parser<T>;
  /** Shown in the help. */
  readonly defaultText: string;
  readonly fallback: (settled: { readonly runDir: string }) => T;
}

type Definitions = { readonly [K in keyof AgentOptions]: OptionDefinition<AgentOptions[K]> };

function option<T>(
  describe: string,
  parse: Parser<T>,
  defaultText: string,
  fallback?: OptionDefinition<T>['fallback'],
) {
  return { describe, parse, defaultText, fallback: fallback ?? (() => parse(defaultText)) };
}

export const defaultRunDir = '/run/virtio-user';
export const defaultStateDir = '/var/lib/virtio-user';
export const defaultCniBinDir = '/opt/cni/bin';
export const defaultCniConfDir = '/etc/cni/net.d';

/** Below the run directory: `/vhost/` and `vu` + 12 digits + `.sock`. */
const longestSocketBelowRunDir = '/vhost/vu000000000000.sock'.length;

const definitions: Definitions = {
  runDir: option('directory of sockets, emptied at boot', directory(longestSocketBelowRunDir), defaultRunDir),
  socket: option('socket for the CNI executable', socketPath, 'RUN_DIR/agent.sock', ({ runDir }) =>
    join(runDir, 'agent.sock'),
  ),
  stateDir: option('directory of records and queued deletes, kept over boots', directory(), defaultStateDir),
  cniBinDir: option('directory of CNI plugins, searched for IPAM after CNI_PATH', directory(), defaultCniBinDir),
  cniConfDir: option('directory of network configurations, for --conf', directory(), defaultCniConfDir),
  conf: option(
    'network configuration to install once the agent is ready; {podCIDR} becomes the subnet of the node',
    confFile,
    'none',
    () => null,
  ),
  metricsAddress: option('address of /livez, /readyz and /metrics', listenAddress, '127.0.0.1:9473'),
  logLevel: option('least severe level that is logged', oneOf(...logLevels), 'info'),
  kubernetes: option('use of the Kubernetes API', oneOf('auto', 'on', 'off'), 'auto'),
  nodeName: option('name of this node', nodeName, 'the host name', () => nodeName(hostname().toLowerCase())),
  ovsdb: option('database of Open vSwitch', ovsdbRemote, 'unix:/run/openvswitch/db.sock'),
  backendDirs: option('where a backend.path may lie', directories, 'RUN_DIR/vhost,/run/openvswitch', ({ runDir }) => [
    join(runDir, 'vhost'),
    '/run/openvswitch',
  ]),
  deviceInfoDir: option('where device-info files may lie that Multus names', directory(), defaultDeviceInfoDir),
  vhostGroup: option('group that may connect to the vhost sockets', groupName, 'none', () => null),
  pumpThreads: option('threads that move frames', integer(1, 64), '1'),
  pollingCores: option(
    'cores that a switch polls, which all threads but the pumps keep off: ovs (its pmd-cpu-mask), none, or such as 1,3-5',
    pollingCores,
    'ovs',
  ),
  spinUs: option('microseconds that an idle pump spins before it sleeps', integer(0, 1000), '50'),
  holdMs: option('milliseconds without a backend before the carrier goes off', integer(0, 3_600_000), '1000'),
  softwareOffloads: option(
    'segment and checksum in software what a backend cannot, merge what it delivers in small frames',
    truth,
    'true',
  ),
};

export interface OptionHelp {
  /** `pump-threads` */
  readonly flag: string;
  readonly environment: string;
  readonly describe: string;
  readonly defaultText: string;
}

const names = Object.keys(definitions) as readonly (keyof AgentOptions)[];
const kebab = (name: string): string => name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
const environmentName = (name: string): string => `VIRTIO_USER_${kebab(name).replaceAll('-', '_').toUpperCase()}`;

/** For the command line's help and the manual. */
export const agentOptionHelp: readonly OptionHelp[] = names.map((name) => ({
  flag: kebab(name),
  environment: environmentName(name),
  describe: definitions[name].describe,
  defaultText: definitions[name].defaultText,
}));

export interface OptionSources {
  /** Flag (`pump-threads`, also `config`) → value as typed. */
  readonly flags: Readonly<Record<string, unknown>>;
  readonly environment: Readonly<Record<string, string | undefined>>;
  /** For tests. */
  readonly readFile?: (path: string) => string;
}

/** @throws VirtioUserError CONFIG_INVALID, naming option, value and what is accepted */
export function resolveAgentOptions(sources: OptionSources): AgentOptions {
  const pick = picker(sources);
  const runDir = pick('runDir', { runDir: '' });
  const settled = { runDir };
  return {
    runDir,
    socket: pick('socket', settled),
    stateDir: pick('stateDir', settled),
    cniBinDir: pick('cniBinDir', settled),
    cniConfDir: pick('cniConfDir', settled),
    conf: pick('conf', settled),
    metricsAddress: pick('metricsAddress', settled),
    logLevel: pick('logLevel', settled),
    kubernetes: pick('kubernetes', settled),
    nodeName: pick('nodeName', settled),
    ovsdb: pick('ovsdb', settled),
    backendDirs: pick('backendDirs', settled),
    deviceInfoDir: pick('deviceInfoDir', settled),
    vhostGroup: pick('vhostGroup', settled),
    pumpThreads: pick('pumpThreads', settled),
    pollingCores: pick('pollingCores', settled),
    spinUs: pick('spinUs', settled),
    holdMs: pick('holdMs', settled),
    softwareOffloads: pick('softwareOffloads', settled),
  };
}

/** For those who ask an agent and need no more of it. @throws VirtioUserError CONFIG_INVALID, as above */
export function resolveRunDir(sources: OptionSources): string {
  return picker(sources)('runDir', { runDir: '' });
}

type Picker = <K extends keyof AgentOptions>(name: K, settled: { readonly runDir: string }) => AgentOptions[K];

function picker(sources: OptionSources): Picker {
  const file = readConfigFile(sources);
  return (name, settled) => {
    const flag = sources.flags[kebab(name)];
    if (flag !== undefined) return parsed(name, flag, `--${kebab(name)}`);
    const variable = sources.environment[environmentName(name)];
    if (variable !== undefined) return parsed(name, variable, environmentName(name));
    const setting = file.settings[kebab(name)];
    if (setting !== undefined) return parsed(name, setting, `${file.path}: ${kebab(name)}`);
    return attempt(
      () => definitions[name].fallback(settled),
      `--${kebab(name)} by default`,
      definitions[name].defaultText,
    );
  };
}

function parsed<K extends keyof AgentOptions>(name: K, raw: RawValue, source: string): AgentOptions[K] {
  return attempt(() => definitions[name].parse(raw), source, raw);
}

function attempt<T>(make: () => T, source: string, raw: RawValue): T {
  try {
    return make();
  } catch (error) {
    if (!(error instanceof Unacceptable)) throw error;
    throw new VirtioUserError('CONFIG_INVALID', `${source}: ${JSON.stringify(raw)} is not ${error.message}`);
  }
}

interface ConfigFile {
  readonly path: string;
  readonly settings: JsonObject;
}

function readConfigFile({ flags, environment, readFile }: OptionSources): ConfigFile {
  const raw = flags['config'] ?? environment['VIRTIO_USER_CONFIG'];
  if (raw === undefined) return { path: '', settings: {} };
  const path = typeof raw === 'string' ? raw : '';
  let value: unknown;
  try {
    value = parse((readFile ?? readText)(path)) ?? {};
  } catch (error) {
    throw new VirtioUserError('CONFIG_INVALID', `--config ${path}: ${messageOf(error)}`, { cause: error });
  }
  if (!isJsonObject(value)) {
    throw new VirtioUserError('CONFIG_INVALID', `--config ${path}: is not a mapping of option names to values`);
  }
  const known: readonly string[] = names.map(kebab);
  const unknown = Object.keys(value).find((key) => !known.includes(key));
  if (unknown !== undefined) {
    const accepted = [...known].sort().join(', ');
    throw new VirtioUserError('CONFIG_INVALID', `--config ${path}: unknown key "${unknown}"; known are ${accepted}`);
  }
  return { path, settings: value };
}

function readText(path: string): string {
  return readFileSync(path, 'utf8');
}
