/** What server and client mode share: options, one attachment's path, and frontends with ascending generations. */
import { VirtioUserError } from '../errors.ts';
import {
  type FdSocket,
  longestSocketPathBytes,
  type NativeBinding,
  type SocketHandlers,
  type SocketPath,
} from '../native/binding.ts';
import type { Logger } from '../telemetry/log.ts';
import type { Timers } from '../clock.ts';
import type { VhostUserFrontend } from './vhost-user.ts';

/** Calls back with the name of what changed in the directory (null: unknown). @returns stops; throws when there is none */
export type WatchDirectory = (directory: string, onChange: (name: string | null) => void) => () => void;

export interface VhostUserSourceOptions {
  readonly binding: Pick<NativeBinding, 'listenUnix' | 'connectUnix' | 'socketPair'>;
  readonly path: SocketPath;
  /** true: we listen, the switch connects. */
  readonly server: boolean;
  /** Of the socket file that we make in server mode. */
  readonly mode: number;
  readonly groupId: number | null;
  readonly logger: Logger;
  /** Per reply, milliseconds; default 5000, at least 3000. */
  readonly deadlineMs?: number;
  readonly timers?: Timers;
  /** 0 ≤ x < 1; for jitter. */
  readonly random?: () => number;
  readonly watchDirectory?: WatchDirectory;
  /** What is at a path: the same as long as the file is; null: nothing. Throws when that cannot be said. */
  readonly fileAt?: (path: string) => string | null;
}

/** The path of one attachment and its connections, one generation each. */
export interface Connections {
  readonly fullPath: string;
  readonly timers: Timers;
  /** Accepts or connects with a fresh channel. @throws NativeFault of `attach` */
  open(attach: (handlers: SocketHandlers) => FdSocket): VhostUserFrontend;
}

/** @throws VirtioUserError SOCKET_PATH */
export function checkPathLength(path: string): void {
  const length = Buffer.byteLength(path);
  if (length <= longestSocketPathBytes) return;
  throw new VirtioUserError(
    'SOCKET_PATH',
    `socket path ${path} has ${length} bytes, ${longestSocketPathBytes} is the most`,
    {
      details: { path, length },
      remedy: 'Shorten backend.path or the run directory.',
    },
  );
}
