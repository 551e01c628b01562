/** The command line: yargs in front of the commands, errors to stderr, exit codes of `exit-code.ts`. */
import yargs, { type Argv } from 'yargs';
import { defaultRunDir } from '../agent/options.ts';
import { version } from '../agent/version.ts';
import { type ErrorCode, messageOf, VirtioUserError } from '../errors.ts';
import { agentCommand } from './agent.ts';
import { listCommand, reconnectCommand, setQueuesCommand, showCommand } from './attachments.ts';
import { probeCommand } from './backend-probe.ts';
import type { Arguments, Command, Terminal } from './command.ts';
import { doctorCommand } from './doctor.ts';
import { type ExitCode, exitCode } from './exit-code.ts';
import { featuresCommand } from './features.ts';
import { gcCommand } from './gc.ts';
import { installCommand, uninstallCommand } from './install.ts';

const topLevel: readonly Command[] = [
  agentCommand,
  featuresCommand,
  doctorCommand,
  gcCommand,
  installCommand,
  uninstallCommand,
];
const groups: readonly { readonly name: string; readonly describe: string; readonly commands: readonly Command[] }[] = [
  {
    name: 'attachments',
    describe: 'pod interfaces of this node',
    commands: [listCommand, showCommand, reconnectCommand, setQueuesCommand],
  },
  { name: 'backend', describe: 'vhost backends', commands: [probeCommand] },
];

/** Runs one command line and sets the exit code; the process ends when nothing is left to do. */
export async function runProcess(argv: readonly string[]): Promise<void> {
  // A reader that went away (`… | head`) is no failure.
  process.stdout.on('error', () => process.exit(exitCode.ok));
  process.exitCode = await runCommandLine(argv, {
    out: (text) => void process.stdout.write(text),
    err: (text) => void process.stderr.write(text),
  });
}

export async function runCommandLine(argv: readonly string[], terminal: Terminal): Promise<ExitCode> {
  let result: ExitCode = exitCode.ok;
  const register = (parser: Argv, command: Command): Argv =>
    parser.command(
      command.usage,
      command.describe,
      (inner) => {
        for (const [name, options] of Object.entries(command.positionals ?? {})) inner.positional(name, options);
        return inner.options(command.options ?? {});
      },
      async (args) => {
        result = await command.run(lastOfRepeated(args, command), terminal);
      },
    );

  let parser: Argv = yargs()
    .scriptName('virtio-user-cni')
    .usage('$0 <command>')
    .options({
      output: {
        alias: 'o',
        choices: ['table', 'json'],
        default: 'table',
        describe: 'form of the output',
        global: true,
      },
      'run-dir': { type: 'string', describe: `run directory of the agent (${defaultRunDir})`, global: true },
    })
    .parserConfiguration({ 'parse-positional-numbers': false, 'parse-numbers': false })
    .version(version)
    .help()
    .alias('help', 'h')
    .strict()
    .demandCommand(1, 'a command is missing')
    .recommendCommands()
    .epilogue(
      'exit codes: 0 done, 1 failed, 2 wrong usage or option, 3 no agent answers, 4 doctor found a failure, ' +
        '5 no such attachment, 70 unforeseen error',
    )
    .exitProcess(false)
    .wrap(100)
    .fail((message, error: unknown) => {
      // Whatever is thrown here ends parsing before a command runs.
      if (error instanceof Error) throw error;
      const said = message.replace(
        /^Not enough non-option arguments: got (\d+), need at least /,
        'an argument is missing: got $1, need ',
      );
      throw new VirtioUserError('CONFIG_INVALID', said, { remedy: helpFor(argv) });
    });
  for (const command of topLevel) parser = register(parser, command);
  for (const { name, describe, commands } of groups) {
    parser = parser.command(name, describe, (inner) =>
      commands.reduce(register, inner).demandCommand(1, `a command after "${name}" is missing`),
    );
  }

  try {
    await parser.parseAsync([...argv], {}, (_error: unknown, _args: unknown, output: string) => {
      if (output !== '') terminal.out(`${output}\n`);
    });
  } catch (error) {
    return report(error, terminal);
  }
  return result;
}

/** The help of the command that was meant, as far as it can be told. */
function helpFor([first, second]: readonly string[]): string {
  const nameOf = ({ usage }: Command): string => usage.split(' ')[0] ?? '';
  const group = groups.find(({ name }) => name === first);
  const command = (group?.commands ?? topLevel)
    .map(nameOf)
    .find((name) => name === (group === undefined ? first : second));
  return ['virtio-user-cni', group?.name, command, '--help'].filter((word) => word !== undefined).join(' ');
}

/** An option given twice counts as given last, as in most tools. Lists are positionals. */
function lastOfRepeated(args: Arguments, command: Command): Arguments {
  return Object.fromEntries(
    Object.entries(args).map(([name, value]) => {
      const isList = name === '_' || command.positionals?.[name] !== undefined;
      return [name, Array.isArray(value) && !isList ? (value as readonly unknown[]).at(-1) : value];
    }),
  );
}

const codeFor: Partial<Record<ErrorCode, ExitCode>> = {
  CONFIG_INVALID: exitCode.usage,
  CONFIG_UNSUPPORTED: exitCode.usage,
  AGENT_NOT_READY: exitCode.agentUnreachable,
  ATTACHMENT_UNKNOWN: exitCode.notFound,
};

function report(error: unknown, terminal: Terminal): ExitCode {
  if (!(error instanceof VirtioUserError)) {
    const stack =
      typeof error === 'object' && error !== null && 'stack' in error ? String(error.stack) : messageOf(error);
    terminal.err(`error: ${stack}\n`);
    return exitCode.crash;
  }
  terminal.err(`error: ${error.message} (${error.code})\n`);
  if (error.remedy !== null) terminal.err(`remedy: ${error.remedy}\n`);
  return codeFor[error.code] ?? exitCode.failure;
}
