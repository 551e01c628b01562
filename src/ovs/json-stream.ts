/**
 * Splits a byte stream into JSON values. OVSDB's JSON-RPC has no framing (RFC 7047 section 4): values follow each other,
 * with or without white space, so their ends are found by depth, honouring strings and escapes.
 *
 * Bounded: bytes of one value and its depth. Anything but an object or array at the top level is an error.
 */
import { messageOf, VirtioUserError } from '../errors.ts';

export interface JsonStreamLimits {
  readonly maximumBytes: number;
  readonly maximumDepth: number;
}

/** A whole monitor reply of a large node stays below a few MiB; real messages are less than 10 deep. */
export const defaultJsonLimits: JsonStreamLimits = { maximumBytes: 16 << 20, maximumDepth: 128 };

const byte = {
  quote: 0x22,
  backslash: 0x5c,
  openBracket: 0x5b,
  closeBracket: 0x5d,
  openBrace: 0x7b,
  closeBrace: 0x7d,
} as const;

export class JsonStream {
  readonly #limits: JsonStreamLimits;
  /** Bytes of the unfinished value. */
  #chunks: Buffer[] = [];
  #bytes = 0;
  #depth = 0;
  #inString = false;
  #escaped = false;

  constructor(limits: JsonStreamLimits = defaultJsonLimits) {
    this.#limits = limits;
  }

  /**
   * @returns the values that end in this chunk, parsed
   * @throws VirtioUserError PROTOCOL_VIOLATION; the stream is useless afterwards
   */
  push(chunk: Buffer): unknown[] {
    const values: unknown[] = [];
    let start = 0;
    for (let index = 0; index < chunk.length; index += 1) {
      const current = chunk[index] ?? 0;
      if (this.#depth === 0) {
        if (isSpace(current)) continue;
        if (current !== byte.openBrace && current !== byte.openBracket) throw violation('text that is no JSON object');
        this.#depth = 1;
        start = index;
      } else if (this.#inString) {
        this.#insideString(current);
      } else if (this.#outsideString(current)) {
        this.#keep(chunk.subarray(start, index + 1));
        values.push(this.#take());
      }
    }
    if (this.#depth > 0) this.#keep(chunk.subarray(start));
    return values;
  }

  #insideString(current: number): void {
    if (this.#escaped) this.#escaped = false;
    else if (current === byte.backslash) this.#escaped = true;
    else if (current === byte.quote) this.#inString = false;
  }

  /** @returns whether the value ends here */
  #outsideString(current: number): boolean {
    if (current === byte.quote) {
      this.#inString = true;
    } else if (current === byte.openBrace || current === byte.openBracket) {
      this.#depth += 1;
      if (this.#depth > this.#limits.maximumDepth) throw violation(`JSON deeper than ${this.#limits.maximumDepth}`);
    } else if (current === byte.closeBrace || current === byte.closeBracket) {
      this.#depth -= 1;
    }
    return this.#depth === 0;
  }

  #keep(part: Buffer): void {
    this.#bytes += part.length;
    if (this.#bytes > this.#limits.maximumBytes) {
      throw violation(`a JSON value of more than ${this.#limits.maximumBytes} bytes`);
    }
    this.#chunks.push(part);
  }

  #take(): unknown {
    const text = Buffer.concat(this.#chunks).toString('utf8');
    this.#chunks = [];
    this.#bytes = 0;
    try {
      return JSON.parse(text);
    } catch (thrown) {
      throw violation(`malformed JSON: ${messageOf(thrown).slice(0, 200)}`);
    }
  }
}

function isSpace(current: number): boolean {
  return current === 0x20 || current === 0x0a || current === 0x0d || current === 0x09;
}

function violation(what: string): VirtioUserError {
  return new VirtioUserError('PROTOCOL_VIOLATION', `OVSDB sent ${what}`);
}
