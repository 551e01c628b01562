/** Against a real ovsdb-server (package openvswitch-common) with the schema of Open vSwitch. */
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { OvsdbClient } from '../../../src/ovs/ovsdb.ts';
import { askPollingCores, pollingCoresOf } from '../../../src/ovs/polling-cores.ts';
import { OvsdbServer } from '../../support/ovsdb-server.ts';

describe('the cores that OVS polls', () => {
  const signal = new AbortController().signal;
  let server: OvsdbServer;
  let client: OvsdbClient;

  beforeAll(async () => {
    server = new OvsdbServer();
    await server.start();
    client = new OvsdbClient({ socketPath: server.socketPath, deadlineMs: 20_000 });
  });
  afterAll(async () => {
    client.close();
    await server.destroy();
  });

  it('are none before the switch has said anything', async () => {
    expect(await askPollingCores(client, signal)).toEqual([]);
  });

  it('are those of its mask, once DPDK runs', async () => {
    server.vsctl('init');
    server.vsctl('set', 'Open_vSwitch', '.', 'other_config:pmd-cpu-mask=0x16');
    expect(await askPollingCores(client, signal)).toEqual([]);
    server.vsctl('set', 'Open_vSwitch', '.', 'dpdk_initialized=true');
    expect(await askPollingCores(client, signal)).toEqual([1, 2, 4]);
  });

  it.each([
    ['6', [1, 2]],
    ['0XA', [1, 3]],
    [`1${'0'.repeat(32)}`, [128]],
    ['', []],
    ['0', []],
    ['0x', []],
    // OVS warns of these, and takes what is no digit for 0.
    ['1,2', [1, 8]],
    ['0x-1', [0]],
    [`${'f'.repeat(5000)}${'0'.repeat(2047)}`, [8188, 8189, 8190, 8191]],
  ])('of the mask %.40j are %j', (mask, cores) => {
    const row = { dpdk_initialized: true, other_config: ['map', [['pmd-cpu-mask', mask]]] };
    expect(pollingCoresOf({ rows: [row] })).toEqual(cores);
  });

  it('cannot be told without a database', async () => {
    const nobody = new OvsdbClient({ socketPath: '/nonexistent/db.sock' });
    await expect(askPollingCores(nobody, signal)).rejects.toMatchObject({ code: 'OVS_UNAVAILABLE' });
    nobody.close();
  });
});
