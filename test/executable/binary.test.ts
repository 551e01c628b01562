import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFileSync, statSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';
import { executablePath } from '../support/runtime.ts';
import { callEnvironment, netconf, Place } from './support/call.ts';
import { answer } from './support/frame.ts';
import { ScriptedAgent } from './support/scripted-agent.ts';

/** The most memory a process has had, in KiB. */
function peakKib(pid: number | undefined): number {
  const found = /^VmHWM:\s+(\d+) kB$/m.exec(readFileSync(`/proc/${pid}/status`, 'utf8'));
  if (found?.[1] === undefined) throw new Error('no VmHWM');
  return Number(found[1]);
}

describe('the built file', () => {
  it('is below 200 KB and needs no interpreter and no library', () => {
    const elf = readFileSync(executablePath);
    expect(elf.length).toBeLessThan(200_000);
    expect(elf.toString('latin1', 0, 5)).toBe('\x7fELF\x02');
    const [at, size, count] = [Number(elf.readBigUInt64LE(32)), elf.readUInt16LE(54), elf.readUInt16LE(56)];
    const types = Array.from({ length: count }, (_, i) => elf.readUInt32LE(at + i * size));
    expect(types).toContain(1); // PT_LOAD
    expect(types).not.toContain(2); // PT_DYNAMIC
    expect(types).not.toContain(3); // PT_INTERP
    expect(statSync(executablePath).mode & 0o111).toBe(0o111);
  });

  it('has no symbols and no executable stack', () => {
    const elf = readFileSync(executablePath);
    const sections = elf.readUInt16LE(60);
    const [at, size] = [Number(elf.readBigUInt64LE(40)), elf.readUInt16LE(58)];
    const sectionTypes = Array.from({ length: sections }, (_, i) => elf.readUInt32LE(at + i * size + 4));
    expect(sectionTypes).not.toContain(2); // SHT_SYMTAB
    const [headers, headerSize, count] = [Number(elf.readBigUInt64LE(32)), elf.readUInt16LE(54), elf.readUInt16LE(56)];
    const stack = Array.from({ length: count }, (_, i) => headers + i * headerSize).filter(
      (header) => elf.readUInt32LE(header) === 0x6474e551, // PT_GNU_STACK
    );
    expect(stack.map((header) => elf.readUInt32LE(header + 4) & 1)).toEqual([0]);
  });
});

describe('memory', () => {
  it('of VERSION stays below 0.5 MB', async () => {
    const child = spawn(executablePath, [], { env: { CNI_COMMAND: 'VERSION' } });
    // Far more than the pipe holds: when all of it is written, most of it has been read.
    await new Promise((resolve) => child.stdin.write(`{"cniVersion":"1.0.0","x":"${'y'.repeat(3_000_000)}`, resolve));
    const kib = peakKib(child.pid);
    child.stdin.end('"}');
    await once(child, 'exit');
    expect(kib).toBeGreaterThan(0);
    expect(kib).toBeLessThanOrEqual(512);
  });

  it('of an ADD that waits for its answer stays below 0.5 MB, too', async () => {
    await using place = await Place.make();
    const { promise: kib, resolve } = Promise.withResolvers<number>();
    const child = spawn(executablePath, [], { env: { ...place.environment, ...callEnvironment('ADD') } });
    await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => {
      resolve(peakKib(child.pid));
      socket.write(answer());
    });
    child.stdin.end(netconf);
    expect(await kib).toBeLessThanOrEqual(512);
    expect(await once(child, 'exit')).toEqual([0, null]);
    expect(await agent.only.rest).toBe('VUK1');
  });
});
