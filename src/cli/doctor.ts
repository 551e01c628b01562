/** `doctor`: what on this node would keep pods from their virtio-user device, and what mends it. */
import { type AgentOptions, resolveAgentOptions } from '../agent/options.ts';
import { agentFlags } from './agent-flags.ts';
import { type Command, print } from './command.ts';
import { agentFindings } from './doctor/agent.ts';
import { cniFindings } from './doctor/cni.ts';
import type { Finding } from './doctor/finding.ts';
import { nodeFindings } from './doctor/node.ts';
import { ovsFindings } from './doctor/ovs.ts';
import { exitCode } from './exit-code.ts';
import { type Column, renderTable } from './output.ts';

const columns: readonly Column<Finding>[] = [
  { title: 'level', value: ({ level }) => level },
  { title: 'check', value: ({ check }) => check },
  { title: 'found', value: ({ detail }) => detail },
];

export const doctorCommand: Command = {
  usage: 'doctor',
  describe: 'what on this node would keep the agent from working, and the remedy',
  options: agentFlags,
  run: async (args, terminal) => {
    const options = resolveAgentOptions({ flags: args, environment: process.env });
    const findings = await examine(options);
    print(args, terminal, findings, () => renderFindings(findings));
    return findings.some(({ level }) => level === 'fail') ? exitCode.unhealthy : exitCode.ok;
  },
};

async function examine(options: AgentOptions): Promise<readonly Finding[]> {
  const [node, cni, ovs, agent] = await Promise.all([
    nodeFindings(options),
    cniFindings(options.cniBinDir, options.cniConfDir),
    ovsFindings(options.ovsdb),
    agentFindings(options),
  ]);
  return [...node, ...cni, ...ovs, ...agent];
}

/** The table, then one remedy per line for what needs one. */
export function renderFindings(findings: readonly Finding[]): string {
  const remedies = findings.flatMap(({ check, remedy }) => (remedy === null ? [] : [`  ${check}: ${remedy}\n`]));
  return renderTable(columns, findings) + (remedies.length === 0 ? '' : `\nremedies:\n${remedies.join('')}`);
}
