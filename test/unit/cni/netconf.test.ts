import { describe, expect, it } from '@jest/globals';
import { attachmentId, derivedMac } from '../../../src/attachment/key.ts';
import type { AttachmentSpec } from '../../../src/attachment/spec.ts';
import { type CniEnvironment, parseEnvironment } from '../../../src/cni/environment.ts';
import type { Verb } from '../../../src/cni/frame.ts';
import { answerVersion, attachmentSpec, parseRawNetconf } from '../../../src/cni/netconf.ts';
import { supportedVersions } from '../../../src/cni/netconf-schema.ts';
import { VirtioUserError } from '../../../src/errors.ts';
import { recordedCall } from '../../support/recorded-call.ts';

const options = {
  nodeName: 'node-1',
  runDir: '/run/virtio-user',
  backendDirs: ['/run/virtio-user/vhost', '/run/openvswitch'],
  ovsSocketDir: '/run/openvswitch',
  deviceInfoDir: '/var/run/k8s.cni.cncf.io/devinfo/cni',
};
const environment: CniEnvironment = {
  containerId: 'c1',
  netnsPath: '/var/run/netns/n',
  ifName: 'eth0',
  args: 'IgnoreUnknown=1;K8S_POD_NAME=web-0;K8S_POD_NAMESPACE=shop;K8S_POD_UID=u-1',
  path: '/opt/cni/bin',
  netnsOverride: false,
};
const key = { networkName: 'net', containerId: 'c1', ifName: 'eth0' };
const id = attachmentId(key);

type Json = Readonly<Record<string, unknown>>;

function spec(netconf: Json = {}, changes: Partial<CniEnvironment> = {}): AttachmentSpec {
  const stdin = JSON.stringify({ cniVersion: '1.0.0', name: 'net', type: 'virtio-user', ...netconf });
  return attachmentSpec(parseRawNetconf(stdin, 'ADD'), { ...environment, ...changes }, options);
}

function failure(work: () => unknown): VirtioUserError {
  try {
    work();
  } catch (error) {
    if (error instanceof VirtioUserError) return error;
    throw error;
  }
  throw new Error('accepted');
}

describe('a network configuration', () => {
  it('with none of our keys gets every default', () => {
    expect(spec()).toEqual({
      key,
      netnsPath: '/var/run/netns/n',
      pod: { namespace: 'shop', name: 'web-0', uid: 'u-1' },
      cniArgs: environment.args,
      cniPath: '/opt/cni/bin',
      backend: {
        type: 'vhost-user',
        path: `/run/virtio-user/vhost/${id}.sock`,
        server: true,
        wait: 'optional',
        waitTimeoutMs: 5000,
      },
      device: {
        queues: 1,
        queueSize: 1024,
        cq: true,
        mac: derivedMac('node-1', key),
        mrgRxbuf: true,
        inOrder: true,
        packedVq: false,
        mtu: 1500,
        memory: 'memfd',
      },
      ovs: null,
      ipam: null,
      addresses: [],
      deviceInfoPath: null,
    });
  });

  it('as containerd sent it is taken, its IPAM configuration untouched', () => {
    const { env, stdin } = recordedCall('add');
    const call = parseEnvironment('ADD', new Map(Object.entries(env)));
    const recorded = attachmentSpec(parseRawNetconf(stdin, 'ADD'), call, options);
    expect(recorded.key).toEqual({ networkName: 'dpdk-net', containerId: env['CNI_CONTAINERID'], ifName: 'eth0' });
    expect(recorded.pod).toEqual({ namespace: 'w', name: 'life', uid: '57cd01b0-d0c6-4db7-adb7-a6af2e8b86b7' });
    expect(recorded.ipam).toEqual({ type: 'host-local', netconf: stdin });
  });

  it('with everything of ours set is taken as it is', () => {
    const device = {
      queues: 4,
      queueSize: 256,
      cq: true,
      mac: '02:00:00:00:00:01',
      mrgRxbuf: false,
      inOrder: false,
      packedVq: true,
      mtu: 9000,
      memory: 'thp',
    };
    const backend = {
      type: 'vhost-user',
      path: '/run/openvswitch/x',
      server: false,
      wait: 'required',
      waitTimeoutMs: 0,
    };
    const taken = spec({ backend, device, pod: { interface: 'netdev' } });
    expect(taken).toMatchObject({ backend, device });
    expect(spec({ ovs: { bridge: 'br-dpdk', vlan: 100 } }).ovs).toEqual({ bridge: 'br-dpdk', vlan: 100 });
    expect(spec({ ovs: { bridge: 'br-dpdk' } }).ovs).toEqual({ bridge: 'br-dpdk', vlan: null });
  });

  it('may hold top-level keys of others', () => {
    expect(
      spec({ deviceID: '0000:00:01.0', 'cni.dev/attachments': [], capabilities: { mac: true }, __proto__x: 1 }),
    ).toEqual(spec());
  });
});

