import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, readdirSync, readFileSync, statSync, symlinkSync, truncateSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { describe, expect, it } from '@jest/globals';
import { callEnvironment, errorOf, Place, recordedCall } from './support/call.ts';
import { answer, readRequest } from './support/frame.ts';
import { ScriptedAgent } from './support/scripted-agent.ts';

const queueOf = (place: Place): string => join(place.stateDir, 'delete-queue');
const entriesOf = (place: Place): string[] => readdirSync(queueOf(place)).filter((name) => name !== 'lock');

/** Fills the queue so that a DEL meets it as it would after days without an agent. */
function fill(place: Place, count: number, bytesEach: number): void {
  mkdirSync(queueOf(place), { recursive: true });
  for (let i = 0; i < count; i++) {
    const path = join(queueOf(place), `1700000000.${String(i).padStart(9, '0')}-1.req`);
    writeFileSync(path, '');
    if (bytesEach > 0) truncateSync(path, bytesEach);
  }
}

/** Another process that holds the lock of the queue: exclusively, as a starting agent, or shared, as another DEL. */
async function holdLock(place: Place, kind: '-x' | '-s' = '-x'): Promise<() => Promise<void>> {
  mkdirSync(queueOf(place), { recursive: true });
  const holder = spawn('flock', [kind, join(queueOf(place), 'lock'), 'sh', '-c', 'echo held; read _']);
  await once(holder.stdout, 'data');
  return async () => {
    holder.stdin.end('\n');
    await once(holder, 'exit');
  };
}

describe('a queued DEL', () => {
  it.concurrent('is exactly the request frame, without descriptors, in private files', async () => {
    const recorded = recordedCall('del');
    await using place = await Place.make();
    const env = { ...recorded.env, CNI_NETNS: '/proc/self/ns/net' };
    await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => socket.destroy());
    expect(await place.call(env, recorded.stdin)).toMatchObject({ code: 0, stdout: '', stderr: '' });
    expect(agent.conversations.length).toBeGreaterThan(1);

    const [entry] = entriesOf(place);
    const sent = agent.conversations[0]?.request.raw;
    if (entry === undefined || sent === undefined) throw new Error('nothing was sent or queued');
    const queued = readFileSync(join(queueOf(place), entry));
    const expected = Buffer.from(sent);
    expect(expected.readUInt8(12)).toBe(1);
    expected.writeUInt32LE(28_000, 8); // the drainer has all the time of a DEL
    expected.fill(0, 12, 16);
    expect(queued.toString('hex')).toBe(expected.toString('hex'));
    expect(readRequest(queued)?.stdin.toString()).toBe(recorded.stdin);

    const modes = [place.stateDir, queueOf(place), join(queueOf(place), 'lock'), join(queueOf(place), entry)];
    expect(modes.map((path) => (statSync(path).mode & 0o777).toString(8))).toEqual(['700', '700', '600', '600']);
    expect(Math.abs(Number(entry.split('.')[0]) - Date.now() / 1000)).toBeLessThan(60);
  });

  it.concurrent('has a file of its own, in order of age, however many come at once', async () => {
    await using place = await Place.make();
    const calls = Array.from({ length: 12 }, (_, i) =>
      place.call({ ...callEnvironment('DEL'), CNI_CONTAINERID: `c${i}` }),
    );
    for (const called of await Promise.all(calls)) expect(called).toMatchObject({ code: 0, stdout: '' });
    const entries = entriesOf(place).map((name) => readRequest(readFileSync(join(queueOf(place), name))));
    const containers = entries.map((entry) => entry?.environment.find((value) => value.startsWith('CNI_CONTAINERID=')));
    expect(new Set(containers).size).toBe(12);
  });

  it.concurrent('goes below directories that exist only in part', async () => {
    await using place = await Place.make();
    const stateDir = `${place.directory}/a//b/c/`;
    const env = { ...callEnvironment('DEL'), VIRTIO_USER_STATE_DIR: stateDir };
    expect(await place.call(env)).toMatchObject({ code: 0, stdout: '' });
    expect(readdirSync(join(stateDir, 'delete-queue')).length).toBe(2);
  });
});

