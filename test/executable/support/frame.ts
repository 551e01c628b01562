/** The frame between executable and agent as docs/architecture.md has it, written down a second time for the tests. */

export interface RequestFrame {
  /** All bytes of the request. */
  readonly raw: Buffer;
  readonly verb: number;
  readonly timeLeftMs: number;
  readonly descriptors: number;
  readonly roles: readonly number[];
  readonly requestId: string;
  readonly environment: readonly string[];
  readonly stdin: Buffer;
  readonly executableVersion: number;
}

const headerBytes = 48;

/** The request at the start of `bytes`, or null while it is incomplete. Throws if it is none. */
export function readRequest(bytes: Buffer): RequestFrame | null {
  if (bytes.length < headerBytes) return null;
  if (bytes.toString('latin1', 0, 4) !== 'VUQ1') throw new Error(`magic ${bytes.toString('hex', 0, 4)}`);
  if (bytes.readUInt16LE(4) !== 1) throw new Error(`protocol ${bytes.readUInt16LE(4)}`);
  if (bytes.readUInt32LE(44) !== 0) throw new Error('reserved field is not 0');
  const environmentBytes = bytes.readUInt32LE(32);
  const stdinAt = headerBytes + environmentBytes;
  const end = stdinAt + bytes.readUInt32LE(36);
  if (bytes.length < end) return null;
  const environment = bytes.toString('utf8', headerBytes, stdinAt);
  if (environment !== '' && !environment.endsWith('\0')) throw new Error('environment does not end with NUL');
  return {
    raw: bytes.subarray(0, end),
    verb: bytes.readUInt16LE(6),
    timeLeftMs: bytes.readUInt32LE(8),
    descriptors: bytes.readUInt8(12),
    roles: [...bytes.subarray(13, 16)],
    requestId: bytes.toString('hex', 16, 32),
    environment: environment.split('\0').slice(0, -1),
    stdin: bytes.subarray(stdinAt, end),
    executableVersion: bytes.readUInt32LE(40),
  };
}

export interface AnswerFields {
  readonly magic?: string;
  readonly protocol?: number;
  readonly exitCode?: number;
  readonly bodyBytes?: number;
}

/** An answer; fields can be wrong on purpose. */
export function answer(body: string | Buffer = '', fields: AnswerFields = {}): Buffer {
  const bytes = Buffer.from(body);
  const header = Buffer.alloc(16);
  header.write(fields.magic ?? 'VUA1', 0, 'latin1');
  header.writeUInt16LE(fields.protocol ?? 1, 4);
  header.writeUInt16LE(fields.exitCode ?? 0, 6);
  header.writeUInt32LE(fields.bodyBytes ?? bytes.length, 8);
  return Buffer.concat([header, bytes]);
}
