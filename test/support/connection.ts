/** A frontend of ours and a scripted backend on the two ends of one in-memory connection. */
import { createVirtioUserDevice } from '../../src/device/device.ts';
import type { DeviceOptions, VirtioUserDevice } from '../../src/device/api.ts';
import { VirtioUserError } from '../../src/errors.ts';
import { Channel } from '../../src/frontends/channel.ts';
import { VhostUserFrontend } from '../../src/frontends/vhost-user.ts';
import { FakeDataPath } from './fake-data-path.ts';
import { deviceOptions, type FakeSessions, fakeSessions } from './fake-session.ts';
import { ManualTimers } from './manual-timers.ts';
import { FdLedger, MemoryBinding, MemorySocket } from './memory-socket.ts';
import { RecordingLogger } from './recording-logger.ts';
import { ScriptedBackend, type ScriptedOptions } from './scripted-backend.ts';

export interface Connection {
  readonly backend: ScriptedBackend;
  readonly frontend: VhostUserFrontend;
  readonly socket: MemorySocket;
  readonly timers: ManualTimers;
  readonly logger: RecordingLogger;
  readonly binding: MemoryBinding;
}

export function connectScripted(options: ScriptedOptions, ledger = new FdLedger()): Connection {
  const [near, far] = MemorySocket.pair(ledger);
  const timers = new ManualTimers();
  const backend = new ScriptedBackend(options).serve((handlers) => far.attach(handlers));
  const name = '/run/test.sock';
  const logger = new RecordingLogger();
  const channel = new Channel((handlers) => near.attach(handlers), { name, timers });
  const binding = new MemoryBinding(ledger);
  const frontend = new VhostUserFrontend(channel, 1, { binding, name, timers, logger });
  return { backend, frontend, socket: near, timers, logger, binding };
}

export interface DeviceWorld {
  readonly ledger: FdLedger;
  readonly sessions: FakeSessions;
  readonly path: FakeDataPath;
  readonly device: VirtioUserDevice;
}

export function deviceWorld(options: Partial<DeviceOptions> = {}): DeviceWorld {
  const ledger = new FdLedger();
  const sessions = fakeSessions(ledger);
  const path = new FakeDataPath();
  return { ledger, sessions, path, device: createVirtioUserDevice(deviceOptions(options), sessions.create, path) };
}

/** What a promise rejects with. Fails when it does not. */
export async function failureOf(promise: Promise<unknown>): Promise<VirtioUserError> {
  return promise.then(
    () => {
      throw new Error('expected a failure');
    },
    (error: unknown) => VirtioUserError.from(error, 'unexpected'),
  );
}

/** Lets everything that is on its way arrive. */
export async function settle(): Promise<void> {
  for (let turn = 0; turn < 8; turn += 1) await new Promise((resolve) => setImmediate(resolve));
}
