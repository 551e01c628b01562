/**
 * Splits a byte stream into JSON texts. OVSDB's JSON-RPC has no framing (RFC 7047 §4): a message ends where its braces
 * balance, braces inside strings not counted. Bounded in size and depth.
 */
import { VirtioUserError } from '../errors.ts';

const limitBytes = 16 << 20;
const limitDepth = 64;

export class JsonStream {
  #chunks: Buffer[] = [];
  #bytes = 0;
  #depth = 0;
  #inString = false;
  #escaped = false;

  /** @returns the values that are complete now. @throws PROTOCOL_VIOLATION */
  push(chunk: Buffer): unknown[] {
    const values: unknown[] = [];
    let start = 0;
    for (let at = 0; at < chunk.length; at++) {
      const byte = chunk[at];
      if (this.#inString) {
        if (this.#escaped) this.#escaped = false;
        else if (byte === 0x5c) this.#escaped = true;
        else if (byte === 0x22) this.#inString = false;
      } else if (byte === 0x22 && this.#depth > 0) {
        this.#inString = true;
      } else if (byte === 0x7b || byte === 0x5b) {
        if (++this.#depth > limitDepth) throw violation(`nesting deeper than ${limitDepth}`);
      } else if (byte === 0x7d || byte === 0x5d) {
        if (--this.#depth < 0) throw violation('a closing brace without an opening one');
        if (this.#depth === 0) {
          values.push(this.#take(chunk.subarray(start, at + 1)));
          start = at + 1;
        }
      } else if (this.#depth === 0 && byte !== 0x20 && byte !== 0x0a && byte !== 0x0d && byte !== 0x09) {
        throw violation('text that is neither object nor array');
      }
    }
    const rest = chunk.subarray(start);
    if (this.#depth > 0 && rest.length > 0) {
      this.#bytes += rest.length;
      if (this.#bytes > limitBytes) throw violation(`a message of more than ${limitBytes} bytes`);
      this.#chunks.push(Buffer.from(rest));
    }
    return values;
  }

  #take(last: Buffer): unknown {
    const text = Buffer.concat([...this.#chunks, last]).toString('utf8');
    this.#chunks = [];
    this.#bytes = 0;
    try {
      return JSON.parse(text);
    } catch {
      throw violation('text that is not JSON');
    }
  }
}

function violation(what: string): VirtioUserError {
  return new VirtioUserError('PROTOCOL_VIOLATION', `OVSDB sent ${what}`);
}
