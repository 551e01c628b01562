import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { describe, expect, it } from '@jest/globals';
import { callEnvironment, errorOf, executablePath, Place } from './support/call.ts';
import { answer } from './support/frame.ts';
import { ScriptedAgent } from './support/scripted-agent.ts';

type Changes = Readonly<Record<string, string | undefined>>;

function changed(verb: string, changes: Changes): Readonly<Record<string, string>> {
  const merged: Changes = { ...callEnvironment(verb), ...changes };
  return Object.fromEntries(
    Object.entries(merged).flatMap(([name, value]) => (value === undefined ? [] : [[name, value]])),
  );
}

describe('a variable', () => {
  const bad: readonly (readonly [string, string, string | undefined, string])[] = [
    ...['ADD', 'DEL', 'CHECK'].flatMap((verb): readonly (readonly [string, string, string | undefined, string])[] => [
      [verb, 'CNI_CONTAINERID', undefined, 'is not set'],
      [verb, 'CNI_CONTAINERID', '', 'is empty'],
      [verb, 'CNI_IFNAME', undefined, 'is not set'],
      [verb, 'CNI_IFNAME', '', 'is empty'],
    ]),
    ['ADD', 'CNI_NETNS', undefined, 'is not set'],
    ['ADD', 'CNI_NETNS', '', 'is empty'],
    ['CHECK', 'CNI_NETNS', undefined, 'is not set'],
    ['GC', 'CNI_PATH', undefined, 'is not set'],
    ['GC', 'CNI_PATH', '', 'is empty'],
    ['ADD', 'CNI_CONTAINERID', '../x', 'letter or digit'],
    ['ADD', 'CNI_CONTAINERID', '-x', 'letter or digit'],
    ['ADD', 'CNI_CONTAINERID', 'a b', 'letter or digit'],
    ['ADD', 'CNI_CONTAINERID', 'ä', 'letter or digit'],
    ['ADD', 'CNI_IFNAME', 'a-name-of-sixteen', '15 bytes'],
    ['ADD', 'CNI_IFNAME', '.', "'..'"],
    ['ADD', 'CNI_IFNAME', '..', "'..'"],
    ['ADD', 'CNI_IFNAME', 'a/b', "'/'"],
    ['ADD', 'CNI_IFNAME', 'a:b', "':'"],
    ['DEL', 'CNI_IFNAME', 'eth 0', 'white space'],
    ['ADD', 'CNI_IFNAME', 'eth\n0', 'white space'],
    ['ADD', 'CNI_IFNAME', 'eth%d', "'%'"],
    ['CHECK', 'CNI_IFNAME', 'eth%d', "'%'"],
    ['CHECK', 'CNI_IFNAME', 'a/b', "'/'"],
    ['STATUS', 'VIRTIO_USER_AGENT_SOCKET', 'agent.sock', 'absolute'],
    ['ADD', 'VIRTIO_USER_AGENT_SOCKET', `/${'x'.repeat(107)}`, '107 bytes'],
    ['DEL', 'VIRTIO_USER_STATE_DIR', 'state', 'absolute'],
    ['DEL', 'VIRTIO_USER_STATE_DIR', `/${'x'.repeat(3072)}`, '3072 bytes'],
  ];
  it.each(bad)('that is bad for %s (%s = %j) is named, with what it must be', async (verb, name, value, rule) => {
    await using place = await Place.make();
    const error = errorOf(await place.call(changed(verb, { [name]: value })));
    expect(error).toMatchObject({ cniVersion: '1.0.0', code: 4 });
    expect(error.msg).toContain(name);
    expect(error.msg).toContain(rule);
    expect(error.msg).not.toContain('\n');
  });

  it('is not the only one named when several are bad', async () => {
    await using place = await Place.make();
    const env = { CNI_COMMAND: 'ADD', CNI_IFNAME: 'x'.repeat(100_000), VIRTIO_USER_AGENT_SOCKET: 'y' };
    const error = errorOf(await place.call(env, '{"cniVersion":"0.3.1"}'));
    expect(error.cniVersion).toBe('0.3.1');
    for (const name of ['CNI_CONTAINERID', 'CNI_NETNS', 'CNI_IFNAME', 'VIRTIO_USER_AGENT_SOCKET']) {
      expect(error.msg).toContain(name);
    }
    expect(error.msg.length).toBeLessThan(1024);
  });

  it('with any bytes is quoted as valid JSON in one line', async () => {
    await using place = await Place.make();
    const error = errorOf(await place.call(changed('ADD', { CNI_IFNAME: 'a\u0001"\\\u007f/é€𝄞' })));
    expect(error.msg).toContain(`'a?"\\?/é€𝄞'`);
    // A cut in the middle of a character.
    const cut = errorOf(await place.call(changed('ADD', { CNI_IFNAME: `${'x'.repeat(63)}é` })));
    expect(cut.msg).toContain(`${'x'.repeat(63)}\ufffd...'`);
  });

  it('that is no UTF-8 is quoted as UTF-8 all the same', async () => {
    // Overlong, a surrogate, beyond Unicode, a lone continuation.
    const script = `CNI_COMMAND=ADD CNI_IFNAME="$(printf '/\\300\\200\\355\\240\\200\\364\\220\\200\\200\\277')" exec "$0" </dev/null`;
    const child = spawn('sh', ['-c', script, executablePath], { env: {} });
    const chunks: Buffer[] = [];
    child.stdout.on('data', (chunk: Buffer) => chunks.push(chunk));
    await once(child, 'close');
    const stdout = new TextDecoder('utf-8', { fatal: true }).decode(Buffer.concat(chunks));
    const { msg } = JSON.parse(stdout) as { msg: string };
    expect(msg).toContain(`CNI_IFNAME '/${'\ufffd'.repeat(10)}'`);
  });

  it('that is bad is reported within a second or so, though stdin stays open', async () => {
    const child = spawn(executablePath, [], { env: { CNI_COMMAND: 'ADD' } });
    child.stdin.write('{"cniVersion":"0.4.0"');
    const startedMs = performance.now();
    const [stdout] = (await once(child.stdout, 'data')) as [Buffer];
    expect(performance.now() - startedMs).toBeLessThan(15_000);
    expect(JSON.parse(stdout.toString())).toMatchObject({ cniVersion: '0.4.0', code: 4 });
    child.stdin.destroy();
  });
});

