/** Open vSwitch, where the node has one: reachable, with DPDK, with the offloads that pods profit from. */
import { allowedCores } from '../../agent/limits.ts';
import { messageOf } from '../../errors.ts';
import { OvsdbClient, type OvsdbResult, readMap } from '../../ovs/ovsdb.ts';
import { pollingCoresOf, switchRow } from '../../ovs/polling-cores.ts';
import { fail, type Finding, info, ok, warn } from './finding.ts';

const timeoutMs = 3_000;

/** @param remote `unix:PATH` */
export async function ovsFindings(remote: string): Promise<readonly Finding[]> {
  const client = new OvsdbClient({ socketPath: remote.replace(/^unix:/, ''), deadlineMs: timeoutMs });
  try {
    const outcome = await client.transact([switchRow], AbortSignal.timeout(timeoutMs));
    if (outcome.kind === 'refused')
      return [fail('OVSDB', `${outcome.error}: ${outcome.details}`, 'upgrade Open vSwitch')];
    return [ok('OVSDB', remote), ...dpdkFindings(outcome.results[0], allowedCores())];
  } catch (error) {
    // Without "ovs" in the network configuration nobody needs it: VPP, testpmd, ports made by hand.
    const remedy = 'start ovsdb-server or set --ovsdb, if network configurations have "ovs"';
    return [warn('OVSDB', messageOf(error), remedy)];
  } finally {
    client.close();
  }
}

/** @param cores what this process may use */
export function dpdkFindings(result: OvsdbResult | undefined, cores: readonly number[]): readonly Finding[] {
  const row = result?.rows?.[0];
  if (row === undefined) {
    return [fail('OVS-DPDK', 'the table Open_vSwitch is empty', 'start ovs-vswitchd, or run ovs-vsctl init')];
  }
  const config = readMap(row['other_config']);
  const version = typeof row['ovs_version'] === 'string' ? row['ovs_version'] : 'of unknown version';
  if (row['dpdk_initialized'] !== true) {
    const set = config['dpdk-init'];
    const remedy =
      set === undefined || set === 'false'
        ? 'ovs-vsctl set Open_vSwitch . other_config:dpdk-init=true, and restart ovs-vswitchd'
        : 'dpdk-init is set and DPDK did not start: the log of ovs-vswitchd says why (often: no free hugepages)';
    return [fail('OVS-DPDK', `Open vSwitch ${version} runs without DPDK`, remedy)];
  }
  return [
    ok('OVS-DPDK', `Open vSwitch ${version}, DPDK is initialised`),
    offload(config['userspace-tso-enable']),
    placement(pollingCoresOf(result), cores),
  ];
}

function placement(polling: readonly number[], cores: readonly number[]): Finding {
  const check = 'polling cores';
  if (polling.length === 0) {
    const advice = 'set other_config:pmd-cpu-mask, or --polling-cores, for the agent to keep off them';
    return info(check, `OVS says nothing of them: ${advice}`);
  }
  const listed = `${polling.join(', ')} (pmd-cpu-mask)`;
  return cores.every((core) => polling.includes(core))
    ? warn(check, `${listed}: all that there are here`, 'leave a core out of pmd-cpu-mask, or calls will be slow')
    : ok(check, `${listed}: while they are polled the agent keeps off them, unless --polling-cores says otherwise`);
}

function offload(setting: string | undefined): Finding {
  return setting === 'true'
    ? ok('segmentation offload', 'userspace-tso-enable=true')
    : info(
        'segmentation offload',
        'userspace-tso-enable is off: the agent segments in software; with it on, TCP between pods of one node is faster',
      );
}
