/**
 * `install` and `uninstall`: the CNI executable and, where asked, a network configuration, on the host; what agents left
 * there, when it goes.
 */
import { type FileHandle, readFile } from 'node:fs/promises';
import { existsSync, readdirSync } from 'node:fs';
import { basename, join } from 'node:path';
import type { Options } from 'yargs';
import { findCredentials } from '../agent/cluster.ts';
import { installFile, removeFile } from '../agent/file-install.ts';
import { agentLockName, removeLeftovers, runDirectory, stateDirectory } from '../agent/leftovers.ts';
import { askPodCidrs, installNetworkConf } from '../agent/network-conf.ts';
import {
  defaultCniBinDir,
  defaultCniConfDir,
  defaultRunDir,
  defaultStateDir,
  resolveAgentOptions,
} from '../agent/options.ts';
import { executableName, shippedExecutable } from '../agent/package-root.ts';
import { errnoOf, messageOf, VirtioUserError } from '../errors.ts';
import type { NativeFd } from '../native/binding.ts';
import { type Arguments, type Command, integerArgument, optionalText, print } from './command.ts';
import { openExecutable, waitUntilUnused } from './executable-use.ts';
import { supportedCniVersions } from './executable-probe.ts';
import { exitCode } from './exit-code.ts';
import { renderFields } from './output.ts';

const longestApiWaitMs = 3_600_000;
/** As the manifests of the restricted profile name it. */
const seccompProfileName = 'virtio-user.json';
const directories = {
  'cni-bin-dir': { type: 'string', default: defaultCniBinDir, describe: 'where the container runtime finds plugins' },
  'cni-conf-dir': { type: 'string', default: defaultCniConfDir, describe: 'where it finds network configurations' },
} as const satisfies Record<string, Options>;

export const installCommand: Command = {
  usage: 'install',
  describe: 'put the CNI executable where the container runtime looks for it',
  options: {
    ...directories,
    executable: { type: 'string', describe: 'the executable to install (the one of this package)' },
    conf: {
      type: 'string',
      describe:
        'a network configuration (.conf, .conflist) to install after it; {podCIDR} becomes the subnet of the node',
    },
    'node-name': {
      type: 'string',
      describe: 'name of this node, for {podCIDR} (VIRTIO_USER_NODE_NAME, the host name)',
    },
    'api-wait-ms': {
      type: 'string',
      default: '30000',
      describe: 'how long to ask the Kubernetes API for {podCIDR}; after that, a configuration that is there stays',
    },
  },
  run: async (args, terminal) => {
    const source = optionalText(args, 'executable') ?? shippedExecutable();
    const target = join(optionalText(args, 'cni-bin-dir') ?? defaultCniBinDir, executableName);
    let versions: readonly string[] = [];
    const executable = await installFile({
      target,
      content: await read(source),
      mode: 0o755,
      verify: async (path) => {
        versions = await supportedCniVersions(path);
      },
    });
    const done: Record<string, string> = { [target]: executable, 'CNI versions': versions.join(' ') };
    const conf = optionalText(args, 'conf');
    // Last: its presence is what makes the runtime call the executable.
    if (conf !== null) {
      const confTarget = join(optionalText(args, 'cni-conf-dir') ?? defaultCniConfDir, basename(conf));
      done[confTarget] = await installConf(conf, confTarget, args);
    }
    print(args, terminal, done, () => renderFields(Object.entries(done)));
    return exitCode.ok;
  },
};