describe('a mistake is answered with key, value and what is accepted', () => {
  const mistakes: readonly (readonly [Json, string])[] = [
    [{ device: { queueSize: 1000 } }, 'device.queueSize: 1000; accepted: a power of two from 64 to 4096'],
    [{ device: { queueSize: 32 } }, 'device.queueSize: 32; accepted: a power of two from 64 to 4096'],
    [{ device: { queueSize: '256' } }, 'device.queueSize: "256"; accepted: a power of two from 64 to 4096'],
    [{ device: { queues: 0 } }, 'device.queues: 0; accepted: an integer from 1 to 128'],
    [{ device: { queues: 129 } }, 'device.queues: 129; accepted: an integer from 1 to 128'],
    [{ device: { queues: 1.5 } }, 'device.queues: 1.5; accepted: an integer from 1 to 128'],
    [{ device: { queues: null } }, 'device.queues: null; accepted: an integer from 1 to 128'],
    [{ device: { mtu: 67 } }, 'device.mtu: 67; accepted: an integer from 68 to 65521'],
    [{ device: { mtu: 65522 } }, 'device.mtu: 65522; accepted: an integer from 68 to 65521'],
    [{ device: { cq: 'yes' } }, 'device.cq: "yes"; accepted: true or false'],
    [
      { device: { cq: false, queues: 2 } },
      'device.cq: false; accepted with several queues: true, since the control queue switches them',
    ],
    [{ device: { mac: '02-00' } }, 'device.mac: "02-00"; accepted: a MAC address such as "02:00:00:00:00:01"'],
    [{ device: { mac: '01:00:5e:00:00:01' } }, 'device.mac: "01:00:5e:00:00:01"; accepted: a unicast MAC address'],
    [
      { device: { mac: '00:00:00:00:00:00' } },
      'device.mac: "00:00:00:00:00:00"; accepted: a MAC address that is not zero',
    ],
    [{ device: { memory: 'shm' } }, 'device.memory: "shm"; accepted: "memfd", "hugetlb" or "thp"'],
    [{ device: { packedVq: 1 } }, 'device.packedVq: 1; accepted: true or false'],
    [
      { device: [] },
      'device: []; accepted: an object with the keys queues, queueSize, cq, mac, mrgRxbuf, inOrder, packedVq, mtu, memory',
    ],
    [{ ovs: null }, 'ovs: null; accepted: an object with the keys bridge, vlan'],
    [{ ovs: {} }, 'ovs.bridge: missing; accepted: the name of a bridge'],
    [{ ovs: { bridge: 'br 0' } }, 'ovs.bridge: "br 0"; accepted: the name of a bridge, at most 15 characters'],
    [{ ovs: { bridge: 'b', vlan: 0 } }, 'ovs.vlan: 0; accepted: an integer from 1 to 4094'],
    [{ ovs: { bridge: 'b', vlan: 4095 } }, 'ovs.vlan: 4095; accepted: an integer from 1 to 4094'],
    [
      { backend: { type: 'vhost-kernel' } },
      'backend.type: "vhost-kernel"; "vhost-kernel" is not in this version; accepted: "vhost-user"',
    ],
    [
      { backend: { type: 'vhost-vdpa' } },
      'backend.type: "vhost-vdpa"; "vhost-vdpa" is not in this version; accepted: "vhost-user"',
    ],
    [{ backend: { type: 'tcp' } }, 'backend.type: "tcp"; accepted: "vhost-user"'],
    [{ backend: { wait: 'maybe' } }, 'backend.wait: "maybe"; accepted: "optional" or "required"'],
    [{ backend: { waitTimeoutMs: 45_001 } }, 'backend.waitTimeoutMs: 45001; accepted: an integer from 0 to 45000'],
    [{ backend: { path: 'vhost.sock' } }, 'backend.path: "vhost.sock"; accepted: an absolute path'],
    [
      { pod: { interface: 'vhost-user' } },
      'pod.interface: "vhost-user"; "vhost-user" is not in this version; accepted: "netdev"',
    ],
    [
      { backend: { serve: true } },
      'backend.serve: true is of an unknown key; accepted: type, path, server, wait, waitTimeoutMs',
    ],
    [{ ovs: { bridge: 'b', tag: 7 } }, 'ovs.tag: 7 is of an unknown key; accepted: bridge, vlan'],
    [{ runtimeConfig: { mac: 'x' } }, 'runtimeConfig.mac: "x"; accepted: a MAC address such as "02:00:00:00:00:01"'],
    [{ args: { cni: { mac: 5 } } }, 'args.cni.mac: 5; accepted: a MAC address such as "02:00:00:00:00:01"'],
  ];
  it.each(mistakes)('%j', (netconf, message) => {
    expect(failure(() => spec(netconf))).toMatchObject({ code: 'CONFIG_UNSUPPORTED', message });
  });

  it('several are named together, at most three of them', () => {
    const { message, details } = failure(() => spec({ device: { queues: 0, mtu: 1, queueSize: 3, cq: 7 } }));
    expect(message.match(/device\.\w+: /g)).toHaveLength(3);
    expect(details).toEqual({ key: 'device.queues', faults: 4 });
  });

  it('a long key or value is cut', () => {
    const key = 'k'.repeat(100_000);
    expect(failure(() => spec({ device: { [key]: 1 } })).message.length).toBeLessThan(400);
    expect(failure(() => spec({ device: { mac: key } })).message).toMatch(/^device\.mac: "k{79}…; accepted: /);
  });

  it('a key that every object inherits is unknown like any other', () => {
    const stdin = '{"cniVersion":"1.0.0","name":"net","device":{"__proto__":{"queues":4}}}';
    expect(failure(() => attachmentSpec(parseRawNetconf(stdin, 'ADD'), environment, options)).code).toBe(
      'CONFIG_UNSUPPORTED',
    );
    expect(failure(() => spec({ device: { constructor: 1 } })).message).toContain('device.constructor: 1');
  });
});

describe('backend.path', () => {
  const at = (path: string, changes: Partial<CniEnvironment> = {}): string =>
    spec({ backend: { path } }, changes).backend.path;

  it('has its placeholders filled', () => {
    expect(at('/run/virtio-user/vhost/{podNamespace}/{podName}.{ifName}')).toBe(
      '/run/virtio-user/vhost/shop/web-0.eth0',
    );
    expect(at('/run/openvswitch/{id}-{containerID}')).toBe(`/run/openvswitch/${id}-c1`);
  });

  it.each([
    [
      '/run/openvswitch/{podname}',
      'placeholder {podname}; accepted: {id} {containerID} {ifName} {podName} {podNamespace} {deviceID}',
    ],
    ['/run/openvswitch/{constructor}', 'placeholder {constructor}'],
    ['/run/openvswitch/{}', 'placeholder {}'],
    ['/run/openvswitch/{id', 'paired braces'],
    ['/run/openvswitch/id}', 'paired braces'],
    ['/run/openvswitch/../virtio-user/x', '".."'],
    ['/run/openvswitch//x', '"//"'],
    ['/run/openvswitch/./x', 'accepted: an absolute path'],
    ['/run/openvswitch/x/', 'trailing'],
    ['/run/openvswitch/x\u0000y', 'control'],
    ['/run/openvswitch/x\ny', 'control'],
    ['/run/openvswitch', 'accepted: a path below /run/virtio-user/vhost, /run/openvswitch'],
    ['/run/openvswitch-other/x', 'accepted: a path below'],
    ['/etc/passwd', 'accepted: a path below'],
  ])('%j is refused', (path, text) => {
    expect(failure(() => at(path))).toMatchObject({
      code: 'CONFIG_UNSUPPORTED',
      message: expect.stringMatching(/^backend\.path: /),
      details: { key: 'backend.path' },
    });
    expect(failure(() => at(path)).message).toContain(text);
  });

  it('does not take a value that would leave its place, or none', () => {
    const path = '/run/openvswitch/{ifName}';
    for (const ifName of ['..', '.x', 'a b', ''])
      expect(failure(() => at(path, { ifName })).message).toContain('{ifName}');
    expect(failure(() => at('/run/openvswitch/{podName}', { args: '' })).message).toContain('{podName} is ""');
  });

  it('[4] may have 107 bytes, not 108', () => {
    const longest = `/run/openvswitch/${'ü'.repeat(45)}`;
    expect(Buffer.byteLength(longest)).toBe(107);
    expect(at(longest)).toBe(longest);
    expect(failure(() => at(`${longest}x`))).toMatchObject({
      code: 'SOCKET_PATH',
      message: expect.stringContaining('108 bytes'),
    });
  });

  it('is where OVS makes its socket when OVS is the server', () => {
    const ovs = { bridge: 'br-dpdk' };
    const own = `/run/openvswitch/${id}`;
    expect(spec({ ovs, backend: { server: false } }).backend.path).toBe(own);
    expect(spec({ ovs, backend: { server: false, path: '/run/openvswitch/{id}' } }).backend.path).toBe(own);
    expect(spec({ ovs }).backend.path).toBe(`/run/virtio-user/vhost/${id}.sock`);
    expect(failure(() => spec({ ovs, backend: { server: false, path: '/run/openvswitch/x' } }))).toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringContaining('/run/openvswitch/{id}'),
    });
  });

  it('may lie anywhere when the admin says so', () => {
    const raw = parseRawNetconf('{"cniVersion":"1.0.0","name":"net","backend":{"path":"/srv/x"}}', 'ADD');
    expect(attachmentSpec(raw, environment, { ...options, backendDirs: ['/'] }).backend.path).toBe('/srv/x');
    expect(attachmentSpec(raw, environment, { ...options, backendDirs: ['/srv/'] }).backend.path).toBe('/srv/x');
  });
});

