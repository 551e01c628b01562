/**
 * A backend that sends frames, without a wire: it reads and writes the rings of a session through its memory file. Split
 * rings without EVENT_IDX, receive ring of the first pair.
 */
import { closeSync, openSync, readdirSync, readlinkSync, readSync, writeSync } from 'node:fs';
import type { RingLayout, Session } from '../../src/native/binding.ts';
import type { Cleanup } from './cleanup.ts';

const headerBytes = 12;
const descriptorBytes = 16;

/** Descriptors of this process that are `what` (`anon_inode:[eventfd]`, …). */
function descriptorsOf(what: string): number[] {
  return readdirSync('/proc/self/fd')
    .map(Number)
    .filter((fd) => {
      try {
        return readlinkSync(`/proc/self/fd/${fd}`).startsWith(what);
      } catch {
        return false; // the one that the directory was read with
      }
    });
}

export class MemoryBackend {
  readonly #memory: number;
  readonly #eventfds: readonly number[];
  readonly #label: bigint;
  readonly #ring: RingLayout;
  #next = 0;

  private constructor(memory: number, eventfds: readonly number[], { memoryLabel, rings }: Session) {
    const [ring] = rings;
    if (ring === undefined) throw new Error('a session without rings');
    this.#memory = memory;
    this.#eventfds = eventfds;
    this.#label = memoryLabel;
    this.#ring = ring;
  }

  /** @param create makes the session: its memory and its eventfds are the new descriptors then */
  static async of(create: () => Session | Promise<Session>, cleanup: Cleanup): Promise<MemoryBackend> {
    const kinds = ['/memfd:vu-session', 'anon_inode:[eventfd]'] as const;
    const [memoriesBefore, eventfdsBefore] = kinds.map(descriptorsOf);
    const session = await create();
    const memory = descriptorsOf(kinds[0]).filter((fd) => memoriesBefore?.includes(fd) === false);
    const eventfds = descriptorsOf(kinds[1]).filter((fd) => eventfdsBefore?.includes(fd) === false);
    const file = openSync(`/proc/self/fd/${memory[0]}`, 'r+');
    cleanup.add('memory of the backend', () => closeSync(file));
    return new MemoryBackend(file, eventfds, session);
  }

  /** Puts a frame into the next receive buffer and calls the driver. */
  send(frame: Buffer): void {
    const { size, descriptorAddress, availAddress, usedAddress } = this.#ring;
    const slot = this.#next % size;
    if (this.#read(availAddress + 2n, 2).readUInt16LE() === this.#next) throw new Error('no receive buffer');
    const head = this.#read(availAddress + 4n + BigInt(2 * slot), 2).readUInt16LE();
    const descriptor = this.#read(descriptorAddress + BigInt(descriptorBytes * head), descriptorBytes);
    const header = Buffer.alloc(headerBytes);
    header.writeUInt16LE(1, 10); // num_buffers
    const bytes = Buffer.concat([header, frame]);
    this.#write(descriptor.readBigUInt64LE(), bytes);
    const element = Buffer.alloc(8);
    element.writeUInt32LE(head, 0);
    element.writeUInt32LE(bytes.length, 4);
    this.#write(usedAddress + 4n + BigInt(8 * slot), element);
    this.#next = (this.#next + 1) & 0xffff;
    const index = Buffer.alloc(2);
    index.writeUInt16LE(this.#next);
    this.#write(usedAddress + 2n, index);
    // Which of them is the call of this ring nobody tells; a kick too many does no harm.
    const one = Buffer.alloc(8);
    one.writeBigUInt64LE(1n);
    for (const eventfd of this.#eventfds) writeSync(eventfd, one);
  }

  #read(address: bigint, bytes: number): Buffer {
    const buffer = Buffer.alloc(bytes);
    readSync(this.#memory, buffer, 0, bytes, Number(address - this.#label));
    return buffer;
  }

  #write(address: bigint, bytes: Buffer): void {
    writeSync(this.#memory, bytes, 0, bytes.length, Number(address - this.#label));
  }
}
