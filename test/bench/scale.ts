/** (c) Memory and idle CPU of the agent with 1, 64 and 250 attachments, and how fast 250 at once get their carrier. */
import { readdirSync, readFileSync } from 'node:fs';
import type { Agent } from '../support/agent.ts';
import { messageOf } from '../../src/errors.ts';
import { Cleanup } from '../support/cleanup.ts';
import { Netns } from '../support/netns.ts';
import { until } from '../support/process.ts';
import { hostLocal, newContainerId } from '../support/runtime.ts';
import { bridge, startNode } from './node.ts';

export interface ScalePoint {
  readonly attachments: number;
  readonly residentMb: number;
  /** Private pages that are not rings or buffers shared with the backend. */
  readonly privateMb: number;
  readonly sharedRingsMb: number;
  readonly idleCpuPercent: number;
  readonly descriptors: number;
}

export interface ScaleResult {
  readonly points: readonly ScalePoint[];
  readonly privatePerAttachmentMb: number;
  readonly burst: { readonly attachments: number; readonly failures: number; readonly allCarrierSeconds: number };
}

interface Memory {
  readonly residentKb: number;
  readonly privateKb: number;
  readonly sharedRingsKb: number;
}

/** Walks smaps: mappings of the session memfds are the rings and buffers; everything else private is our own cost. */
function memoryOf(pid: number): Memory {
  let residentKb = 0;
  let privateKb = 0;
  let sharedRingsKb = 0;
  let session = false;
  for (const line of readFileSync(`/proc/${pid}/smaps`, 'utf8').split('\n')) {
    const mapping = /^[0-9a-f]+-[0-9a-f]+ \S+ \S+ \S+ \d+\s*(.*)$/.exec(line);
    if (mapping !== null) {
      session = /memfd:vu-(session|rings)/.test(mapping[1] ?? '');
      continue;
    }
    const field = /^(Rss|Private_Clean|Private_Dirty):\s+(\d+) kB$/.exec(line);
    if (field === null) continue;
    const kb = Number(field[2]);
    if (field[1] === 'Rss') {
      residentKb += kb;
      if (session) sharedRingsKb += kb;
    } else if (!session) privateKb += kb;
  }
  return { residentKb, privateKb, sharedRingsKb };
}

/** User and system time of all threads, in clock ticks of 10 ms. */
function cpuTicks(pid: number): number {
  const fields = readFileSync(`/proc/${pid}/stat`, 'utf8').split(') ')[1]?.split(' ') ?? [];
  return Number(fields[11]) + Number(fields[12]);
}

async function carrierCount(agent: Agent): Promise<number> {
  const metrics = (await agent.get('/metrics'))?.body ?? '';
  return Number(/^virtio_user_attachments\{[^}]*state="running"[^}]*\} (\d+)/m.exec(metrics)?.[1] ?? 0);
}

export async function benchScale(
  directory: string,
  idleSeconds: number,
  say: (text: string) => void,
): Promise<ScaleResult> {
  const cleanup = new Cleanup();
  cleanup.onSignals();
  const sizes = [1, 64, 250];
  const largest = 250;
  try {
    const { agent } = await startNode(directory, true, cleanup);
    const netconf = {
      cniVersion: '1.0.0',
      name: 'bench-scale',
      type: 'virtio-user',
      ovs: { bridge },
      ipam: hostLocal(directory, ['10.84.0.0/16']),
    };
    const calls: { containerId: string; netnsPath: string }[] = [];
    for (let index = 0; index < largest; index++) {
      const netns = await Netns.create(`vu-bench-s${index}`, cleanup);
      calls.push({ containerId: newContainerId(), netnsPath: netns.path });
    }
    say(`scale: ${largest} namespaces made`);
    const addMany = async (from: number, to: number): Promise<number> => {
      const outcomes = await Promise.all(calls.slice(from, to).map((call) => agent.runtime.call('ADD', netconf, call)));
      const failed = outcomes.flatMap((outcome) => (outcome.ok ? [] : [outcome.error.msg]));
      for (const message of failed.slice(0, 3)) say(`scale: ADD failed: ${message}`);
      return failed.length;
    };
    const points: ScalePoint[] = [];
    let attached = 0;
    for (const size of sizes) {
      const failures = await addMany(attached, size);
      if (failures > 0) throw new Error(`${failures} of ${size - attached} ADDs failed`);
      attached = size;
      await until(`${size} running`, async () => (await carrierCount(agent)) === size, 60_000, 100);
      await new Promise((resolve) => setTimeout(resolve, 3_000)); // let the last announcements and timers pass
      const before = cpuTicks(agent.pid);
      await new Promise((resolve) => setTimeout(resolve, idleSeconds * 1000));
      const ticks = cpuTicks(agent.pid) - before;
      const memory = memoryOf(agent.pid);
      points.push({
        attachments: size,
        residentMb: memory.residentKb / 1024,
        privateMb: memory.privateKb / 1024,
        sharedRingsMb: memory.sharedRingsKb / 1024,
        idleCpuPercent: ticks / idleSeconds,
        descriptors: readdirSync(`/proc/${agent.pid}/fd`).length,
      });
      say(`scale: ${size} attachments idle for ${idleSeconds} s`);
    }
    await Promise.all(calls.map((call) => agent.runtime.del(netconf, call)));
    const startedMs = performance.now();
    const burst = addMany(0, largest);
    let failures = 0;
    const all = until(
      `${largest} running`,
      async () => failures > 0 || (await carrierCount(agent)) === largest,
      120_000,
      50,
    ).catch(async (error: unknown) => {
      const { body } = (await agent.get('/metrics')) ?? { body: '' };
      throw new Error(
        `${messageOf(error)}\n${body.match(/^virtio_user_attachments\{.*$/gm)?.join('\n') ?? ''}\n${agent.log}`,
      );
    });
    failures = await burst;
    await all;
    const allCarrierSeconds = (performance.now() - startedMs) / 1000;
    await Promise.all(calls.map((call) => agent.runtime.del(netconf, call)));
    const first = points[0];
    const last = points[points.length - 1];
    if (first === undefined || last === undefined) throw new Error('sizes were measured');
    return {
      points,
      privatePerAttachmentMb: (last.privateMb - first.privateMb) / (last.attachments - first.attachments),
      burst: { attachments: largest, failures, allCarrierSeconds },
    };
  } finally {
    for (const failure of await cleanup.run()) say(`clean-up: ${failure}`);
  }
}