describe('the MAC', () => {
  const sources = {
    runtimeConfig: { mac: '02:00:00:00:00:0A' },
    args: { cni: { mac: '02:00:00:00:00:0B' } },
    device: { mac: '02:00:00:00:00:0d' },
  };
  const withArgs = { args: 'MAC=02:00:00:00:00:0C' };

  it('is the runtime’s, then that of args, CNI_ARGS, device, then derived; always lower-case', () => {
    expect(spec(sources, withArgs).device.mac).toBe('02:00:00:00:00:0a');
    expect(spec({ ...sources, runtimeConfig: {} }, withArgs).device.mac).toBe('02:00:00:00:00:0b');
    expect(spec({ device: sources.device }, withArgs).device.mac).toBe('02:00:00:00:00:0c');
    expect(spec({ device: sources.device }).device.mac).toBe('02:00:00:00:00:0d');
    expect(spec().device.mac).toBe(derivedMac('node-1', key));
  });

  it('that is empty counts as none; objects of another shape too', () => {
    for (const runtimeConfig of [{ mac: '' }, { mac: null }, null, 'x', []]) {
      expect(spec({ runtimeConfig, args: 'x', device: sources.device }).device.mac).toBe('02:00:00:00:00:0d');
    }
  });

  it('in CNI_ARGS is a matter of the environment', () => {
    expect(failure(() => spec({}, { args: 'MAC=ff:ff:ff:ff:ff:ff' }))).toMatchObject({
      code: 'INPUT_ENVIRONMENT',
      message: 'CNI_ARGS MAC: "ff:ff:ff:ff:ff:ff"; accepted: a unicast MAC address',
    });
  });
});

