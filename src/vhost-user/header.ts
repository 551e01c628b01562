/**
 * The 12-byte header of every vhost-user message: u32 request, u32 flags, u32 payload bytes, in the byte order of the
 * machine (both ends share it; x86-64 and arm64 are little-endian).
 */

export const headerBytes = 12;

/** Bits 0–1 of the flags: protocol version 1. */
export const versionFlag = 0x1;
export const replyFlag = 0x4;
export const needReplyFlag = 0x8;

/** Flags of a reply, exactly: version 1, reply, nothing else. */
export const replyFlags = versionFlag | replyFlag;

export interface Header {
  readonly request: number;
  readonly flags: number;
  readonly size: number;
}

/** A whole message in one buffer: peers want header and payload in one sendmsg. */
export function encodeMessage(request: number, flags: number, payload: Uint8Array): Buffer {
  const message = Buffer.alloc(headerBytes + payload.length);
  message.writeUInt32LE(request, 0);
  message.writeUInt32LE(flags, 4);
  message.writeUInt32LE(payload.length, 8);
  message.set(payload, headerBytes);
  return message;
}

/** @param bytes at least 12 */
export function decodeHeader(bytes: Buffer): Header {
  return { request: bytes.readUInt32LE(0), flags: bytes.readUInt32LE(4), size: bytes.readUInt32LE(8) };
}
