import { mkdtempSync, readdirSync, rmSync, truncateSync, utimesSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import { DeleteQueue, type DeleteQueueParts } from '../../../src/agent/delete-queue.ts';
import type { RemoveRequest } from '../../../src/attachment/api.ts';
import type { QueuedDelete } from '../../../src/cni/queued-delete.ts';
import { VirtioUserError } from '../../../src/errors.ts';
import { silentLogger } from '../../../src/telemetry/log.ts';
import { withoutDescriptors } from '../../support/descriptors.ts';

let directory: string;
let removed: RemoveRequest[];
let results: string[];

beforeEach(() => {
  directory = mkdtempSync(join(tmpdir(), 'vu-queue-'));
  removed = [];
  results = [];
});
afterEach(() => rmSync(directory, { recursive: true }));

/** Entries of these tests hold a container id instead of a frame. */
function decode(name: string, content: Buffer): QueuedDelete {
  const containerId = content.toString();
  if (containerId === 'garbage') return { kind: 'corrupt', reason: 'wrong magic' };
  const key = { networkName: 'net', containerId, ifName: 'eth0' };
  const askedAtMs = Number(name.split('.')[0]) * 1000;
  return { kind: 'delete', request: { key, netnsPath: '', cniArgs: '', cniPath: '', ipam: null, askedAtMs } };
}

function queue(changes: Partial<DeleteQueueParts> = {}): DeleteQueue {
  return new DeleteQueue({
    directory,
    tryLock: () => null,
    decode,
    remove: async (request) => void removed.push(request),
    onEntry: (result) => void results.push(result),
    log: silentLogger,
    ...changes,
  });
}

/** One pass, as the agent makes it. */
async function drain(subject: DeleteQueue, signal = new AbortController().signal): Promise<number> {
  return subject.workOff(await subject.list(), signal);
}

function entry(name: string, content: string): void {
  writeFileSync(join(directory, name), content);
}

describe('the queue of deletes', () => {
  it('removes every entry after its work is done', async () => {
    entry('1700000000.250000000-17.req', 'a');
    entry('1700000001.000000001-18.req', 'b');
    const left: number[] = [];
    const subject = queue({
      remove: async (request) => {
        removed.push(request);
        left.push(readdirSync(directory).length);
      },
    });
    expect(await drain(subject)).toBe(0);
    expect(removed.map(({ key, askedAtMs: asked }) => [key.containerId, asked])).toEqual([
      ['a', 1700000000000],
      ['b', 1700000001000],
    ]);
    expect(left[0]).toBe(2);
    expect(readdirSync(directory)).toEqual([]);
    expect(results).toEqual(['done', 'done']);
  });

  it('keeps an entry whose work failed, works off the others, and succeeds next time', async () => {
    entry('1700000000.0-1.req', 'a');
    entry('1700000000.0-2.req', 'b');
    let broken = true;
    const subject = queue({
      remove: async (request) => {
        if (broken && request.key.containerId === 'a') throw new VirtioUserError('IPAM_FAILED', 'host-local: exit 1');
        removed.push(request);
      },
    });
    expect(await drain(subject)).toBe(1);
    expect(subject.length).toBe(1);
    expect(readdirSync(directory)).toEqual(['1700000000.0-1.req']);
    broken = false;
    expect(await drain(subject)).toBe(0);
    expect(subject.length).toBe(0);
    expect(readdirSync(directory)).toEqual([]);
  });

  it('repeats of one DEL are one removal, the latest', async () => {
    for (const second of [3, 1, 2]) entry(`170000000${second}.0-1.req`, 'a');
    await drain(queue());
    expect(removed.map(({ askedAtMs: asked }) => asked)).toEqual([1700000003000]);
    expect(readdirSync(directory)).toEqual([]);
    expect(results).toEqual(['done', 'done', 'done']);
  });

  it('sets aside what cannot be decoded, once, and goes on', async () => {
    entry('1700000000.0-1.req', 'garbage');
    entry('1700000000.0-3.req', 'garbage');
    entry('1700000000.0-2.req', 'b');
    await drain(queue());
    expect(readdirSync(directory).sort()).toEqual(['1700000000.0-1.req.bad', '1700000000.0-3.req.bad']);
    expect(removed.map(({ key }) => key.containerId)).toEqual(['b']);
    await drain(queue());
    expect(results.filter((result) => result === 'corrupt')).toHaveLength(2);
  });

  it('keeps what cannot be read now, and reads it next time', async () => {
    entry('1700000000.0-1.req', 'a');
    const subject = queue();
    const names = await subject.list();
    // Nor can the directory be synced then.
    await withoutDescriptors(() => subject.workOff(names, new AbortController().signal).catch(() => 0));
    expect([readdirSync(directory), results, removed]).toEqual([['1700000000.0-1.req'], ['failed'], []]);
    expect(await drain(subject)).toBe(0);
    expect(results).toEqual(['failed', 'done']);
  });

  it('does not read an entry that is larger than any frame', async () => {
    entry('1700000000.0-1.req', '');
    truncateSync(join(directory, '1700000000.0-1.req'), 5 << 20);
    await drain(queue());
    expect(readdirSync(directory)).toEqual(['1700000000.0-1.req.bad']);
  });

  it('clears the remains of writers that died, and leaves the lock and a writer at work alone', async () => {
    entry('1700000000.0-1.tmp', 'half');
    utimesSync(join(directory, '1700000000.0-1.tmp'), 1_700_000_000, 1_700_000_000);
    entry('1700000000.0-2.tmp', 'half');
    entry('lock', '');
    await drain(queue());
    expect(readdirSync(directory)).toEqual(['1700000000.0-2.tmp', 'lock']);
  });

  it('told to stop begins no other removal, and counts what remains', async () => {
    for (let index = 0; index < 12; index += 1) entry(`1700000000.0-${index + 1}.req`, `c${index}`);
    const stop = new AbortController();
    const subject = queue({
      remove: async (request) => {
        removed.push(request);
        stop.abort();
      },
    });
    expect(await drain(subject, stop.signal)).toBe(11);
    expect(subject.length).toBe(11);
  });

  it('works off different attachments side by side, but not without bound', async () => {
    for (let index = 0; index < 12; index += 1) entry(`1700000000.0-${index + 1}.req`, `c${index}`);
    let running = 0;
    let most = 0;
    const subject = queue({
      remove: async () => {
        running += 1;
        most = Math.max(most, running);
        await new Promise((resolve) => setImmediate(resolve));
        running -= 1;
      },
    });
    await drain(subject);
    expect(most).toBeGreaterThan(1);
    expect(most).toBeLessThanOrEqual(4);
  });
});