export const uninstallCommand: Command = {
  usage: 'uninstall',
  describe: 'remove what install and agents put there, when no pod is attached and no agent runs',
  options: {
    ...directories,
    'state-dir': { type: 'string', default: defaultStateDir, describe: 'state directory of the agent' },
    'run-dir': { type: 'string', default: defaultRunDir, describe: 'directory of its sockets' },
    'conf-name': { type: 'string', describe: 'file name of the network configuration to remove first' },
    'seccomp-dir': { type: 'string', describe: `where the seccomp profile ${seccompProfileName} is to be removed` },
    force: {
      type: 'boolean',
      default: false,
      describe: 'also while pods are attached or an agent runs: state stays, pods could not be detached then',
    },
  },
  run: async (args, terminal) => {
    const stateDir = optionalText(args, 'state-dir') ?? defaultStateDir;
    const force = args['force'] === true;
    const attached = attachmentCount(stateDir);
    if (attached > 0 && !force) {
      throw new VirtioUserError(
        'CONFLICT_INTERFACE',
        `uninstall: ${attached} pod interface${attached === 1 ? ' is' : 's are'} attached`,
        {
          remedy:
            'remove these pods while an agent runs: if it is gone, apply the manifests again, delete the pods, ' +
            'delete the agents, and go on; or use --force and let the next agent clean up',
        },
      );
    }
    const lock = await agentLock(stateDir);
    if (lock === 'taken' && !force) {
      throw new VirtioUserError('CONFLICT_SOCKET', `uninstall: an agent runs on ${stateDir}`, {
        remedy: 'stop it first: kubectl -n virtio-user-system delete daemonset virtio-user-agent',
      });
    }
    const done: Record<string, string> = {};
    let executable: FileHandle | null = null;
    try {
      const remove = async (path: string): Promise<void> => {
        done[path] = (await removeFile(path)) ? 'removed' : 'was not there';
      };
      // First: by it the runtime calls the executable.
      const conf = confPath(args);
      if (conf !== null) await remove(conf);
      const path = join(optionalText(args, 'cni-bin-dir') ?? defaultCniBinDir, executableName);
      executable = await openExecutable(path);
      await remove(path);
      if (attached === 0 && lock !== 'taken') {
        // A DEL that waits for the agent will queue itself, and make the directory for it.
        if (executable !== null) await waitUntilUnused(executable);
        done[stateDir] = await removeLeftovers(stateDir, stateDirectory);
        const runDir = optionalText(args, 'run-dir') ?? defaultRunDir;
        done[runDir] = await removeLeftovers(runDir, runDirectory);
      }
      const seccompDir = optionalText(args, 'seccomp-dir');
      if (seccompDir !== null) await remove(join(seccompDir, seccompProfileName));
    } finally {
      await executable?.close();
      if (lock !== 'taken') lock?.close();
    }
    print(args, terminal, done, () => renderFields(Object.entries(done)));
    return exitCode.ok;
  },
};

function confPath(args: Arguments): string | null {
  const name = optionalText(args, 'conf-name');
  return name === null ? null : join(optionalText(args, 'cni-conf-dir') ?? defaultCniConfDir, basename(name));
}

/** Held against an agent that starts meanwhile. null: no agent ever ran there. */
async function agentLock(stateDir: string): Promise<NativeFd | 'taken' | null> {
  const path = join(stateDir, agentLockName);
  if (!existsSync(path)) return null;
  // Loaded here, so that an installation needs no addon that works.
  const { loadNative } = await import('../native/load.ts');
  return loadNative().tryLockFile(path, false) ?? 'taken';
}

async function read(path: string): Promise<Buffer> {
  try {
    return await readFile(path);
  } catch (error) {
    throw new VirtioUserError('CONFIG_INVALID', `read ${path}: ${messageOf(error)}`, {
      remedy: path === shippedExecutable() ? 'build it first: npm run build' : 'give the path of an existing file',
      cause: error,
    });
  }
}

/** What became of the configuration. */
async function installConf(source: string, target: string, args: Arguments): Promise<string> {
  try {
    return await installNetworkConf({ source, target, podCidrs: () => podCidrs(source, args) });
  } catch (error) {
    // A node that has its configuration keeps it while the API server is away.
    if (!(error instanceof VirtioUserError && error.code === 'TIMEOUT' && existsSync(target))) throw error;
    return `kept as it was: ${error.message}`;
  }
}

function podCidrs(source: string, args: Arguments): Promise<readonly string[]> {
  const { nodeName } = resolveAgentOptions({
    flags: { 'node-name': args['node-name'] },
    environment: { VIRTIO_USER_NODE_NAME: process.env['VIRTIO_USER_NODE_NAME'] },
  });
  const waitMs = integerArgument(args, 'api-wait-ms', 0, longestApiWaitMs);
  return askPodCidrs({ source, credentials: findCredentials('auto', process.env), nodeName, waitMs });
}

/** From the records, so that it works without an agent too. */
function attachmentCount(stateDir: string): number {
  try {
    return readdirSync(join(stateDir, 'attachments')).filter((name) => /^vu[0-9a-f]{12}\.json$/.test(name)).length;
  } catch (error) {
    if (errnoOf(error) === 'ENOENT') return 0;
    throw new VirtioUserError('SYSCALL_FAILED', `count attachments in ${stateDir}: ${messageOf(error)}`, {
      cause: error,
    });
  }
}
