/** Which cores the measured processes may use: what this process starts inherits its set. */
import { cpus } from 'node:os';
import { pollingCore } from '../support/ovs.ts';
import { run } from '../support/process.ts';

/**
 * `shared`: the kernel may run pods and agent on the polling thread's core, in its place, and does for a fifth of its time.
 * `own`: that thread alone has it, as on a node that is set up by the instructions of OVS-DPDK (isolcpus, or a static CPU
 * manager with reserved CPUs).
 */
export type Placement = 'own' | 'shared';

export async function place(placement: Placement): Promise<void> {
  const all = cpus().map((_, index) => index);
  const allowed = placement === 'own' ? all.filter((core) => core !== pollingCore) : all;
  await run('taskset', ['--all-tasks', '--cpu-list', '--pid', allowed.join(','), String(process.pid)]);
}
