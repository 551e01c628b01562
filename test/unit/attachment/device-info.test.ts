/** The file that tells a pod of its device (NPWG Device Information Specification 1.1.0), on a real file system. */
import {
  chmodSync,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { DeviceInfoDirectory, deviceInfo, deviceInfoName } from '../../../src/attachment/device-info.ts';

const id = 'vu0123456789ab';
const info = deviceInfo({ server: true, path: '/run/virtio-user/vhost/vu0123456789ab.sock' });

let root: string;
let directory: string;
let path: string;
let files: DeviceInfoDirectory;

beforeEach(() => {
  root = mkdtempSync(join(tmpdir(), 'vu-devinfo-'));
  directory = join(root, 'devinfo/cni');
  path = join(directory, 'ns-net-c1_net1');
  files = new DeviceInfoDirectory(directory);
});
afterEach(() => rmSync(root, { recursive: true, force: true }));

const said = (): unknown => JSON.parse(readFileSync(path, 'utf8'));

function pluginSays(text: string): void {
  mkdirSync(directory, { recursive: true });
  writeFileSync(path, text);
}

describe('a device-info file', () => {
  it('says type, version, socket and the role of the pod’s side, and makes its directory', async () => {
    await files.write(path, id, info);
    expect(said()).toEqual({
      type: 'vhost-user',
      version: '1.1.0',
      'vhost-user': { mode: 'server', path: '/run/virtio-user/vhost/vu0123456789ab.sock' },
    });
    expect(deviceInfo({ server: false, path: '/x' })['vhost-user'].mode).toBe('client');
    expect(lstatSync(path).mode & 0o777).toBe(0o444);
    expect(readdirSync(directory)).toEqual(['ns-net-c1_net1']);
  });

  it('is written again, and removed twice', async () => {
    await files.write(path, id, info);
    await files.write(path, id, info);
    await files.remove(path, id);
    await files.remove(path, id);
    expect(readdirSync(directory)).toEqual([]);
  });

  it('is removed from a directory that does not exist', async () => {
    await files.remove(path, id);
    expect(existsSync(directory)).toBe(false);
  });

  it('is written and removed in the directory as Multus makes it: with mode 0', async () => {
    mkdirSync(directory, { recursive: true });
    for (const step of ['write', 'remove'] as const) {
      chmodSync(directory, 0);
      await files[step](path, id, info);
      expect(lstatSync(directory).mode & 0o777).toBe(0o755);
    }
    expect(readdirSync(directory)).toEqual([]);
  });

  it('keeps what a device plugin has said and adds what is missing', async () => {
    pluginSays('{"type":"vhost-user","version":"1.0.0","vhost-user":{"path":"/in/the/pod"},"vendor":{"x":1}}');
    await files.write(path, id, info);
    expect(said()).toEqual({
      type: 'vhost-user',
      version: '1.0.0',
      'vhost-user': { mode: 'server', path: '/in/the/pod' },
      vendor: { x: 1 },
    });
  });

  it.each([
    ['{"type":"pci","pci":{"pci-address":"0000:00:01.0"}}', 'type "pci"'],
    ['{"type":"vhost-user","vhost-user":{"mode":"client"}}', 'mode "client"'],
  ])('is not turned into another device: %s', async (text, told) => {
    pluginSays(text);
    await expect(files.write(path, id, info)).rejects.toMatchObject({
      code: 'CONFIG_INVALID',
      message: expect.stringContaining(told),
    });
    expect(readFileSync(path, 'utf8')).toBe(text);
  });

  it.each(['', 'not JSON', '[]', `{"type":"pci","x":"${'x'.repeat(70_000)}"}`])(
    'that nobody could use is replaced: %.20s',
    async (text) => {
      pluginSays(text);
      await files.write(path, id, info);
      expect(said()).toEqual(info);
    },
  );

  it('does not follow a symbolic link, neither writing nor removing', async () => {
    const outside = join(root, 'outside');
    writeFileSync(outside, '{"type":"pci"}');
    mkdirSync(directory, { recursive: true });
    symlinkSync(outside, path);
    await files.write(path, id, info);
    expect(lstatSync(path).isSymbolicLink()).toBe(false);
    expect(readFileSync(outside, 'utf8')).toBe('{"type":"pci"}');
    rmSync(path);
    symlinkSync(outside, path);
    await files.remove(path, id);
    expect(readdirSync(directory)).toEqual([]);
    expect(existsSync(outside)).toBe(true);
  });

  it('half made by a process that died is no obstacle, and goes with the rest', async () => {
    mkdirSync(directory, { recursive: true });
    writeFileSync(join(directory, `.${id}.tmp`), '{"ty');
    await files.write(path, id, info);
    writeFileSync(join(directory, `.${id}.tmp`), '{"ty');
    await files.remove(path, id);
    expect(readdirSync(directory)).toEqual([]);
  });

  it('outside of the directory is neither written nor removed', async () => {
    const outside = join(root, 'outside-c1');
    writeFileSync(outside, 'x');
    await expect(files.write(outside, id, info)).rejects.toMatchObject({ code: 'CONFIG_INVALID' });
    await files.remove(outside, id);
    expect(readFileSync(outside, 'utf8')).toBe('x');
  });

  it('that cannot be written says what to do', async () => {
    writeFileSync(join(root, 'devinfo'), 'a file in the place of the directory');
    await expect(files.write(path, id, info)).rejects.toMatchObject({
      code: 'SYSCALL_FAILED',
      details: { errno: 'ENOTDIR' },
      remedy: expect.stringContaining('hostPaths.deviceInfoDir'),
    });
    await files.remove(path, id);
  });
});

describe('the name of a device-info file', () => {
  const cni = '/var/run/k8s.cni.cncf.io/devinfo/cni';

  it.each([
    [`${cni}/default-dpdk-net-c1_net1`, 'default-dpdk-net-c1_net1'],
    ['/run/k8s.cni.cncf.io/devinfo/cni/x', 'x'],
    [`${cni}/../cni/x`, null],
    [`${cni}//x`, null],
    [`${cni}/x/`, null],
    [`${cni}/.x`, null],
    [`${cni}/..`, null],
    [`${cni}/x/y`, null],
    [`${cni}/x\n`, null],
    [`${cni}/x\u0000`, null],
    [`${cni}/${'x'.repeat(256)}`, null],
    [cni, null],
    ['/var/run/k8s.cni.cncf.io/devinfo/dp/x', null],
    ['/etc/passwd', null],
    ['x', null],
    ['', null],
  ])('in %j is %j', (text, name) => {
    expect(deviceInfoName(text, cni)).toBe(name);
  });
});
