/** The subnets of this node, from its Node object. Heavy: reached only through the `import()` in `network-conf.ts`. */
import { setTimeout as sleep } from 'node:timers/promises';
import { VirtioUserError } from '../errors.ts';
import { CoreV1Api } from '../kubernetes/client-node.ts';
import { apiFailure } from '../kubernetes/failure.ts';
import { PooledKubeConfig } from '../kubernetes/pooled-config.ts';
import type { Credentials } from './cluster.ts';
import { jittered } from './schedule.ts';

const retryEveryMs = 500;

export interface PodCidrsRequest {
  readonly credentials: Credentials;
  readonly nodeName: string;
  /** How long an API server that does not answer, and a node without a subnet, are asked again. */
  readonly waitMs: number;
}

/**
 * @returns none: the cluster gives its nodes no subnets, or has not done so in time
 * @throws VirtioUserError TIMEOUT: no answer in time; CONFIG_INVALID: an answer that waiting does not change
 */
export async function readPodCidrs({ credentials, nodeName, waitMs }: PodCidrsRequest): Promise<readonly string[]> {
  const config = new PooledKubeConfig();
  if (credentials.kind === 'kubeconfig') config.loadFromFile(credentials.path);
  else config.loadFromCluster();
  const nodes = config.makeApiClient(CoreV1Api);
  const deadlineMs = performance.now() + waitMs;
  try {
    for (;;) {
      let failure: VirtioUserError | null = null;
      try {
        const { spec } = await nodes.readNode({ name: nodeName });
        const cidrs = spec?.podCIDRs ?? [];
        if (cidrs.length > 0) return cidrs;
      } catch (error) {
        const { status, reason, retryable } = apiFailure(error);
        // Also forbidden for a while, by an API server that has just started; in the end it is the roles.
        failure = new VirtioUserError(
          retryable && status !== 403 ? 'TIMEOUT' : 'CONFIG_INVALID',
          `read node ${nodeName}: ${reason}`,
          {
            cause: error,
            ...(status === 403 ? { remedy: 'the service account must be allowed to get nodes: apply rbac.yaml' } : {}),
          },
        );
        if (!retryable) throw failure;
      }
      if (performance.now() >= deadlineMs) {
        if (failure !== null) throw failure;
        return [];
      }
      await sleep(Math.min(jittered(retryEveryMs), Math.max(0, deadlineMs - performance.now())));
    }
  } finally {
    await config.closeConnections();
  }
}
