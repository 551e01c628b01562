/**
 * Requests from backend to frontend, on the back channel: a streaming decoder that judges each as it comes. It holds one
 * request, of a bounded size, and nothing that the peer announces makes it allocate.
 * Source: QEMU docs/interop/vhost-user.rst, "Back-end message types".
 */
import { VirtioUserError } from '../errors.ts';
import { decodeHeader, headerBytes, needReplyFlag, versionFlag } from './header.ts';

interface BackRequestSpec {
  readonly number: number;
  readonly payloadBytes: number;
  /** Bits of the payload's first word that name a ring, or 0: it names none. */
  readonly ringMask: number;
}

const names = (number: number, payloadBytes: number, ringMask = 0): BackRequestSpec => ({
  number,
  payloadBytes,
  ringMask,
});

/** Those that there are. CONFIG_CHANGE_MSG is served; the others need protocol features that we never agree on. */
export const backRequests = {
  IOTLB_MSG: names(1, 32),
  CONFIG_CHANGE_MSG: names(2, 0),
  VRING_HOST_NOTIFIER_MSG: names(3, 24, 0xff),
  VRING_CALL: names(4, 8, 0xffffffff),
  VRING_ERR: names(5, 8, 0xffffffff),
  SHARED_OBJECT_ADD: names(6, 16),
  SHARED_OBJECT_REMOVE: names(7, 16),
  SHARED_OBJECT_LOOKUP: names(8, 16),
  SHMEM_MAP: names(9, 40),
  SHMEM_UNMAP: names(10, 40),
} as const satisfies Readonly<Record<string, BackRequestSpec>>;

/** More than any request of the specification has; one that announces more is no request. */
export const maximumBackPayloadBytes = 256;

export interface BackRequest {
  readonly number: number;
  /** For people: `CONFIG_CHANGE_MSG`, or `request 99`. */
  readonly name: string;
  readonly needsReply: boolean;
  /** Why it is refused, or null: it is one that we serve. */
  readonly refusal: string | null;
}

const nameByNumber: ReadonlyMap<number, keyof typeof backRequests> = new Map(
  Object.entries(backRequests).map(([name, { number }]) => [number, name as keyof typeof backRequests]),
);

export class BackRequestDecoder {
  readonly #rings: () => number;
  /** Header and payload of the request that is coming in; made when somebody speaks. */
  #bytes = Buffer.alloc(0);
  #filled = 0;
  /** That came with the request that is coming in. */
  #descriptors = 0;

  /** @param rings how many rings the device has now */
  constructor(rings: () => number) {
    this.#rings = rings;
  }

  /**
   * Takes bytes as they come, in pieces of any size, and gives the requests that they complete, one by one, so that the
   * caller may stop in between.
   * @param descriptors how many came along. A read ends after the message that carried them, so they belong to the last
   *   request that has bytes in the chunk.
   * @throws VirtioUserError PROTOCOL_VIOLATION; the stream is void then and the channel must be closed
   */
  *take(chunk: Uint8Array, descriptors: number): Generator<BackRequest, void, undefined> {
    if (this.#bytes.length === 0) this.#bytes = Buffer.alloc(headerBytes + maximumBackPayloadBytes);
    let rest = chunk;
    while (rest.length > 0) {
      const wanted = this.#filled < headerBytes ? headerBytes : headerBytes + this.#payloadBytes;
      const taken = Math.min(rest.length, wanted - this.#filled);
      this.#bytes.set(rest.subarray(0, taken), this.#filled);
      this.#filled += taken;
      rest = rest.subarray(taken);
      if (rest.length === 0) this.#descriptors += descriptors;
      if (this.#filled < headerBytes) return;
      if (wanted === headerBytes) this.#checkHeader();
      if (this.#filled === headerBytes + this.#payloadBytes) yield this.#complete();
    }
  }

  get #payloadBytes(): number {
    return decodeHeader(this.#bytes).size;
  }

  #checkHeader(): void {
    const { flags, size } = decodeHeader(this.#bytes);
    if (flags !== versionFlag && flags !== (versionFlag | needReplyFlag)) {
      throw this.#violation(`flags 0x${flags.toString(16)}`);
    }
    if (size > maximumBackPayloadBytes) throw this.#violation(`${size} bytes of payload`);
  }

  #complete(): BackRequest {
    const { request: number, flags } = decodeHeader(this.#bytes);
    const needsReply = (flags & needReplyFlag) !== 0;
    const request = { number, name: backRequestName(number), needsReply, refusal: this.#judge(number) };
    this.#filled = 0;
    this.#descriptors = 0;
    return request;
  }

  /** @returns why it is refused, or null */
  #judge(number: number): string | null {
    // BACKEND_SEND_FD is never agreed on: no request may bring a descriptor.
    if (this.#descriptors > 0) return `${this.#descriptors} descriptors that nothing allows`;
    const name = nameByNumber.get(number);
    if (name === undefined) return 'unknown';
    const spec: BackRequestSpec = backRequests[name];
    const size = this.#filled - headerBytes;
    if (size !== spec.payloadBytes) return `${size} bytes of payload instead of ${spec.payloadBytes}`;
    if (spec.ringMask !== 0) {
      const ring = (this.#bytes.readUInt32LE(headerBytes) & spec.ringMask) >>> 0;
      if (ring >= this.#rings()) return `ring ${ring} of ${this.#rings()}`;
    }
    return name === 'CONFIG_CHANGE_MSG' ? null : 'never agreed on';
  }

  #violation(what: string): VirtioUserError {
    return new VirtioUserError('PROTOCOL_VIOLATION', `backend sent a request with ${what}`, {
      details: { header: this.#bytes.subarray(0, headerBytes).toString('hex') },
    });
  }
}

function backRequestName(number: number): string {
  return nameByNumber.get(number) ?? `request ${number}`;
}
