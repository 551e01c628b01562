/** What a backend reads from the wire: message boundaries, names, and one line per message for traces. */
import { decodeHeader, headerBytes, needReplyFlag } from '../../src/vhost-user/header.ts';
import { requestName } from '../../src/vhost-user/request.ts';
import type { NativeFd } from '../../src/native/binding.ts';

export interface WireMessage {
  readonly name: string;
  readonly request: number;
  readonly flags: number;
  readonly payload: Buffer;
  readonly fds: readonly NativeFd[];
}

/**
 * Cuts a byte stream into messages. A read that ends in a message with descriptors may begin with messages without, so
 * descriptors go to the messages that take some; what is left over stays with the last one, where it shows.
 */
export class MessageReader {
  #bytes = Buffer.alloc(0);
  readonly #fds: NativeFd[] = [];

  push(chunk: Buffer, fds: readonly NativeFd[]): WireMessage[] {
    this.#bytes = Buffer.concat([this.#bytes, chunk]);
    this.#fds.push(...fds);
    const messages: WireMessage[] = [];
    while (this.#bytes.length >= headerBytes) {
      const { request, flags, size } = decodeHeader(this.#bytes);
      if (this.#bytes.length < headerBytes + size) break;
      const payload = this.#bytes.subarray(headerBytes, headerBytes + size);
      const name = requestName(request);
      messages.push({ name, request, flags, payload, fds: this.#fds.splice(0, descriptorsOf(name, payload)) });
      this.#bytes = this.#bytes.subarray(headerBytes + size);
    }
    const last = messages.pop();
    if (last !== undefined) messages.push({ ...last, fds: [...last.fds, ...this.#fds.splice(0)] });
    return messages;
  }
}

function descriptorsOf(name: string, payload: Buffer): number {
  switch (name) {
    case 'SET_MEM_TABLE':
      return payload.length < 4 ? 0 : payload.readUInt32LE(0);
    case 'SET_BACKEND_REQ_FD':
      return 1;
    case 'SET_VRING_KICK':
    case 'SET_VRING_CALL':
    case 'SET_VRING_ERR':
      return payload.length === 8 && (payload.readBigUInt64LE(0) & 0x100n) === 0n ? 1 : 0;
    default:
      return 0;
  }
}

/** One region of SET_MEM_TABLE, as it stands on the wire. */
export interface WireRegion {
  readonly guestAddress: bigint;
  readonly sizeBytes: bigint;
  readonly userAddress: bigint;
  readonly offsetBytes: bigint;
}

/** @param payload of 8 + 32 bytes per region */
export function decodeMemoryTable(payload: Buffer): WireRegion[] {
  return Array.from({ length: (payload.length - 8) / 32 }, (_, index) => {
    const word = (at: number): bigint => payload.readBigUInt64LE(8 + 32 * index + 8 * at);
    return { guestAddress: word(0), sizeBytes: word(1), userAddress: word(2), offsetBytes: word(3) };
  });
}

/** `SET_VRING_NUM! 0 1024`: name, `!` where an answer is asked for, then what the payload says. */
export function describeMessage({ name, flags, payload }: WireMessage): string {
  const mark = (flags & needReplyFlag) !== 0 ? '!' : '';
  return [`${name}${mark}`, ...describePayload(name, payload)].join(' ');
}

function describePayload(name: string, payload: Buffer): string[] {
  switch (name) {
    case 'SET_VRING_NUM':
    case 'SET_VRING_BASE':
    case 'GET_VRING_BASE':
    case 'SET_VRING_ENABLE':
      return [String(payload.readUInt32LE(0)), String(payload.readUInt32LE(4))];
    case 'SET_VRING_ADDR':
      return [String(payload.readUInt32LE(0))];
    case 'SET_MEM_TABLE':
      return [String(payload.readUInt32LE(0))];
    case 'SET_VRING_KICK':
    case 'SET_VRING_CALL':
    case 'NET_SET_MTU':
      return [payload.readBigUInt64LE(0).toString()];
    case 'SET_FEATURES':
    case 'SET_PROTOCOL_FEATURES':
    case 'SET_STATUS':
      return [`0x${payload.readBigUInt64LE(0).toString(16)}`];
    default:
      return [];
  }
}