async function forwarded(verb: string, changes: Changes): Promise<readonly string[]> {
  await using place = await Place.make();
  await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => socket.write(answer()));
  expect(await place.call(changed(verb, changes))).toMatchObject({ code: 0, stdout: '', stderr: '' });
  return agent.only.request.environment;
}

describe('the agent', () => {
  const traceparent = '00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01';

  it('gets the variables of the list and no other', async () => {
    const environment = await forwarded('ADD', {
      LD_BIND_NOW: '1',
      LD_LIBRARY_PATH: '/x',
      KUBECONFIG: '/root/.kube/config',
      NODE_OPTIONS: '--inspect',
      PATH: '/bin',
      CNI_OTHER: '1',
      CNI_NETNS_OVERRIDE: 'true',
      TRACEPARENT: traceparent,
      TRACESTATE: 'a=b',
    });
    expect([...environment].sort()).toEqual([
      'CNI_ARGS=IgnoreUnknown=1',
      'CNI_COMMAND=ADD',
      'CNI_CONTAINERID=c1',
      'CNI_IFNAME=eth0',
      'CNI_NETNS=/proc/self/ns/net',
      'CNI_NETNS_OVERRIDE=true',
      'CNI_PATH=/opt/cni/bin',
      `TRACEPARENT=${traceparent}`,
    ]);
  });

  it('gets a value byte for byte, empty and malformed CNI_ARGS included', async () => {
    expect(await forwarded('ADD', { CNI_ARGS: 'no equals sign = ü' })).toContain('CNI_ARGS=no equals sign = ü');
    expect(await forwarded('ADD', { CNI_ARGS: '' })).toContain('CNI_ARGS=');
  });

  it('gets a DEL of a name that ADD refuses as a pattern: whoever asked for one must get rid of its pod', async () => {
    expect(await forwarded('DEL', { CNI_IFNAME: 'eth%d' })).toContain('CNI_IFNAME=eth%d');
  });

  it('gets an ADD without CNI_PATH and CNI_ARGS, since only some need them', async () => {
    const environment = await forwarded('ADD', { CNI_PATH: undefined, CNI_ARGS: undefined });
    expect(environment.map((entry) => entry.split('=')[0])).toEqual([
      'CNI_COMMAND',
      'CNI_CONTAINERID',
      'CNI_NETNS',
      'CNI_IFNAME',
    ]);
  });

  it.each(['GC', 'STATUS'])('gets no variables of a pod with %s, whatever they hold', async (verb) => {
    const environment = await forwarded(verb, { CNI_CONTAINERID: '../x', CNI_NETNS: '/nowhere', CNI_IFNAME: '' });
    expect(environment).toEqual([`CNI_COMMAND=${verb}`, 'CNI_PATH=/opt/cni/bin']);
  });

  it('gets no malformed TRACEPARENT, and the call goes on', async () => {
    expect((await forwarded('STATUS', { TRACEPARENT: 'x"y' })).join()).not.toContain('TRACEPARENT');
  });

  it('gets at most 65536 bytes of variables: code 4 otherwise, naming the one that was too much', async () => {
    const others = 'CNI_COMMAND=STATUS'.length + 1 + 'CNI_PATH='.length + 1;
    const environment = await forwarded('STATUS', { CNI_PATH: 'p'.repeat(65536 - others) });
    expect(environment[1]?.length).toBe(65536 - others + 'CNI_PATH='.length);
    await using place = await Place.make();
    const error = errorOf(await place.call(changed('STATUS', { CNI_PATH: 'p'.repeat(65536 - others + 1) })));
    expect(error).toMatchObject({ code: 4 });
    expect(error.msg).toContain('CNI_PATH');
  });
});
