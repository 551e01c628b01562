/** A logger that remembers its lines. */
import type { LogFields, Logger, LogLevel } from '../../src/telemetry/log.ts';

export class RecordingLogger implements Logger {
  readonly lines: { readonly level: LogLevel; readonly fields: LogFields; readonly message: string }[] = [];

  get messages(): readonly string[] {
    return this.lines.map(({ message }) => message);
  }

  debug(fields: LogFields, message: string): void {
    this.lines.push({ level: 'debug', fields, message });
  }

  info(fields: LogFields, message: string): void {
    this.lines.push({ level: 'info', fields, message });
  }

  warn(fields: LogFields, message: string): void {
    this.lines.push({ level: 'warn', fields, message });
  }

  error(fields: LogFields, message: string): void {
    this.lines.push({ level: 'error', fields, message });
  }

  fatal(fields: LogFields, message: string): void {
    this.lines.push({ level: 'fatal', fields, message });
  }

  child(): Logger {
    return this;
  }
}
