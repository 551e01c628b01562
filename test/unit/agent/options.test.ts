import { readFileSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';
import {
  agentOptionHelp,
  type AgentOptions,
  type OptionSources,
  resolveAgentOptions,
  resolveRunDir,
} from '../../../src/agent/options.ts';
import { version } from '../../../src/agent/version.ts';

function resolve(sources: Partial<OptionSources> & { readonly yaml?: string } = {}): AgentOptions {
  const flags = sources.yaml === undefined ? sources.flags : { config: '/etc/agent.yaml', ...sources.flags };
  return resolveAgentOptions({
    flags: { 'node-name': 'node-1', ...flags },
    environment: sources.environment ?? {},
    readFile: () => sources.yaml ?? '',
  });
}

describe('options of the agent', () => {
  it('have the defaults of the contract', () => {
    expect(resolve()).toEqual({
      socket: '/run/virtio-user/agent.sock',
      stateDir: '/var/lib/virtio-user',
      runDir: '/run/virtio-user',
      cniBinDir: '/opt/cni/bin',
      cniConfDir: '/etc/cni/net.d',
      conf: null,
      metricsAddress: { host: '127.0.0.1', port: 9473 },
      logLevel: 'info',
      kubernetes: 'auto',
      nodeName: 'node-1',
      ovsdb: 'unix:/run/openvswitch/db.sock',
      backendDirs: ['/run/virtio-user/vhost', '/run/openvswitch'],
      deviceInfoDir: '/var/run/k8s.cni.cncf.io/devinfo/cni',
      vhostGroup: null,
      pumpThreads: 1,
      pollingCores: 'ovs',
      spinUs: 50,
      holdMs: 1000,
      softwareOffloads: true,
    });
  });

  it('a flag wins over the environment, the environment over the file, the file over the default', () => {
    const yaml = 'hold-ms: 3\nspin-us: 3\npump-threads: 3\n';
    const environment = { VIRTIO_USER_HOLD_MS: '2', VIRTIO_USER_SPIN_US: '2' };
    const { holdMs, spinUs, pumpThreads, logLevel } = resolve({ yaml, environment, flags: { 'hold-ms': '1' } });
    expect([holdMs, spinUs, pumpThreads, logLevel]).toEqual([1, 2, 3, 'info']);
  });

  it('the file may be named by the environment', () => {
    const { holdMs } = resolveAgentOptions({
      flags: { 'node-name': 'n' },
      environment: { VIRTIO_USER_CONFIG: '/x.yaml' },
      readFile: (path) => (path === '/x.yaml' ? 'hold-ms: 7' : ''),
    });
    expect(holdMs).toBe(7);
  });

  it('sockets follow the run directory unless they are named', () => {
    expect(resolve({ flags: { 'run-dir': '/run/other/' } })).toMatchObject({
      socket: '/run/other/agent.sock',
      backendDirs: ['/run/other/vhost', '/run/openvswitch'],
    });
    expect(resolve({ flags: { 'run-dir': '/run/other', socket: '/run/a.sock' } }).socket).toBe('/run/a.sock');
  });

  it.each<[string, Pick<OptionSources, 'flags' | 'environment'>]>([
    ['/run/flag', { flags: { 'run-dir': '/run/flag' }, environment: { VIRTIO_USER_RUN_DIR: '/run/variable' } }],
    ['/run/variable', { flags: {}, environment: { VIRTIO_USER_RUN_DIR: '/run/variable', VIRTIO_USER_CONFIG: '/x' } }],
    ['/run/file', { flags: {}, environment: { VIRTIO_USER_CONFIG: '/x' } }],
    ['/run/virtio-user', { flags: {}, environment: {} }],
  ])('the run directory %s alone is found as with all the others', (found, sources) => {
    const readFile = (): string => 'run-dir: /run/file';
    expect(resolveRunDir({ ...sources, readFile })).toBe(found);
    const flags = { 'node-name': 'n', ...sources.flags };
    expect(resolveAgentOptions({ ...sources, flags, readFile }).runDir).toBe(found);
  });

  it('lists come comma-separated or as a list of the file', () => {
    expect(resolve({ flags: { 'backend-dirs': '/a,/b/,/a' } }).backendDirs).toEqual(['/a', '/b']);
    expect(resolve({ yaml: 'backend-dirs: [/a, /b]' }).backendDirs).toEqual(['/a', '/b']);
  });

  it.each([
    ['ovs', 'ovs'],
    ['none', []],
    ['7', [7]],
    ['5,1-3,2', [1, 2, 3, 5]],
  ])('polling cores given as %j are %j', (raw, cores) => {
    expect(resolve({ flags: { 'polling-cores': raw } }).pollingCores).toEqual(cores);
  });

  it('polling cores may be a list or a number in the file', () => {
    expect(resolve({ yaml: 'polling-cores: [4, 1-2]' }).pollingCores).toEqual([1, 2, 4]);
    expect(resolve({ yaml: 'polling-cores: 3' }).pollingCores).toEqual([3]);
  });

  it.each(['true', '', true])('software offloads given as %j are on', (raw) => {
    expect(resolve({ flags: { 'software-offloads': raw } }).softwareOffloads).toBe(true);
  });

  it.each(['false', false])('software offloads given as %j are off', (raw) => {
    expect(resolve({ flags: { 'software-offloads': raw } }).softwareOffloads).toBe(false);
  });

  it('an IPv6 address of the metrics is written in brackets', () => {
    expect(resolve({ flags: { 'metrics-address': '[::1]:80' } }).metricsAddress).toEqual({ host: '::1', port: 80 });
  });

  it.each([
    ['socket', 'agent.sock', 'an absolute path'],
    ['socket', `/${'a'.repeat(107)}`, 'at most 107 bytes'],
    ['state-dir', '/var/../etc', 'without ".."'],
    ['run-dir', `/${'r'.repeat(90)}`, 'at most'],
    ['cni-bin-dir', '', 'an absolute path'],
    ['conf', '10-vu.conflist', 'an absolute path'],
    ['conf', '/etc/10-vu.txt', '.conf, .conflist or .json'],
    ['metrics-address', '9473', 'ADDRESS:PORT'],
    ['metrics-address', 'localhost:9473', 'ADDRESS:PORT'],
    ['metrics-address', '127.0.0.1:70000', 'ADDRESS:PORT'],
    ['log-level', 'verbose', 'debug, info, warn'],
    ['kubernetes', 'yes', 'auto, on, off'],
    ['node-name', 'Node_1', 'Kubernetes node name'],
    ['ovsdb', 'tcp:127.0.0.1:6640', 'unix:PATH'],
    ['ovsdb', 'unix:db.sock', 'absolute'],
    ['backend-dirs', 'vhost', 'absolute paths'],
    ['vhost-group', 'a group', 'group'],
    ['pump-threads', '0', 'from 1 to 64'],
    ['pump-threads', '1.5', 'from 1 to 64'],
    ['pump-threads', '0x2', 'from 1 to 64'],
    ['polling-cores', 'auto', 'ovs, none, or cores such as 1,3-5'],
    ['polling-cores', '', 'such as 1,3-5'],
    ['polling-cores', '3-1', 'such as 1,3-5'],
    ['polling-cores', '1,,2', 'such as 1,3-5'],
    ['polling-cores', '0x2', 'such as 1,3-5'],
    ['spin-us', '-1', 'from 0 to 1000'],
    ['hold-ms', '99999999999', 'from 0 to 3600000'],
    ['software-offloads', 'maybe', 'true or false'],
  ])('--%s=%s is refused, naming option, value and what is accepted', (flag, value, accepted) => {
    const attempt = (): unknown => resolve({ flags: { [flag]: value } });
    expect(attempt).toThrow(`--${flag}: ${JSON.stringify(value)} is not`);
    expect(attempt).toThrow(accepted);
  });

  it('a bad value names where it came from', () => {
    expect(() => resolve({ environment: { VIRTIO_USER_SPIN_US: 'x' } })).toThrow('VIRTIO_USER_SPIN_US: "x" is not');
    expect(() => resolve({ yaml: 'spin-us: [1]' })).toThrow('/etc/agent.yaml: spin-us: [1] is not');
  });

  it.each(['[1, 2]', 'just text', 'a: b: c', 'spinUs: 1'])('the file %j is refused', (yaml) => {
    expect(() => resolve({ yaml })).toThrow('--config /etc/agent.yaml');
  });

  it('a file that is missing is an error, not a default', () => {
    expect(() => resolveAgentOptions({ flags: { config: '/nonexistent/a.yaml' }, environment: {} })).toThrow('ENOENT');
  });

  it.each(['on', 'off', 'auto'])('--kubernetes=%s is accepted', (kubernetes) => {
    expect(resolve({ flags: { kubernetes } }).kubernetes).toBe(kubernetes);
  });

  it('each has a flag, a variable and a line of help', () => {
    expect(agentOptionHelp.map(({ flag }) => flag).sort()).toEqual(
      'backend-dirs cni-bin-dir cni-conf-dir conf device-info-dir hold-ms kubernetes log-level metrics-address node-name ovsdb polling-cores pump-threads run-dir socket software-offloads spin-us state-dir vhost-group'.split(
        ' ',
      ),
    );
    for (const { flag, environment, describe: text } of agentOptionHelp) {
      expect(environment).toBe(`VIRTIO_USER_${flag.toUpperCase().replaceAll('-', '_')}`);
      expect(text.length).toBeGreaterThan(10);
    }
  });
});

describe('version', () => {
  it('is that of package.json', () => {
    const manifest: unknown = JSON.parse(readFileSync(new URL('../../../package.json', import.meta.url), 'utf8'));
    expect(manifest).toMatchObject({ version });
  });
});
