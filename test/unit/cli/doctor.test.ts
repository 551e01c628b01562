import { chmodSync, mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { renderFindings } from '../../../src/cli/doctor.ts';
import { cniFindings } from '../../../src/cli/doctor/cni.ts';
import { fail, type Finding, ok } from '../../../src/cli/doctor/finding.ts';
import { hugepages, kernel, openFiles, rights, writable } from '../../../src/cli/doctor/node.ts';
import { dpdkFindings } from '../../../src/cli/doctor/ovs.ts';

const levels = (findings: readonly Finding[]): string[] => findings.map(({ check, level }) => `${check}: ${level}`);

describe('doctor about the node', () => {
  it.each([
    ['5.5.19-generic', 'fail'],
    ['4.18.0-553.el8', 'fail'],
    ['unknown', 'fail'],
    ['5.6.0', 'ok'],
    ['6.1.0-18-amd64', 'ok'],
  ])('kernel %s: %s', (release, level) => {
    expect(kernel(release).level).toBe(level);
  });

  it.each([
    ['0', '000001ffffffffff', 'ok', 'root'],
    ['0', '0000000000201000', 'ok', 'root'],
    ['0', '0000000000001000', 'fail', 'CAP_SYS_ADMIN'],
    ['0', '0000000000000000', 'fail', 'CAP_NET_ADMIN, CAP_SYS_ADMIN'],
    ['1000', '000001ffffffffff', 'fail', '1000'],
  ])('user %s with capabilities %s: %s', (uid, mask, level, detail) => {
    const finding = rights(`Name:\tnode\nUid:\t1000\t${uid}\t0\t0\nCapEff:\t${mask}\n`);
    expect(finding.level).toBe(level);
    expect(finding.detail).toContain(detail);
  });

  it('few open files cost something; unlimited is fine', () => {
    expect([openFiles(1024), openFiles(8192), openFiles(null)].map(({ level }) => level)).toEqual(['warn', 'ok', 'ok']);
  });

  it('a directory below a file, even one that can be run, is a failure; one that can be made is none', () => {
    expect(writable('run directory', join(process.execPath, 'run'))).toMatchObject({
      level: 'fail',
      detail: expect.stringContaining('ENOTDIR'),
    });
    expect(writable('run directory', join(tmpdir(), 'vu-none/run')).level).toBe('ok');
  });

  it('hugepages are for the reader: pods do not need them', () => {
    const finding = hugepages('HugePages_Total:     512\nHugePages_Free:      100\nHugepagesize:       2048 kB\n');
    expect(finding).toMatchObject({ level: 'info', detail: expect.stringContaining('100 of 512 free, 2048 kB') });
  });
});

describe('doctor about Open vSwitch', () => {
  const row = (changes: object): Parameters<typeof dpdkFindings>[0] => ({
    rows: [{ ovs_version: '3.1.0', dpdk_initialized: true, other_config: ['map', []], ...changes }],
  });

  it('with DPDK, segmentation offload and cores of its own has nothing to say', () => {
    const config = [
      'map',
      [
        ['userspace-tso-enable', 'true'],
        ['pmd-cpu-mask', '0x6'],
      ],
    ];
    const findings = dpdkFindings(row({ other_config: config }), [0, 1, 2]);
    expect(levels(findings)).toEqual(['OVS-DPDK: ok', 'segmentation offload: ok', 'polling cores: ok']);
    expect(findings.at(-1)?.detail).toContain('1, 2');
  });

  it('warns of a mask that leaves the agent no core', () => {
    const config = ['map', [['pmd-cpu-mask', 'f']]];
    expect(dpdkFindings(row({ other_config: config }), [1, 2]).at(-1)).toMatchObject({
      level: 'warn',
      detail: expect.stringContaining('0, 1, 2, 3'),
    });
  });

  it('tells what would be faster: segmentation offload, and polling cores that the agent knows', () => {
    expect(levels(dpdkFindings(row({}), [0, 1]))).toEqual([
      'OVS-DPDK: ok',
      'segmentation offload: info',
      'polling cores: info',
    ]);
  });

  it('without DPDK tells how to switch it on, or where to look when it is on', () => {
    expect(dpdkFindings(row({ dpdk_initialized: false }), [0])[0]).toMatchObject({
      level: 'fail',
      remedy: expect.stringContaining('dpdk-init=true'),
    });
    const wanted = row({ dpdk_initialized: false, other_config: ['map', [['dpdk-init', 'true']]] });
    expect(dpdkFindings(wanted, [0])[0]).toMatchObject({
      level: 'fail',
      remedy: expect.stringContaining('log of ovs-vswitchd'),
    });
  });

  it.each([[undefined], [{ rows: [] }]])('an empty database is a failure: %j', (result) => {
    expect(levels(dpdkFindings(result, [0]))).toEqual(['OVS-DPDK: fail']);
  });
});

describe('doctor about CNI', () => {
  let directory: string;
  let binDir: string;
  let confDir: string;

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'vu-doctor-'));
    binDir = join(directory, 'bin');
    confDir = join(directory, 'net.d');
    mkdirSync(binDir);
    mkdirSync(confDir);
  });
  afterEach(() => rmSync(directory, { recursive: true }));

  function plugin(name: string, interpreter = '/bin/sh'): void {
    writeFileSync(join(binDir, name), `#!${interpreter}\ncat >/dev/null\necho '{"supportedVersions":["1.0.0"]}'\n`);
    chmodSync(join(binDir, name), 0o755);
  }

  it('a node with everything is well', async () => {
    plugin('virtio-user');
    plugin('host-local');
    writeFileSync(join(confDir, '10-vu.conflist'), '{"plugins":[{"type": "virtio-user"}]}');
    const findings = await cniFindings(binDir, confDir);
    expect(levels(findings)).toEqual(['CNI executable: ok', 'IPAM plugins: ok', 'network configuration: info']);
    expect(findings[2]?.detail).toContain('the runtime takes it');
  });

  it('an empty node lacks the executable and IPAM plugins', async () => {
    const findings = await cniFindings(binDir, join(directory, 'missing'));
    expect(levels(findings)).toEqual(['CNI executable: fail', 'IPAM plugins: warn', 'network configuration: info']);
    expect(findings[0]?.remedy).toBe('virtio-user-cni install');
  });

  it('an IPAM plugin whose interpreter is missing is there and does not run', async () => {
    plugin('virtio-user');
    plugin('host-local', '/lib64/ld-nowhere.so.2');
    const [, ipam] = await cniFindings(binDir, confDir);
    expect(ipam).toMatchObject({ level: 'fail', remedy: expect.stringContaining('static builds') });
  });

  it('a directory that is none, or cannot be read, is a finding of its own, and the others are made', async () => {
    const file = join(directory, 'file');
    writeFileSync(file, '');
    const findings = await cniFindings(file, file);
    expect(levels(findings)).toEqual(['CNI executable: fail', 'IPAM plugins: fail', 'network configuration: fail']);
    expect(findings.map(({ detail }) => detail)).toEqual([
      expect.stringContaining(`run ${file}/virtio-user`),
      expect.stringContaining(`ENOTDIR: not a directory, scandir '${file}'`),
      expect.stringContaining(`ENOTDIR: not a directory, scandir '${file}'`),
    ]);
    expect(findings.map(({ remedy }) => remedy)).toEqual([
      'virtio-user-cni install',
      'make it a directory that root may read, or name another with --cni-bin-dir',
      'make it a directory that root may read, or name another with --cni-conf-dir',
    ]);
  });

  it('a configuration that cannot be read is named, since it may be the one that the runtime takes', async () => {
    mkdirSync(join(confDir, '05-directory.conf'));
    writeFileSync(join(confDir, '10-vu.conf'), '{"type":"virtio-user"}');
    const [, , configuration] = await cniFindings(binDir, confDir);
    expect(configuration).toMatchObject({
      level: 'warn',
      detail: expect.stringContaining('05-directory.conf: EISDIR'),
    });
  });

  it('another configuration that sorts first is named', async () => {
    writeFileSync(join(confDir, '05-other.conf'), '{"type":"bridge"}');
    writeFileSync(join(confDir, '10-vu.conf'), '{"type":"virtio-user"}');
    const [, , configuration] = await cniFindings(binDir, confDir);
    expect(configuration?.detail).toContain('the runtime takes 05-other.conf before it');
  });
});

describe("doctor's table", () => {
  it('lists findings, then the remedies', () => {
    expect(renderFindings([ok('kernel', '6.1'), fail('rights', 'user 1000', 'run as root')])).toBe(
      [
        'LEVEL  CHECK   FOUND',
        'ok     kernel  6.1',
        'fail   rights  user 1000',
        '',
        'remedies:',
        '  rights: run as root',
        '',
      ].join('\n'),
    );
  });

  it('says nothing about remedies when none is needed', () => {
    expect(renderFindings([ok('kernel', '6.1')])).not.toContain('remed');
  });
});
