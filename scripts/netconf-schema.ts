/** Writes the JSON Schema of the network configuration to the file named on the command line. */
import { writeFileSync } from 'node:fs';
import { netconfJsonSchema } from '../src/cni/netconf-schema.ts';

const [, , target] = process.argv;
if (target === undefined) throw new Error('usage: netconf-schema.ts FILE');
writeFileSync(target, `${JSON.stringify(netconfJsonSchema(), null, 2)}\n`);
