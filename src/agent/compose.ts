/** Makes the real parts and ties them together. Everything that decides something lives elsewhere. */
import { readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { CutConnections } from '../attachment/cut-connections.ts';
import { DeviceInfoDirectory } from '../attachment/device-info.ts';
import { AttachmentManager } from '../attachment/manager.ts';
import type { BackendSpec } from '../attachment/spec.ts';
import { systemClock } from '../clock.ts';
import { parseQueuedDelete } from '../cni/queued-delete.ts';
import { CniServer } from '../cni/server.ts';
import { Verbs } from '../cni/verbs.ts';
import { createVirtioUserDevice } from '../device/device.ts';
import type { FrontendSource } from '../device/frontend.ts';
import { VirtioUserError } from '../errors.ts';
import { createVhostUserSource } from '../frontends/source.ts';
import { DelegatedIpam } from '../ipam/delegate.ts';
import type { NativeBinding, NativeFd, Pump } from '../native/binding.ts';
import { loadNative } from '../native/load.ts';
import { OvsdbClient } from '../ovs/ovsdb.ts';
import { askPollingCores } from '../ovs/polling-cores.ts';
import { VhostPorts } from '../ovs/vhost-ports.ts';
import type { Logger } from '../telemetry/log.ts';
import { Metrics } from '../telemetry/metrics.ts';
import { featureNames } from '../virtio/feature.ts';
import { Agent, type AgentParts } from './agent.ts';
import { Cluster, type Credentials, findCredentials } from './cluster.ts';
import { CoreLoad } from './core-load.ts';
import { DeleteQueue } from './delete-queue.ts';
import { type Directories, prepareDirectories } from './directories.ts';
import type { Installed } from './file-install.ts';
import { Health } from './health.ts';
import { HeapTrimmer } from './heap.ts';
import { Introspection } from './introspect.ts';
import { agentLockName } from './leftovers.ts';
import { askPodCidrs, installNetworkConf } from './network-conf.ts';
import { NetworkConfWriter } from './network-conf-writer.ts';
import type { AgentOptions } from './options.ts';
import { allowedPath } from './paths.ts';
import { PollingCoreWatch } from './polling-core-watch.ts';
import { DisconnectCounts, listenToChannels, sampleOf } from './samples.ts';
import { version } from './version.ts';

/** One removal from the delete queue, IPAM plugin included. */
const queuedDeleteTimeoutMs = 30_000;

export interface ComposedAgent {
  readonly agent: Agent;
  /** To be opened as the agent starts. */
  readonly cluster: Cluster;
  /** Lets the lock go, after everything else. */
  readonly release: () => void;
}

/**
 * @throws VirtioUserError CONFLICT_SOCKET when another agent runs on this state directory; CONFIG_INVALID without the
 * credentials that --kubernetes=on needs
 */
export function composeAgent(options: AgentOptions, log: Logger, lostLogLines: () => number): ComposedAgent {
  const credentials = findCredentials(options.kubernetes, process.env);
  const directories = prepareDirectories(options);
  const binding = loadNative();
  const lock = takeLock(binding, join(options.stateDir, agentLockName));
  const ovsdbPath = options.ovsdb.slice('unix:'.length);
  const ovsdb = new OvsdbClient({ socketPath: ovsdbPath });
  const ovs = new VhostPorts(ovsdb);
  const attachments: AttachmentManager = new AttachmentManager({
    binding,
    pumps: createPumps(binding, options, log),
    deviceInfo: new DeviceInfoDirectory(options.deviceInfoDir),
    ipam: new DelegatedIpam({ binDirs: [options.cniBinDir] }),
    ovs,
    cuts: new CutConnections(systemClock),
    createDevice: (device, path) => createVirtioUserDevice(device, (session) => binding.createSession(session), path),
    createSource: (backend) => createSource(backend, binding, options, directories, log),
    clock: systemClock,
    log,
    whyKeepPod: (pod) => cluster.whyKeepPod(pod),
    options: {
      nodeName: options.nodeName,
      stateDir: options.stateDir,
      holdMs: options.holdMs,
      softwareOffloads: options.softwareOffloads,
      bootId: readFileSync('/proc/sys/kernel/random/boot_id', 'utf8').trim(),
    },
  });

  const disconnects = new DisconnectCounts();
  const metrics: Metrics = new Metrics({
    version,
    attachments: () => attachments.list().map((view) => sampleOf(view, disconnects.of(view.id))),
    deleteQueueLength: () => deleteQueue.length,
    cniInFlight: () => cniServer.inFlight,
    lostLogLines,
  });
  const stopListening = listenToChannels(metrics, disconnects);

  const deleteQueue: DeleteQueue = new DeleteQueue({
    directory: directories.deleteQueue,
    tryLock: (path) => binding.tryLockFile(path, false),
    decode: parseQueuedDelete,
    remove: (request, stop) => {
      const signal = AbortSignal.any([stop, AbortSignal.timeout(queuedDeleteTimeoutMs)]);
      return attachments.remove(request, { requestId: 'queued', signal });
    },
    onEntry: (result) => metrics.queuedDelete(result),
    log,
  });
  const heap = new HeapTrimmer();
  const verbs = new Verbs({
    attachments,
    binding,
    netconf: {
      nodeName: options.nodeName,
      runDir: options.runDir,
      backendDirs: options.backendDirs,
      ovsSocketDir: dirname(ovsdbPath),
      deviceInfoDir: options.deviceInfoDir,
    },
  });
  const cniServer: CniServer = new CniServer({
    binding,
    path: { baseDirectory: dirname(options.socket), relativePath: basename(options.socket) },
    run: (frame, fds, context) => verbs.run(frame, fds, context),
    log,
    onServed: ({ verb, errorCode, durationMs }) => {
      metrics.cniServed(verb, errorCode, durationMs);
      heap.touch();
    },
    onUnanswered: () => agent.drainSoon(),
  });
  const introspection = new Introspection({ attachments, reconcile: () => agent.reconcile(), featureNames, log });

  const agent: Agent = new Agent({
    attachments,
    deleteQueue,
    cni: {
      open: () => cniServer.listen(),
      close: async (graceMs) => {
        cniServer.refuseAdds('the agent is stopping');
        await cniServer.close(graceMs);
      },
    },
    pollingCores: createPollingCoreWatch(options, ovsdb, binding, log),
    networkConf: createNetworkConf(options, credentials, log),
    introspection: { open: () => introspection.open(options.runDir), close: () => introspection.close() },
    health: {
      open: async () => {
        const port = await health.open(options.metricsAddress);
        log.info({ address: options.metricsAddress.host, port }, 'health and metrics are served');
      },
      close: () => health.close(),
    },
    shutDownNative: () => {
      heap.stop();
      stopListening();
      ovs.close();
      binding.shutdown();
    },
    onReconciled: (result) => metrics.reconciled(result),
    clock: systemClock,
    log,
  });
  const health = new Health({ checks: agent.checks, metrics: () => metrics.render(), log });
  const cluster = new Cluster({
    credentials,
    nodeName: options.nodeName,
    view: () => {
      const { failing } = health;
      return {
        agentVersion: version,
        ready: failing.length === 0,
        readyReason: failing.length === 0 ? '' : `the agent waits for ${failing.join(', ')}`,
        restored: !failing.includes('records-restored'),
        attachments: attachments.list(),
        corruptRecords: attachments.setAside,
      };
    },
    log,
  });
  return { agent, cluster, release: () => lock.close() };
}

function takeLock(binding: NativeBinding, path: string): NativeFd {
  const lock = binding.tryLockFile(path, false);
  if (lock !== null) return lock;
  throw new VirtioUserError('CONFLICT_SOCKET', `lock ${path}: another agent runs on this state directory`, {
    remedy: 'stop it first; two agents would fight over the same TAPs',
  });
}

function createNetworkConf(
  { conf: source, cniConfDir, nodeName }: AgentOptions,
  credentials: Credentials | null,
  log: Logger,
): AgentParts['networkConf'] {
  if (source === null) return { open: () => undefined, close: () => undefined };
  const target = join(cniConfDir, basename(source));
  const podCidrs = (): Promise<readonly string[]> => askPodCidrs({ source, credentials, nodeName, waitMs: 0 });
  const install = (signal: AbortSignal): Promise<Installed> => installNetworkConf({ source, target, podCidrs, signal });
  return new NetworkConfWriter({ path: target, install, clock: systemClock, log });
}

function createPollingCoreWatch(
  { pollingCores: cores }: AgentOptions,
  ovsdb: OvsdbClient,
  binding: NativeBinding,
  log: Logger,
): PollingCoreWatch {
  const load = new CoreLoad();
  return new PollingCoreWatch({
    ask: (signal) => (cores === 'ovs' ? askPollingCores(ovsdb, signal) : Promise.resolve(cores)),
    idleShares: () => load.idleShares(),
    keepOff: (polled) => binding.keepOffCores(polled),
    clock: systemClock,
    log,
  });
}

/** More threads than cores would only wait for each other. */
function createPumps(binding: NativeBinding, { pumpThreads, spinUs }: AgentOptions, log: Logger): readonly Pump[] {
  const count = Math.min(pumpThreads, availableParallelism());
  const create = (index: number): Pump => binding.createPump({ name: `vu-pump-${index}`, spinUs });
  const pumps = Array.from({ length: count }, (_, index) => create(index));
  if (!pumps.every(({ writesTogether }) => writesTogether)) {
    log.warn(
      {},
      'no io_setup: pods get their frames one by one, at half the rate; raise fs.aio-max-nr or allow the call',
    );
  }
  return pumps;
}

function createSource(
  backend: BackendSpec,
  binding: NativeBinding,
  options: AgentOptions,
  directories: Directories,
  log: Logger,
): FrontendSource {
  return createVhostUserSource({
    binding,
    path: allowedPath(backend.path, options.backendDirs),
    server: backend.server,
    mode: 0o660,
    groupId: directories.vhostGroupId,
    logger: log,
  });
}
