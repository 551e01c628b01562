/**
 * Streaming decoder of replies. It holds at most one reply, of a size that the request fixes beforehand: nothing the
 * peer announces makes it allocate.
 */
import { VirtioUserError } from '../errors.ts';
import { decodeHeader, headerBytes, replyFlags } from './header.ts';
import { requestName } from './request.ts';

interface Expectation {
  readonly request: number;
  readonly size: number;
}

export class ReplyDecoder {
  #expected: Expectation | null = null;
  /** Header and payload of the reply that is coming in. */
  #bytes = Buffer.alloc(0);
  #filled = 0;

  /** Announces the one reply that may come next. */
  expect(request: number, size: number): void {
    if (this.#expected !== null) {
      throw new VirtioUserError('BUG', `${requestName(request)} sent before the reply to the one before`);
    }
    this.#expected = { request, size };
    this.#bytes = Buffer.alloc(headerBytes + size);
    this.#filled = 0;
  }

  /** Whether a reply has begun and not ended: an end of file now cuts it. */
  get partial(): boolean {
    return this.#expected !== null && this.#filled > 0;
  }

  /**
   * Takes bytes as they come, in pieces of any size.
   * @returns the payload once the reply is whole, else null
   * @throws VirtioUserError PROTOCOL_VIOLATION; the stream is void then and the connection must be closed
   */
  push(chunk: Uint8Array): Buffer | null {
    if (chunk.length === 0) return null;
    const expected = this.#expected;
    if (expected === null) {
      throw violation(`${chunk.length} bytes that answer nothing`, chunk.subarray(0, headerBytes));
    }
    const taken = Math.min(chunk.length, this.#bytes.length - this.#filled);
    const headerWasWhole = this.#filled >= headerBytes;
    this.#bytes.set(chunk.subarray(0, taken), this.#filled);
    this.#filled += taken;
    if (!headerWasWhole && this.#filled >= headerBytes) this.#checkHeader(expected);
    if (taken < chunk.length) {
      throw violation(
        `${chunk.length - taken} bytes after the reply to ${requestName(expected.request)}`,
        this.#header,
      );
    }
    if (this.#filled < this.#bytes.length) return null;
    this.#expected = null;
    return this.#bytes.subarray(headerBytes);
  }

  get #header(): Uint8Array {
    return this.#bytes.subarray(0, Math.min(this.#filled, headerBytes));
  }

  #checkHeader(expected: Expectation): void {
    const { request, flags, size } = decodeHeader(this.#bytes);
    const asked = requestName(expected.request);
    if (flags !== replyFlags) throw violation(`flags 0x${flags.toString(16)} in the reply to ${asked}`, this.#header);
    if (request !== expected.request) throw violation(`${requestName(request)} as reply to ${asked}`, this.#header);
    if (size !== expected.size) {
      throw violation(`${size} bytes instead of ${expected.size} as reply to ${asked}`, this.#header);
    }
  }
}

/** PROTOCOL_VIOLATION with the header bytes that show it. */
function violation(what: string, header: Uint8Array): VirtioUserError {
  return new VirtioUserError('PROTOCOL_VIOLATION', `backend sent ${what}`, {
    details: { header: Buffer.from(header).toString('hex') },
  });
}
