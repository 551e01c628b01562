/** Calls the executable in an environment that holds nothing but what the test says. */
import { readFileSync } from 'node:fs';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { type CniErrorBody, executablePath as builtExecutable } from '../../support/runtime.ts';
import { type Finished, runAny } from '../../support/process.ts';

/** Another build of it (with sanitizers, say) can be tested instead. */
export const executablePath = process.env['VIRTIO_USER_EXECUTABLE'] ?? builtExecutable;

export type Environment = Readonly<Record<string, string>>;

/** A call as containerd made it. */
export interface RecordedCall {
  readonly env: Environment;
  readonly stdin: string;
}

export const recordedCalls = ['add', 'del', 'del-empty-netns', 'del-after-reboot'] as const;

export function recordedCall(name: (typeof recordedCalls)[number]): RecordedCall {
  const path = fileURLToPath(new URL(`../../golden/calls/${name}.json`, import.meta.url));
  return JSON.parse(readFileSync(path, 'utf8')) as RecordedCall;
}

/** Variables of a valid call of any verb; the namespace is this process's own. */
export function callEnvironment(verb: string): Environment {
  const pod = {
    CNI_CONTAINERID: 'c1',
    CNI_NETNS: '/proc/self/ns/net',
    CNI_IFNAME: 'eth0',
    CNI_ARGS: 'IgnoreUnknown=1',
  };
  return { CNI_COMMAND: verb, CNI_PATH: '/opt/cni/bin', ...(verb === 'GC' || verb === 'STATUS' ? {} : pod) };
}

export const netconf = '{"cniVersion":"1.0.0","name":"n","type":"virtio-user"}';

/** A private place for socket and state of one test. */
export class Place implements AsyncDisposable {
  readonly directory: string;
  readonly socket: string;
  readonly stateDir: string;

  private constructor(directory: string) {
    this.directory = directory;
    this.socket = join(directory, 'agent.sock');
    this.stateDir = join(directory, 'state');
  }

  static async make(): Promise<Place> {
    return new Place(await mkdtemp(join(tmpdir(), 'vu-cni-')));
  }

  get environment(): Environment {
    return { VIRTIO_USER_AGENT_SOCKET: this.socket, VIRTIO_USER_STATE_DIR: this.stateDir };
  }

  async call(env: Environment, stdin: string | Buffer = netconf): Promise<Called> {
    const startedMs = performance.now();
    const finished = await runAny(executablePath, [], { env: { ...this.environment, ...env }, stdin });
    return { ...finished, durationMs: performance.now() - startedMs };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await rm(this.directory, { recursive: true });
  }
}

export interface Called extends Finished {
  readonly durationMs: number;
}

/** The CNI error on stdout; throws unless it is one, alone, and the exit status says so too. */
export function errorOf(called: Finished): CniErrorBody & { readonly cniVersion: string } {
  if (called.code !== 1) throw new Error(`exit ${called.code ?? called.signal}: ${called.stdout}${called.stderr}`);
  const body = JSON.parse(called.stdout) as CniErrorBody & { readonly cniVersion: string };
  if (called.stderr !== '') throw new Error(`stderr: ${called.stderr}`);
  return body;
}
