/** `gc`: the agent compares its records with reality now instead of within ten minutes. */
import { isJsonObject, type JsonObject } from '../json.ts';
import { AgentClient, runDirOf } from './agent-client.ts';
import { type Command, print } from './command.ts';
import { exitCode } from './exit-code.ts';
import { renderFields, renderJson } from './output.ts';

export const gcCommand: Command = {
  usage: 'gc',
  describe: 'let the agent remove what no pod uses any more',
  run: async (args, terminal) => {
    const done = await new AgentClient(runDirOf(args)).reconcile();
    print(args, terminal, done, () => (isJsonObject(done) ? renderFields(fieldsOf(done)) : renderJson(done)));
    return exitCode.ok;
  },
};

function fieldsOf(done: JsonObject): readonly (readonly [string, string | readonly string[]])[] {
  return Object.entries(done).map(([name, value]) => [name, Array.isArray(value) ? value.map(String) : String(value)]);
}
