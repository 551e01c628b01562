/** `features`: what a feature mask means, or which mask these names make. */
import {
  featureBits,
  featureName,
  featureTable,
  formatMask,
  hasFeature,
  localFeatures,
  parseFeatures,
  supportedFeatures,
} from '../virtio/feature.ts';
import { type Arguments, type Command, print } from './command.ts';
import { exitCode } from './exit-code.ts';
import { type Column, renderTable } from './output.ts';

interface FeatureRow {
  readonly bit: number;
  readonly name: string;
  /** We acknowledge it when it is offered. */
  readonly supported: boolean;
  /** The frontend serves it, whatever the backend offers. */
  readonly own: boolean;
  readonly room: string | null;
}

const columns: readonly Column<FeatureRow>[] = [
  { title: 'bit', value: ({ bit }) => String(bit), align: 'right' },
  { title: 'name', value: ({ name }) => name },
  { title: 'supported', value: ({ supported, own }) => (own ? 'own' : supported ? 'yes' : 'no') },
  { title: 'where', value: ({ room }) => room ?? '' },
];

export function featureRows(mask: bigint): readonly FeatureRow[] {
  const rooms = new Map(featureTable.map(({ bit, room }) => [bit, room]));
  return featureBits(mask).map((bit) => ({
    bit,
    name: featureName(bit),
    supported: hasFeature(supportedFeatures, bit),
    own: hasFeature(localFeatures, bit),
    room: rooms.get(bit) ?? null,
  }));
}

export const featuresCommand: Command = {
  usage: 'features <features..>',
  describe: 'virtio feature bits of a mask (0x…), or the mask of names',
  positionals: {
    features: { type: 'string', array: true, describe: 'a mask such as 0x130000000, names such as VERSION_1, or both' },
  },
  run: async (args, terminal) => {
    const mask = parseFeatures(joined(args));
    const rows = featureRows(mask);
    const shown = formatMask(mask);
    print(args, terminal, { mask: shown, features: rows }, () => `${shown}\n${renderTable(columns, rows)}`);
    return exitCode.ok;
  },
};

function joined(args: Arguments): string {
  const value = args['features'];
  return Array.isArray(value) ? value.map(String).join(',') : String(value);
}
