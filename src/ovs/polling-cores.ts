/**
 * The cores that OVS-DPDK polls: `other_config:pmd-cpu-mask` of the table Open_vSwitch, a hexadecimal mask of cores
 * (ovs-vswitchd.conf.db(5)). Without one OVS takes a core of each NUMA node and does not tell the database which.
 */
import { VirtioUserError } from '../errors.ts';
import { type OvsdbClient, type OvsdbOperation, type OvsdbResult, readMap } from './ovsdb.ts';

/** The most that Linux can be built for. */
const mostCores = 8192;

/** The row that {@link pollingCoresOf} reads. */
export const switchRow: OvsdbOperation = {
  op: 'select',
  table: 'Open_vSwitch',
  where: [],
  columns: ['other_config', 'dpdk_initialized', 'ovs_version'],
};

/** Ascending; none: OVS runs without DPDK, or does not say. */
export function pollingCoresOf(answer: OvsdbResult | undefined): readonly number[] {
  const row = answer?.rows?.[0];
  if (row?.['dpdk_initialized'] !== true) return [];
  return coresOfMask(readMap(row['other_config'])['pmd-cpu-mask'] ?? '');
}

/** @throws VirtioUserError OVS_UNAVAILABLE, OVS_REFUSED, TIMEOUT, CANCELLED */
export async function askPollingCores(client: OvsdbClient, signal: AbortSignal): Promise<readonly number[]> {
  const outcome = await client.transact([switchRow], signal);
  if (outcome.kind === 'committed') return pollingCoresOf(outcome.results[0]);
  throw new VirtioUserError('OVS_REFUSED', `ask for pmd-cpu-mask: ${outcome.error}: ${outcome.details}`);
}

/** As `ovs_numa_dump_cores_with_cmask` of OVS reads it: what is no hexadecimal digit counts as 0. */
function coresOfMask(mask: string): readonly number[] {
  const digits = mask
    .replace(/^0x(?=.)/i, '')
    .slice(-mostCores / 4)
    .replace(/[^0-9a-f]/gi, '0');
  const bits = BigInt(`0x0${digits}`);
  return Array.from({ length: digits.length * 4 }, (_, core) => core).filter((core) => (bits >> BigInt(core)) & 1n);
}
