/** The agent as a process: logger, signals, the last words before a crash, exit code. */
import { systemClock } from '../clock.ts';
import { messageOf, VirtioUserError } from '../errors.ts';
import { createLogger, type Logger } from '../telemetry/log.ts';
import { LogOutput } from '../telemetry/log-output.ts';
import { composeAgent } from './compose.ts';
import { preferSmallHeap } from './heap.ts';
import { comfortableOpenFiles, openFilesLimit } from './limits.ts';
import type { AgentOptions } from './options.ts';
import { version } from './version.ts';

/** EX_SOFTWARE of sysexits.h. */
const exitCrash = 70;
const exitFailure = 1;
const exitLimitMs = 2_000;

/** Runs until a signal ends it. @returns the exit code */
export async function runAgent(options: AgentOptions): Promise<0 | typeof exitFailure> {
  preferSmallHeap();
  const output = new LogOutput();
  const log = createLogger({ level: options.logLevel, base: { node: options.nodeName }, destination: output });
  process.on('uncaughtException', (error) => {
    try {
      log.fatal({ error }, 'unforeseen error; exiting, the next process takes over');
    } finally {
      process.exit(exitCrash);
    }
  });
  const asked = stopSignal(log);
  log.info({ version, nodeVersion: process.versions.node, pid: process.pid, options }, 'starting');
  warnOfLimits(log);
  try {
    const { agent, cluster, release } = composeAgent(options, log, () => output.lostLines);
    try {
      const started = agent.start();
      // Also while starting: a restore that hangs must not hold up a shut-down.
      await Promise.race([cluster.openAfter(started, systemClock), asked]);
      log.info({ signal: await asked }, 'stopping');
      await Promise.all([cluster.farewell(), agent.stop()]);
    } catch (error) {
      await agent.stop();
      throw error;
    } finally {
      await cluster.close();
      release();
      // Whatever still holds the event loop after everything was closed must not hold up a restart.
      setTimeout(() => process.exit(), exitLimitMs).unref();
    }
    return 0;
  } catch (error) {
    log.fatal({ error: error instanceof VirtioUserError ? error : VirtioUserError.from(error, 'start') }, 'cannot run');
    process.stderr.write(`virtio-user-cni agent: ${messageOf(error)}\n`);
    return exitFailure;
  }
}

/** Resolves at the first SIGTERM or SIGINT; a second one ends the process at once. */
function stopSignal(log: Logger): Promise<NodeJS.Signals> {
  process.on('SIGHUP', () => log.info({}, 'SIGHUP is ignored: options are read at start'));
  return new Promise((resolve) => {
    for (const signal of ['SIGTERM', 'SIGINT'] as const) process.once(signal, () => resolve(signal));
  });
}

/** Node.js raises the soft limit to the hard one by itself; more needs the one who starts us. */
function warnOfLimits(log: Logger): void {
  const limit = openFilesLimit();
  if (limit !== null && limit < comfortableOpenFiles) {
    log.warn({ limit, wanted: comfortableOpenFiles }, 'few open files allowed: attachments need about a dozen each');
  }
}
