/** The frame between executable and agent (docs/architecture.md). Pure: bytes in, requests out; bounds before buffers. */

export const protocolVersion = 1;
/** Oldest protocol that is still served: one below ours, when there is one. */
export const oldestProtocolVersion = Math.max(1, protocolVersion - 1);

const requestMagic = 0x3151_5556;
const answerMagic = 0x3141_5556;
const confirmMagic = 0x314b_5556;
const withdrawMagic = 0x3157_5556;
export const requestHeaderBytes = 48;
export const environmentLimitBytes = 65_536;
export const stdinLimitBytes = 4 << 20;
export const answerBodyLimitBytes = 1 << 20;
/** Length of the word with which the executable says that it has written the answer. */
export const confirmBytes = 4;

export const verbs = ['ADD', 'DEL', 'CHECK', 'GC', 'STATUS'] as const;
export type Verb = (typeof verbs)[number];

/** Role of a descriptor that travels with a request; places of descriptors that were not sent hold 0. */
export const fdRole = { netns: 1 } as const;
const knownRoles: readonly number[] = Object.values(fdRole);
const descriptorLimit = 3;

const environmentNames = new Set([
  'CNI_COMMAND',
  'CNI_CONTAINERID',
  'CNI_NETNS',
  'CNI_IFNAME',
  'CNI_ARGS',
  'CNI_PATH',
  'CNI_NETNS_OVERRIDE',
  'TRACEPARENT',
]);

export interface CniFrame {
  /** The caller's; the answer is in the same. */
  readonly protocol: number;
  readonly verb: Verb;
  /** Milliseconds left for the whole call when it was sent. */
  readonly timeLeftMs: number;
  /** Role of each descriptor, in the order sent. */
  readonly fdRoles: readonly number[];
  /** 32 hexadecimal digits. */
  readonly requestId: string;
  readonly executableVersion: string;
  readonly environment: ReadonlyMap<string, string>;
  readonly stdin: string;
}

export type FrameStep =
  | { readonly kind: 'incomplete' }
  | { readonly kind: 'frame'; readonly frame: CniFrame }
  | { readonly kind: 'foreign-protocol'; readonly version: number }
  | { readonly kind: 'malformed'; readonly what: string };

/** Collects one request. After anything but `incomplete` it is done. */
export class RequestDecoder {
  #chunks: Buffer[] = [];
  #bytes = 0;
  #wantedBytes = requestHeaderBytes;
  #headerSeen = false;

  push(chunk: Buffer): FrameStep {
    this.#chunks.push(chunk);
    this.#bytes += chunk.length;
    if (this.#bytes < this.#wantedBytes) return { kind: 'incomplete' };
    const all = this.#chunks.length === 1 ? chunk : Buffer.concat(this.#chunks);
    this.#chunks = [all];
    if (!this.#headerSeen) {
      const refused = checkHeader(all);
      if (refused !== null) return refused;
      this.#headerSeen = true;
      this.#wantedBytes = requestHeaderBytes + all.readUInt32LE(32) + all.readUInt32LE(36);
      if (all.length < this.#wantedBytes) return { kind: 'incomplete' };
    }
    if (all.length > this.#wantedBytes) return { kind: 'malformed', what: 'bytes after the request' };
    return decodeRequest(all);
  }
}

function checkHeader(bytes: Buffer): FrameStep | null {
  if (bytes.readUInt32LE(0) !== requestMagic) return { kind: 'malformed', what: 'wrong magic' };
  const version = bytes.readUInt16LE(4);
  if (version < oldestProtocolVersion || version > protocolVersion) return { kind: 'foreign-protocol', version };
  if (verbs[bytes.readUInt16LE(6) - 1] === undefined)
    return { kind: 'malformed', what: `unknown verb ${bytes.readUInt16LE(6)}` };
  const fdCount = bytes.readUInt8(12);
  if (fdCount > descriptorLimit) return { kind: 'malformed', what: `${fdCount} descriptors` };
  const roles = [...bytes.subarray(13, 16)];
  if (!roles.every((role, index) => (index < fdCount ? knownRoles.includes(role) : role === 0)))
    return { kind: 'malformed', what: `${fdCount} descriptors with the roles ${roles.join(', ')}` };
  if (bytes.readUInt32LE(44) !== 0) return { kind: 'malformed', what: 'the reserved field is not 0' };
  if (bytes.readUInt32LE(32) > environmentLimitBytes) return { kind: 'malformed', what: 'environment too large' };
  if (bytes.readUInt32LE(36) > stdinLimitBytes) return { kind: 'malformed', what: 'stdin too large' };
  return null;
}

function decodeRequest(bytes: Buffer): FrameStep {
  const verb = verbs[bytes.readUInt16LE(6) - 1];
  if (verb === undefined) return { kind: 'malformed', what: 'unknown verb' };
  const environmentBytes = bytes.readUInt32LE(32);
  const section = bytes.subarray(requestHeaderBytes, requestHeaderBytes + environmentBytes);
  if (section.length > 0 && section[section.length - 1] !== 0)
    return { kind: 'malformed', what: 'environment without an end' };
  const environment = new Map<string, string>();
  for (const entry of section.toString('utf8').split('\0').slice(0, -1)) {
    const equals = entry.indexOf('=');
    const name = entry.slice(0, equals);
    if (equals < 1 || !environmentNames.has(name) || environment.has(name)) {
      return { kind: 'malformed', what: `environment entry ${JSON.stringify(entry.slice(0, 40))}` };
    }
    environment.set(name, entry.slice(equals + 1));
  }
  if (environment.get('CNI_COMMAND') !== verb) return { kind: 'malformed', what: 'verb and CNI_COMMAND differ' };
  const version = bytes.readUInt32LE(40);
  return {
    kind: 'frame',
    frame: {
      protocol: bytes.readUInt16LE(4),
      verb,
      timeLeftMs: bytes.readUInt32LE(8),
      fdRoles: [...bytes.subarray(13, 13 + bytes.readUInt8(12))],
      requestId: bytes.subarray(16, 32).toString('hex'),
      executableVersion: `${version >>> 16}.${(version >>> 8) & 0xff}.${version & 0xff}`,
      environment,
      stdin: bytes.subarray(requestHeaderBytes + environmentBytes).toString('utf8'),
    },
  };
}

export interface CniAnswer {
  readonly exitCode: number;
  readonly body: string;
}

/** @throws RangeError for a body above 1 MiB */
export function encodeAnswer(answer: CniAnswer, protocol = protocolVersion): Buffer {
  const body = Buffer.from(answer.body, 'utf8');
  if (body.length > answerBodyLimitBytes) throw new RangeError(`answer of ${body.length} bytes`);
  const header = Buffer.alloc(16);
  header.writeUInt32LE(answerMagic, 0);
  header.writeUInt16LE(protocol, 4);
  header.writeUInt16LE(answer.exitCode, 6);
  header.writeUInt32LE(body.length, 8);
  return Buffer.concat([header, body]);
}

/** Follows the answer to an ADD that is taken back because no confirmation came. */
export function encodeWithdrawal(): Buffer {
  const word = Buffer.alloc(4);
  word.writeUInt32LE(withdrawMagic);
  return word;
}

export function isConfirmation(bytes: Buffer): boolean {
  return bytes.length === confirmBytes && bytes.readUInt32LE(0) === confirmMagic;
}
