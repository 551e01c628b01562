/** `gc`: the agent compares its records with reality now instead of within ten minutes. */
import { AgentClient, runDirOf } from './agent-client.ts';
import { type Command, formatArgument } from './command.ts';
import { exitCode } from './exit-code.ts';
import { renderFields, renderJson } from './output.ts';

export const gcCommand: Command = {
  usage: 'gc',
  describe: 'let the agent remove what no pod uses any more',
  run: async (args, terminal) => {
    const done = await new AgentClient(runDirOf(args)).reconcile();
    if (formatArgument(args) === 'json' || typeof done !== 'object' || done === null) {
      terminal.out(renderJson(done));
      return exitCode.ok;
    }
    const fields = Object.entries(done).map(
      ([name, value]) => [name, Array.isArray(value) ? value.map(String) : String(value)] as const,
    );
    terminal.out(renderFields(fields));
    return exitCode.ok;
  },
};