describe('the addresses that a pod asks for', () => {
  const asked = {
    runtimeConfig: { ips: ['10.0.0.1/24', 'fd00:0::1/64', '10.0.0.1/24'] },
    args: { cni: { ips: ['10.0.0.2/24'] } },
  };
  const withArgs = { args: 'IP=10.0.0.3/24,10.0.0.4/24' };

  it('are the runtime’s, then those of args, then of CNI_ARGS; each once, in one spelling', () => {
    expect(spec(asked, withArgs).addresses).toEqual(['10.0.0.1/24', 'fd00::1/64']);
    expect(spec({ ...asked, runtimeConfig: { ips: [] } }, withArgs).addresses).toEqual(['10.0.0.2/24']);
    expect(spec({}, withArgs).addresses).toEqual(['10.0.0.3/24', '10.0.0.4/24']);
    expect(spec().addresses).toEqual([]);
  });

  it('are left to the IPAM plugin where one is named: it gets all of stdin', () => {
    const { addresses, ipam } = spec({ ...asked, ipam: { type: 'static' } }, withArgs);
    expect(addresses).toEqual([]);
    expect(JSON.parse(ipam?.netconf ?? '')).toMatchObject(asked);
  });

  it.each([
    [{ runtimeConfig: { ips: ['10.0.0.1'] } }, 'runtimeConfig.ips: ["10.0.0.1"]; accepted: an address with its prefix'],
    [{ runtimeConfig: { ips: '10.0.0.1/24' } }, 'runtimeConfig.ips: "10.0.0.1/24"; accepted: a list of addresses'],
    [{ args: { cni: { ips: ['10.0.0.1/33'] } } }, 'args.cni.ips: ["10.0.0.1/33"]; accepted: an address'],
    [{ runtimeConfig: { ips: Array.from({ length: 65 }, () => '::1/128') } }, 'accepted: at most 64 addresses'],
  ])('that are none are refused: %.60j', (netconf, told) => {
    expect(failure(() => spec(netconf))).toMatchObject({
      code: 'CONFIG_UNSUPPORTED',
      message: expect.stringContaining(told),
    });
    expect(failure(() => spec({}, { args: 'IP=10.0.0.1' })).code).toBe('INPUT_ENVIRONMENT');
  });
});

