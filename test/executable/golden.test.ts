/** What the executable says by itself, byte for byte but for white space: no agent is asked. */
import { describe, expect, it } from '@jest/globals';
import { supportedVersions } from '../../src/cni/netconf-schema.ts';
import { golden } from '../support/golden.ts';
import { callEnvironment, type Environment, Place } from './support/call.ts';

async function answerTo(env: Environment, cniVersion: string): Promise<unknown> {
  await using place = await Place.make();
  const { stdout, stderr } = await place.call(env, JSON.stringify({ cniVersion, name: 'n', type: 'virtio-user' }));
  expect(stderr).toBe('');
  return JSON.parse(stdout);
}

describe.each(supportedVersions)('in version %s', (version) => {
  it('VERSION is what the golden file says', async () => {
    const answer = await answerTo({ CNI_COMMAND: 'VERSION' }, version);
    expect(answer).toEqual(golden(`version/${version}`, answer));
  });

  it.each<readonly [string, Environment]>([
    ['unknown-verb', { ...callEnvironment('ADD'), CNI_COMMAND: 'FROB' }],
    ['agent-away', { ...callEnvironment('CHECK'), VIRTIO_USER_AGENT_SOCKET: '/nonexistent/agent.sock' }],
  ])('the error %s is what the golden file says', async (name, env) => {
    const answer = await answerTo(env, version);
    expect(answer).toEqual(golden(`errors/executable-${name}-${version}`, answer));
  });
});
