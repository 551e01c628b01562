/**
 * JSON logs, one line per event. Rooms receive a {@link Logger} by injection and add what they know with `child`:
 * `requestId`, `containerId`, `pod`, `verb`, `id` (attachment), `durationMs`. An error goes under the key `error`.
 */
import { type DestinationStream, pino, stdTimeFunctions } from 'pino';
import { messageOf, VirtioUserError } from '../errors.ts';

export type LogFields = Readonly<Record<string, unknown>>;

export interface Logger {
  debug(fields: LogFields, message: string): void;
  info(fields: LogFields, message: string): void;
  warn(fields: LogFields, message: string): void;
  error(fields: LogFields, message: string): void;
  /** The process cannot go on. */
  fatal(fields: LogFields, message: string): void;
  /** A logger that adds `fields` to every line. */
  child(fields: LogFields): Logger;
}

export const logLevels = ['debug', 'info', 'warn', 'error', 'fatal', 'silent'] as const;

export type LogLevel = (typeof logLevels)[number];

export interface LoggerOptions {
  readonly level: LogLevel;
  /** On every line. */
  readonly base?: LogFields;
  readonly destination: DestinationStream;
}

export function createLogger(options: LoggerOptions): Logger {
  return pino(
    {
      level: options.level,
      base: { ...options.base },
      timestamp: stdTimeFunctions.isoTime,
      messageKey: 'message',
      formatters: { level: (label) => ({ level: label }) },
      serializers: { error: describeError },
    },
    options.destination,
  );
}

const ignore = (): undefined => undefined;

/** Drops everything. */
export const silentLogger: Logger = {
  debug: ignore,
  info: ignore,
  warn: ignore,
  error: ignore,
  fatal: ignore,
  child: () => silentLogger,
};

/** What a log line says about anything thrown. A stack is there only for what we did not foresee. */
export function describeError(thrown: unknown): LogFields {
  const cause = typeof thrown === 'object' && thrown !== null && 'cause' in thrown ? thrown.cause : undefined;
  const causeText = cause === undefined ? {} : { cause: messageOf(cause) };
  if (thrown instanceof VirtioUserError && thrown.code !== 'BUG') {
    return {
      code: thrown.code,
      message: thrown.message,
      ...(Object.keys(thrown.details).length === 0 ? {} : { details: thrown.details }),
      ...(thrown.remedy === null ? {} : { remedy: thrown.remedy }),
      ...causeText,
    };
  }
  const stack = typeof thrown === 'object' && thrown !== null && 'stack' in thrown ? String(thrown.stack) : null;
  const code = typeof thrown === 'object' && thrown !== null && 'code' in thrown ? { code: String(thrown.code) } : {};
  return { ...code, message: messageOf(thrown), ...causeText, ...(stack === null ? {} : { stack }) };
}
