/** The node that is measured: OVS-DPDK with one bridge, and the agent beside it. */
import { join } from 'node:path';
import { Agent } from '../support/agent.ts';
import type { Cleanup } from '../support/cleanup.ts';
import { Ovs } from '../support/ovs.ts';

export const bridge = 'br-vu-bench';

export async function startNode(
  directory: string,
  tso: boolean,
  cleanup: Cleanup,
): Promise<{ readonly ovs: Ovs; readonly agent: Agent }> {
  const ovs = await Ovs.start(join(directory, 'ovs'), { tso, memoryMiB: 512 }, cleanup);
  await ovs.addBridge(bridge);
  const agent = await Agent.start(join(directory, 'agent'), { ovsdb: ovs.databaseRemote }, cleanup);
  return { ovs, agent };
}
