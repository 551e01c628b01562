/**
 * A backend that sends frames, without a wire: it reads and writes the rings of a session through its memory file. Split
 * rings without EVENT_IDX, receive ring of the first pair.
 */
import { closeSync, openSync, readdirSync, readFileSync, readSync, statSync, writeSync } from 'node:fs';
import type { FileIdentity, RingLayout, Session } from '../../src/native/binding.ts';
import type { Cleanup } from './cleanup.ts';

const headerBytes = 12;
const descriptorBytes = 16;

/** Of each descriptor of this process what `look` finds: number by number, as a number is given again. */
function descriptors(look: (fd: number) => string | undefined): Map<number, string> {
  const found = new Map<number, string>();
  for (const fd of readdirSync('/proc/self/fd').map(Number)) {
    try {
      const what = look(fd);
      if (what !== undefined) found.set(fd, what);
    } catch {
      // the one that the directory was read with
    }
  }
  return found;
}

/** All eventfds share one inode; proc(5), fdinfo tells them apart. */
const eventfdsOpen = (): Map<number, string> =>
  descriptors((fd) => /^eventfd-id:.*/m.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[0]);

/** A descriptor of the file. */
function descriptorOf({ device, inode }: FileIdentity): number {
  const open = descriptors((fd) => {
    const { dev, ino } = statSync(`/proc/self/fd/${fd}`, { bigint: true });
    return dev === device && ino === inode ? 'it' : undefined;
  });
  for (const fd of open.keys()) return fd;
  throw new Error('the memory of the session is not open');
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

  /** @param create makes the session: its eventfds are the new ones then */
  static async of(create: () => Session | Promise<Session>, cleanup: Cleanup): Promise<MemoryBackend> {
    const before = new Set(eventfdsOpen().values());
    const session = await create();
    const eventfds = [...eventfdsOpen()].filter(([, id]) => !before.has(id)).map(([fd]) => fd);
    const file = openSync(`/proc/self/fd/${descriptorOf(session.memory.identity())}`, 'r+');
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
