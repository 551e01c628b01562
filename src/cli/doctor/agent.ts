/** The running agent and the addon. */
import type { AgentOptions } from '../../agent/options.ts';
import { requestOverHttp } from '../../agent/http-client.ts';
import { messageOf } from '../../errors.ts';
import { AgentClient } from '../agent-client.ts';
import { attempt, fail, type Finding, info, ok, warn } from './finding.ts';

export async function agentFindings(options: AgentOptions): Promise<readonly Finding[]> {
  return [await addon(), await readiness(options), await attachments(options)];
}

/** Makes what every attachment needs: a sealed memfd with mapped rings, and eventfds. */
function addon(): Promise<Finding> {
  const remedy = 'npm run build; in a container: allow memfd_create and eventfd2 in the seccomp profile';
  return attempt('native addon', remedy, async () => {
    const { loadNative } = await import('../../native/load.ts');
    const binding = loadNative();
    try {
      const versionOne = 1n << 32n;
      const options = { pairs: 1, queueSize: 64, rxBufferBytes: 2048, features: versionOne, memory: 'memfd' } as const;
      binding.createSession(options).close();
      return ok('native addon', 'loads, and makes sealed shared memory');
    } finally {
      binding.shutdown();
    }
  });
}

async function readiness({ metricsAddress }: AgentOptions): Promise<Finding> {
  const where = `${metricsAddress.host} port ${metricsAddress.port}`;
  try {
    const answer = await requestOverHttp(metricsAddress, '/readyz?verbose');
    if (answer.status === 200) return ok('agent', `ready on ${where}`);
    const failing = answer.body.split('\n').filter((line) => line.startsWith('[-]'));
    return fail('agent', `not ready: ${failing.join('; ')}`, 'wait for it, or read its log');
  } catch (error) {
    return warn('agent', messageOf(error), 'start it: virtio-user-cni agent');
  }
}

async function attachments({ runDir }: AgentOptions): Promise<Finding> {
  try {
    const all = await new AgentClient(runDir).attachments();
    const idle = all.filter(({ state }) => state !== 'running');
    if (idle.length === 0) return ok('attachments', `${all.length}, all running`);
    const first = idle[0];
    const detail = `${idle.length} of ${all.length} do not run: ${String(first?.id)} ${String(first?.state)} (${first?.reason ?? 'no reason'})`;
    return warn('attachments', detail, 'virtio-user-cni attachments list; start or mend the switch');
  } catch (error) {
    return info('attachments', messageOf(error));
  }
}