describe('an allocated device', () => {
  const path = '/run/openvswitch/{deviceID}';

  it('has its place in backend.path: the runtime’s, then the key that Multus adds', () => {
    expect(spec({ backend: { path }, deviceID: 'a', runtimeConfig: { deviceID: '0000:03:00.1' } }).backend.path).toBe(
      '/run/openvswitch/0000:03:00.1',
    );
    expect(spec({ backend: { path }, deviceID: 'a' }).backend.path).toBe('/run/openvswitch/a');
  });

  it('that is none, or would leave its place, is refused where it is used, and only there', () => {
    for (const deviceID of ['..', '../x', 'a/b', 'x'.repeat(257), '', 7, undefined]) {
      expect(failure(() => spec({ backend: { path }, deviceID })).message).toContain('{deviceID} is ');
      expect(spec({ deviceID, runtimeConfig: { deviceID } }).backend).toEqual(spec().backend);
    }
  });
});

describe('the device-info file', () => {
  const at = (CNIDeviceInfoFile: unknown): AttachmentSpec => spec({ runtimeConfig: { CNIDeviceInfoFile } });

  it('is where Multus says', () => {
    const path = '/var/run/k8s.cni.cncf.io/devinfo/cni/default-dpdk-net-c1_net1';
    expect(at(path).deviceInfoPath).toBe(path);
    for (const none of ['', null, undefined]) expect(at(none).deviceInfoPath).toBeNull();
  });

  it.each([
    '/etc/cron.d/x-c1_net1',
    '/var/run/k8s.cni.cncf.io/devinfo/cni/../dp/x-c1_net1',
    '/var/run/k8s.cni.cncf.io/devinfo/cni/net-another-container_net1',
    '/var/run/k8s.cni.cncf.io/devinfo/cni/c1/x',
    'x-c1_net1',
    { c1: 1 },
  ])('%j is refused', (path) => {
    expect(failure(() => at(path))).toMatchObject({
      code: 'CONFIG_UNSUPPORTED',
      message: expect.stringMatching(/^runtimeConfig\.CNIDeviceInfoFile: .*accepted: a file of \/var\/run/),
      details: { key: 'runtimeConfig.CNIDeviceInfoFile' },
    });
  });
});

