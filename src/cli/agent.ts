/** `agent`: the node agent itself. Its options live in `agent/options.ts`. */
import { resolveAgentOptions } from '../agent/options.ts';
import { agentFlags } from './agent-flags.ts';
import type { Command } from './command.ts';

export const agentCommand: Command = {
  usage: 'agent',
  describe: 'run the node agent',
  options: agentFlags,
  run: async (args) => {
    const options = resolveAgentOptions({ flags: args, environment: process.env });
    // Loaded here, so that no other command pays for the addon and the whole agent.
    const { runAgent } = await import('../agent/process.ts');
    return runAgent(options);
  },
};
