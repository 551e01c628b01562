import { mkdtempSync, rmSync } from 'node:fs';
import { rename, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from '@jest/globals';
import type { CreatingRecord, DeletingRecord } from '../../../src/attachment/record.ts';
import { nodeFiles, RecordStore, type StoreFiles } from '../../../src/attachment/store.ts';
import { attachmentId } from '../../../src/attachment/key.ts';
import { FakeNode } from '../../support/attachment-fakes.ts';
import { fault } from '../../support/gate.ts';

let node: FakeNode;
let stateDir: string;
/** Whether the directory's fsync fails, which comes after the rename. */
let syncFails: boolean;
let store: RecordStore;
let creating: CreatingRecord;
let deleting: DeletingRecord;

const disk: StoreFiles = {
  ...nodeFiles,
  replaceFile: async (temporary, path, contents) => {
    await writeFile(temporary, contents);
    await rename(temporary, path);
  },
  syncDirectory: () => (syncFails ? Promise.reject(fault('EIO', 'fsync')) : Promise.resolve()),
};

beforeEach(async () => {
  node = new FakeNode();
  stateDir = mkdtempSync(join(tmpdir(), 'vu-store-'));
  syncFails = false;
  store = new RecordStore(stateDir, disk);
  await store.load();
  const spec = node.spec('/var/run/netns/n');
  const id = attachmentId(spec.key);
  const netns = { device: '1', inode: '2' };
  creating = { version: 1, phase: 'creating', id, bootId: 'boot-1', requestId: null, createdAtMs: 1, spec, netns };
  deleting = { ...creating, phase: 'deleting', ifindex: null };
});
afterEach(async () => {
  await node.destroy();
  rmSync(stateDir, { recursive: true });
});

/** What the next agent would find. */
async function onDisk(): Promise<readonly unknown[]> {
  return (await new RecordStore(stateDir, disk).load()).records;
}

describe('a write whose directory cannot be synced', () => {
  it('fails, and the record is known as it lies on disk now', async () => {
    await store.write(creating);
    syncFails = true;
    await expect(store.write(deleting)).rejects.toMatchObject({ code: 'STATE_WRITE', details: { errno: 'EIO' } });
    expect(store.list()).toEqual([deleting]);
    expect(await onDisk()).toEqual([deleting]);
  });

  it('of a first record leaves one that can be removed', async () => {
    syncFails = true;
    await expect(store.write(creating)).rejects.toMatchObject({ code: 'STATE_WRITE' });
    expect(store.list()).toEqual([creating]);
    syncFails = false;
    await store.remove(creating.id);
    expect([store.list(), await onDisk()]).toEqual([[], []]);
  });
});

describe('a removal whose directory cannot be synced', () => {
  it('fails, and the record stays known, so that it is tried again', async () => {
    await store.write(creating);
    syncFails = true;
    await expect(store.remove(creating.id)).rejects.toMatchObject({ code: 'STATE_WRITE' });
    expect(store.list()).toEqual([creating]);
    syncFails = false;
    await store.remove(creating.id);
    expect([store.list(), await onDisk()]).toEqual([[], []]);
  });
});

describe('a write that cannot be renamed into place', () => {
  it('fails, and the old record stays, known and on disk', async () => {
    await store.write(creating);
    const failing = new RecordStore(stateDir, { ...disk, replaceFile: () => Promise.reject(fault('EIO', 'rename')) });
    await failing.load();
    await expect(failing.write(deleting)).rejects.toMatchObject({ code: 'STATE_WRITE' });
    expect(failing.list()).toEqual([creating]);
    expect(await onDisk()).toEqual([creating]);
  });
});

describe('a record that the disk does not give', () => {
  it('is reported and stays where it is; the next start reads it', async () => {
    await store.write(creating);
    const failing = new RecordStore(stateDir, { ...disk, readFile: () => Promise.reject(fault('EIO', 'read')) });
    const path = join(stateDir, 'attachments', `${creating.id}.json`);
    expect(await failing.load()).toEqual({
      records: [],
      corrupt: [{ id: creating.id, path, reason: expect.stringMatching(/^cannot be read: .*EIO/) }],
    });
    expect([failing.isSetAside(creating.id), failing.setAside]).toEqual([true, 1]);
    expect(await onDisk()).toEqual([creating]);
  });
});