describe('the queue', () => {
  it.concurrent('holds 4096 entries and no more', async () => {
    await using last = await Place.make();
    await using full = await Place.make();
    fill(last, 4095, 0);
    fill(full, 4096, 0);
    const [taken, refused] = await Promise.all([last.call(callEnvironment('DEL')), full.call(callEnvironment('DEL'))]);
    expect(taken).toMatchObject({ code: 0, stdout: '' });
    expect(entriesOf(last).length).toBe(4096);
    const error = errorOf(refused);
    expect(error.code).toBe(11);
    expect(error.msg).toContain('full (4096 entries');
    expect(error.msg).toContain(queueOf(full));
    expect(entriesOf(full).length).toBe(4096);
  });

  it.concurrent('holds 64 MiB and no more, unfinished entries included', async () => {
    await using last = await Place.make();
    await using full = await Place.make();
    fill(last, 63, 1 << 20);
    fill(full, 64, 1 << 20);
    mkdirSync(queueOf(last), { recursive: true });
    const [taken, refused] = await Promise.all([last.call(callEnvironment('DEL')), full.call(callEnvironment('DEL'))]);
    expect(taken).toMatchObject({ code: 0, stdout: '' });
    expect(errorOf(refused)).toMatchObject({ code: 11, msg: expect.stringContaining('67108864 bytes') });
    const unfinished = join(queueOf(last), '1700000000.000000000-2.tmp');
    writeFileSync(unfinished, '');
    truncateSync(unfinished, 1 << 20);
    expect(errorOf(await last.call(callEnvironment('DEL'))).code).toBe(11);
  });

  it.concurrent(
    'is not used when the agent opens its socket while it holds the lock: the DEL waits for the lock and then reaches it',
    async () => {
      await using place = await Place.make();
      const release = await holdLock(place);
      const called = place.call(callEnvironment('DEL'));
      // After its own 3 s the DEL waits for the lock, silently; the agent opens its socket, then lets go.
      await new Promise((resolve) => setTimeout(resolve, 3500));
      await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => socket.write(answer()));
      await release();
      expect(await called).toMatchObject({ code: 0, stdout: '' });
      expect(await agent.only.rest).toBe('VUK1');
      expect(entriesOf(place)).toEqual([]);
    },
  );

  it.concurrent('is written all the same when the agent does not let its lock go', async () => {
    await using place = await Place.make();
    const release = await holdLock(place);
    const called = await place.call(callEnvironment('DEL'));
    expect(called).toMatchObject({ code: 0, stdout: '', stderr: '' });
    expect(called.durationMs).toBeGreaterThan(5900);
    expect(called.durationMs).toBeLessThan(16_000);
    await release();
    expect(entriesOf(place)).toEqual([expect.stringMatching(/\.req$/)]);
  });

  it.concurrent('is shared with other DELs', async () => {
    await using place = await Place.make();
    const release = await holdLock(place, '-s');
    expect(await place.call(callEnvironment('DEL'))).toMatchObject({ code: 0, stdout: '' });
    await release();
    expect(entriesOf(place).length).toBe(1);
  });

  it.concurrent('passes on an error that the agent answers after all', async () => {
    await using place = await Place.make();
    const release = await holdLock(place);
    const body = '{"cniVersion":"1.0.0","code":7,"msg":"m"}';
    // Until the lock is free, half a second after the DEL began to wait for it, the agent only closes.
    let timer: NodeJS.Timeout | null = null;
    let ready = false;
    await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => {
      timer ??= setTimeout(() => {
        ready = true;
        void release();
      }, 3500);
      if (ready) socket.write(answer(body, { exitCode: 1 }));
      else socket.destroy();
    });
    expect(await place.call(callEnvironment('DEL'))).toMatchObject({ code: 1, stdout: body });
    expect(entriesOf(place)).toEqual([]);
    expect(agent.conversations.length).toBeGreaterThan(1);
  });
});

describe('a queue that cannot be written', () => {
  it.concurrent('because a file is in the way gets code 5 naming it', async () => {
    await using place = await Place.make();
    writeFileSync(place.stateDir, '');
    const error = errorOf(await place.call(callEnvironment('DEL')));
    expect(error.code).toBe(5);
    expect(error.msg).toContain(`${queueOf(place)}: Not a directory`);
  });

  it.concurrent('because it is a symbolic link gets code 5', async () => {
    await using place = await Place.make();
    mkdirSync(place.stateDir);
    symlinkSync(place.directory, queueOf(place));
    expect(errorOf(await place.call(callEnvironment('DEL'))).code).toBe(5);
    expect(readdirSync(place.directory)).toEqual(['state']);
  });

  it.concurrent('because the disk is full gets code 5 and leaves nothing', async () => {
    await using place = await Place.make();
    mkdirSync(place.stateDir);
    await promisify(execFile)('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'none', place.stateDir]);
    try {
      const stdin = `{"cniVersion":"1.0.0","x":"${'y'.repeat(200_000)}"}`;
      const error = errorOf(await place.call(callEnvironment('DEL'), stdin));
      expect(error.code).toBe(5);
      expect(error.msg).toContain('No space left on device');
      expect(entriesOf(place)).toEqual([]);
    } finally {
      await promisify(execFile)('umount', [place.stateDir]);
    }
  });

  it.concurrent('never says the words that kubelet takes for success', async () => {
    await using place = await Place.make();
    writeFileSync(join(place.directory, 'not found'), '');
    const env = { ...callEnvironment('DEL'), VIRTIO_USER_STATE_DIR: join(place.directory, 'not found') };
    const error = errorOf(await place.call(env));
    expect(error.code).toBe(5);
    expect(`${error.msg}${error.details}`).not.toContain('not found');
    expect(error.msg).toContain('not-found');
  });
});