describe('annotations of the pod', () => {
  it('go to the IPAM plugin with the rest of stdin, and change nothing of ours', () => {
    const annotations = { 'kubectl.kubernetes.io/last-applied-configuration': 'x'.repeat(100_000) };
    const runtimeConfig = { 'io.kubernetes.cri.pod-annotations': annotations };
    expect(spec({ runtimeConfig })).toEqual(spec());
    const { ipam } = spec({ runtimeConfig, ipam: { type: 'host-local' } });
    expect(JSON.parse(ipam?.netconf ?? '')).toMatchObject({ runtimeConfig });
  });
});

describe('what every verb reads', () => {
  const raw = (netconf: Json | string, verb: Verb = 'ADD'): ReturnType<typeof parseRawNetconf> =>
    parseRawNetconf(
      typeof netconf === 'string' ? netconf : JSON.stringify({ cniVersion: '1.0.0', name: 'net', ...netconf }),
      verb,
    );

  it.each(supportedVersions)('version %s is taken and answered in', (cniVersion) => {
    expect(raw({ cniVersion }).cniVersion).toBe(cniVersion);
    expect(answerVersion(JSON.stringify({ cniVersion }))).toBe(cniVersion);
  });

  it.each(['', '0.1.0', '0.2.0', '1.2.0', '9.9.9', 1, null, undefined])('version %p is refused', (cniVersion) => {
    expect(failure(() => raw({ cniVersion }))).toMatchObject({
      code: 'INPUT_VERSION',
      message: expect.stringContaining('0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0'),
    });
  });

  it.each(['', 'oops', '{', '[]', '"x"', 'null', '1', '\ufeff{}', '{"a":1}x', '['.repeat(100_000)])(
    'stdin that is no JSON object is refused: %#',
    (stdin) => {
      expect(failure(() => raw(stdin)).code).toBe('INPUT_DECODE');
      expect(answerVersion(stdin)).toBe('1.0.0');
    },
  );

  it('a depth of 32 is taken, more is refused, and width costs nothing', () => {
    const nested = (depth: number): Json => JSON.parse(`${'{"a":'.repeat(depth)}1${'}'.repeat(depth)}`) as Json;
    expect(raw({ x: nested(32) }).name).toBe('net');
    expect(failure(() => raw({ x: nested(33) })).message).toContain('32');
    expect(failure(() => raw(`{"x":${'['.repeat(200_000)}${']'.repeat(200_000)}}`)).code).toBe('INPUT_DECODE');
    expect(raw({ x: Array.from({ length: 500_000 }, () => 0) }).name).toBe('net');
  });

  it.each(['', '-x', 'a/b', '../x', 'a b', 'x'.repeat(129), 5, null, undefined])('the name %p is refused', (name) => {
    expect(failure(() => raw({ name }))).toMatchObject({ code: 'CONFIG_INVALID', details: { key: 'name' } });
  });

  it('an ipam that is absent, null or empty means none', () => {
    for (const ipam of [undefined, null, {}]) expect(raw({ ipam }).ipam).toBeNull();
  });

  it.each(['x', [], { type: '' }, { type: '../x' }, { type: 'a/b' }, { type: 5 }, { subnet: 'x' }])(
    'ipam %j is refused',
    (ipam) => {
      expect(failure(() => raw({ ipam }))).toMatchObject({
        code: 'CONFIG_INVALID',
        message: expect.stringContaining('ipam'),
      });
    },
  );

  it('DEL takes what it can get', () => {
    expect(
      raw({ cniVersion: '9.9.9', ipam: { type: '../x' }, device: { queues: 0 }, prevResult: 5 }, 'DEL'),
    ).toMatchObject({
      name: 'net',
      ipam: null,
      cniVersion: '1.0.0',
    });
    expect(failure(() => raw({ name: '' }, 'DEL')).code).toBe('CONFIG_INVALID');
  });
});
