/** What a command of the command line is made of. One file per command; `run.ts` hands them to yargs. */
import type { Options, PositionalOptions } from 'yargs';
import { VirtioUserError } from '../errors.ts';
import type { ExitCode } from './exit-code.ts';
import { renderJson } from './output.ts';

/** Where a command prints. */
export interface Terminal {
  out(text: string): void;
  err(text: string): void;
}

export type Arguments = Readonly<Record<string, unknown>>;

export interface Command {
  /** As yargs wants it: `show <id>`. */
  readonly usage: string;
  readonly describe: string;
  readonly positionals?: Readonly<Record<string, PositionalOptions>>;
  readonly options?: Readonly<Record<string, Options>>;
  readonly run: (args: Arguments, terminal: Terminal) => Promise<ExitCode>;
}

/** A text argument. @throws VirtioUserError CONFIG_INVALID when it is missing or not text */
export function textArgument(args: Arguments, name: string): string {
  const value = args[name];
  if (typeof value === 'string' && value !== '' && !value.includes('\0')) return value;
  throw new VirtioUserError('CONFIG_INVALID', `${name}: ${JSON.stringify(value)} is not a text`);
}

/** Declared to yargs as text, whose own numbers lose what was typed. @throws VirtioUserError CONFIG_INVALID */
export function integerArgument(args: Arguments, name: string, least: number, most: number): number {
  const text = String(args[name]);
  const value = /^\d{1,9}$/.test(text) ? Number(text) : NaN;
  if (value >= least && value <= most) return value;
  throw new VirtioUserError(
    'CONFIG_INVALID',
    `${name}: ${JSON.stringify(text)} is not an integer from ${least} to ${most}`,
  );
}

export function optionalText(args: Arguments, name: string): string | null {
  return args[name] === undefined ? null : textArgument(args, name);
}

/** What a command has to say: as JSON where `--output` asks for it, else for people. */
export function print(args: Arguments, terminal: Terminal, json: unknown, text: () => string): void {
  terminal.out(args['output'] === 'json' ? renderJson(json) : text());
}
