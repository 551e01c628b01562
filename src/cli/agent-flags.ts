/** The agent's options as flags, for `agent` and for `doctor`, which looks at the same places. */
import type { Options } from 'yargs';
import { agentOptionHelp } from '../agent/options.ts';

export const agentFlags: Readonly<Record<string, Options>> = Object.fromEntries<Options>([
  ['config', { type: 'string', describe: 'YAML file with these options (environment: VIRTIO_USER_CONFIG)' }],
  ...agentOptionHelp.map(({ flag, environment, describe, defaultText }): [string, Options] => [
    flag,
    { type: 'string', describe: `${describe} (${defaultText}; environment: ${environment})` },
  ]),
]);
