import { once } from 'node:events';
import { chmodSync, existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer, type Server } from 'node:http';
import type { AddressInfo } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { exitCode } from '../../../src/cli/exit-code.ts';
import { fillPodCidrs, namesPodCidr } from '../../../src/agent/pod-cidr-template.ts';
import { runCommandLine } from '../../../src/cli/run.ts';
import { kubeconfigOf } from '../../support/kubeconfig.ts';

const template = '{"cniVersion":"1.0.0","name":"n","ipam":{"ranges":[[{"subnet":"{podCIDR}"}]]}}';

describe('{podCIDR} in a network configuration', () => {
  const dual = ['10.244.3.0/24', 'fd00:3::/64'];

  it('is the first subnet of the node, or the one of a family', () => {
    expect(fillPodCidrs('a {podCIDR} b {podCIDR.IPv4} c {podCIDR.IPv6}', dual)).toBe(
      'a 10.244.3.0/24 b 10.244.3.0/24 c fd00:3::/64',
    );
  });

  it('leaves a text without it as it is', () => {
    expect(namesPodCidr('{"subnet":"10.77.0.0/24"}')).toBe(false);
    expect(namesPodCidr(template)).toBe(true);
  });

  it.each([
    ['{podCIDR}', [], 'none'],
    ['{podCIDR.IPv6}', ['10.244.3.0/24'], '10.244.3.0/24'],
    ['{podCIDR.v4}', dual, '{podCIDR.v4}'],
    ['{podCIDR}', ['not a subnet'], 'not a subnet'],
  ])('%s on a node with %j is refused', (text, cidrs, told) => {
    expect(() => fillPodCidrs(text, cidrs)).toThrow(told);
  });
});

describe('install with {podCIDR}', () => {
  let directory: string;
  let server: Server | null;
  let answers: { readonly code: number; readonly body: object }[];
  let asked: string[];
  const conf = (): string => join(directory, 'net.d', '10-vu.conflist');

  beforeEach(() => {
    directory = mkdtempSync(join(tmpdir(), 'vu-podcidr-'));
    answers = [];
    asked = [];
    server = null;
    const executable = '#!/bin/sh\ncat >/dev/null\necho \'{"cniVersion":"1.0.0","supportedVersions":["1.0.0"]}\'\n';
    writeFileSync(join(directory, 'executable'), executable);
    chmodSync(join(directory, 'executable'), 0o755);
    writeFileSync(join(directory, '10-vu.conflist'), template);
  });
  afterEach(() => {
    delete process.env['KUBECONFIG'];
    server?.close();
    server?.closeAllConnections();
    rmSync(directory, { recursive: true });
  });

  /** An API server with these answers, the last one for ever. */
  async function apiServer(...given: typeof answers): Promise<void> {
    answers = given;
    server = createServer((request, response) => {
      asked.push(`${request.method} ${request.url}`);
      const { code, body } = (answers.length > 1 ? answers.shift() : answers[0]) ?? { code: 500, body: {} };
      response.writeHead(code, { 'content-type': 'application/json' }).end(JSON.stringify(body));
    });
    server.listen(0, '127.0.0.1');
    await once(server, 'listening');
    useServer(`http://127.0.0.1:${(server.address() as AddressInfo).port}`);
  }

  function useServer(url: string): void {
    process.env['KUBECONFIG'] = join(directory, 'kubeconfig');
    writeFileSync(process.env['KUBECONFIG'], kubeconfigOf(url));
  }

  /** Nobody listens there any more. */
  async function stopServer(): Promise<void> {
    server?.close();
    server?.closeAllConnections();
    if (server !== null) await once(server, 'close');
  }

  const node = (...podCIDRs: string[]): { code: number; body: object } => ({
    code: 200,
    body: {
      apiVersion: 'v1',
      kind: 'Node',
      metadata: { name: 'node1' },
      spec: podCIDRs.length > 0 ? { podCIDRs } : {},
    },
  });

  async function install(...more: string[]): Promise<{ code: number; out: string; err: string }> {
    let out = '';
    let err = '';
    const flags = [
      `--executable=${join(directory, 'executable')}`,
      `--cni-bin-dir=${join(directory, 'bin')}`,
      `--cni-conf-dir=${join(directory, 'net.d')}`,
      `--conf=${join(directory, '10-vu.conflist')}`,
      '--node-name=node1',
    ];
    const terminal = { out: (text: string) => (out += text), err: (text: string) => (err += text) };
    return { code: await runCommandLine(['install', ...flags, ...more], terminal), out, err };
  }

  it('asks the API server for this node, and installs its subnet', async () => {
    await apiServer(node('10.244.3.0/24'));
    expect((await install()).code).toBe(exitCode.ok);
    expect(asked).toEqual(['GET /api/v1/nodes/node1']);
    expect(readFileSync(conf(), 'utf8')).toBe(template.replace('{podCIDR}', '10.244.3.0/24'));
  });

  it('waits for a node that has no subnet yet, and for a server that fails', async () => {
    await apiServer(node(), { code: 503, body: { message: 'later' } }, node('10.244.4.0/24'));
    expect((await install()).code).toBe(exitCode.ok);
    expect(asked).toHaveLength(3);
    expect(readFileSync(conf(), 'utf8')).toContain('10.244.4.0/24');
  });

  it('refuses where nodes have no subnets, and says who gives them', async () => {
    await apiServer(node());
    const { code, err } = await install('--api-wait-ms=1');
    expect(code).toBe(exitCode.usage);
    expect(err).toContain('--allocate-node-cidrs');
    expect(existsSync(conf())).toBe(false);
  });

  it('asks again when it is forbidden, as an API server that starts knows no roles yet', async () => {
    await apiServer({ code: 403, body: { message: 'nodes "node1" is forbidden' } }, node('10.244.3.0/24'));
    expect((await install()).code).toBe(exitCode.ok);
    expect(asked).toHaveLength(2);
  });

  it('that stays forbidden fails, also where a configuration is there, and names the roles', async () => {
    await apiServer(node('10.244.3.0/24'), { code: 403, body: { message: 'nodes "node1" is forbidden' } });
    await install();
    const { code, err } = await install('--api-wait-ms=1');
    expect(code).toBe(exitCode.usage);
    expect(err).toContain('is forbidden');
    expect(err).toContain('rbac.yaml');
  });

  it('keeps the configuration that is there while the API server is away', async () => {
    await apiServer(node('10.244.3.0/24'));
    await install();
    await stopServer();
    const { code, out } = await install('--api-wait-ms=1');
    expect(code).toBe(exitCode.ok);
    expect(out).toContain('kept as it was: read node node1');
    expect(readFileSync(conf(), 'utf8')).toContain('10.244.3.0/24');
  });

  it('fails on a node without a configuration while the API server is away', async () => {
    await apiServer(node('10.244.3.0/24'));
    await stopServer();
    const { code, err } = await install('--api-wait-ms=1');
    expect(code).not.toBe(exitCode.ok);
    expect(err).toContain('ECONNREFUSED');
    expect(existsSync(conf())).toBe(false);
  });

  it('says what is missing where there are no credentials', async () => {
    const { code, err } = await install();
    expect(code).toBe(exitCode.usage);
    expect(err).toContain('without access to the Kubernetes API');
  });
});
