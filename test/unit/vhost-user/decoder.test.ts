import { describe, expect, it } from '@jest/globals';
import { ReplyDecoder } from '../../../src/vhost-user/decoder.ts';
import { encodeMessage, replyFlags } from '../../../src/vhost-user/header.ts';
import { u64 } from '../../support/scripted-backend.ts';

const reply = encodeMessage(1, replyFlags, u64(0x8123456789abcdefn));

function expecting(): ReplyDecoder {
  const decoder = new ReplyDecoder();
  decoder.expect(1, 8);
  return decoder;
}

function header(request: number, flags: number, size: number): Buffer {
  const bytes = Buffer.alloc(12);
  [request, flags, size].forEach((word, index) => bytes.writeUInt32LE(word, 4 * index));
  return bytes;
}

describe('ReplyDecoder', () => {
  it('gives the payload of a whole reply', () => {
    expect(expecting().push(reply)).toEqual(u64(0x8123456789abcdefn));
  });

  it('[34] takes a reply byte by byte', () => {
    const decoder = expecting();
    for (const byte of reply.subarray(0, -1)) expect(decoder.push(Buffer.of(byte))).toBeNull();
    expect(decoder.push(reply.subarray(-1))).toEqual(u64(0x8123456789abcdefn));
  });

  it('takes a reply cut anywhere', () => {
    for (let cut = 0; cut <= reply.length; cut += 1) {
      const decoder = expecting();
      const first = decoder.push(reply.subarray(0, cut));
      const second = decoder.push(reply.subarray(cut));
      expect(first ?? second).toEqual(u64(0x8123456789abcdefn));
    }
  });

  it('takes one reply after another', () => {
    const decoder = expecting();
    decoder.push(reply);
    decoder.expect(40, 8);
    expect(decoder.push(encodeMessage(40, replyFlags, u64(11n)))).toEqual(u64(11n));
  });

  it.each([
    ['no reply flag', header(1, 0x1, 8)],
    ['need_reply set', header(1, 0xd, 8)],
    ['version 0', header(1, 0x4, 8)],
    ['version 2', header(1, 0x6, 8)],
    ['an unknown flag', header(1, 0x15, 8)],
    ['another request', header(2, 0x5, 8)],
    ['size 0', header(1, 0x5, 0)],
    ['size 4', header(1, 0x5, 4)],
    ['size 16', header(1, 0x5, 16)],
    ['size 4 GiB', header(1, 0x5, 0xffffffff)],
  ])('[33] refuses a header with %s and keeps its 12 bytes', (_what, bytes) => {
    const decoder = expecting();
    decoder.push(bytes.subarray(0, 11));
    expect(() => decoder.push(bytes.subarray(11))).toThrow(
      expect.objectContaining({ code: 'PROTOCOL_VIOLATION', details: { header: bytes.toString('hex') } }),
    );
  });

  it('refuses bytes that answer nothing', () => {
    expect(() => new ReplyDecoder().push(reply)).toThrow(expect.objectContaining({ code: 'PROTOCOL_VIOLATION' }));
  });

  it('refuses bytes behind a reply', () => {
    expect(() => expecting().push(Buffer.concat([reply, Buffer.of(0)]))).toThrow('1 bytes after the reply');
  });

  it('knows whether an end of file would cut a reply', () => {
    const decoder = expecting();
    expect(decoder.partial).toBe(false);
    decoder.push(reply.subarray(0, 1));
    expect(decoder.partial).toBe(true);
    decoder.push(reply.subarray(1));
    expect(decoder.partial).toBe(false);
  });

  it('refuses a second expectation before the first is met: a bug of ours', () => {
    expect(() => expecting().expect(2, 8)).toThrow(expect.objectContaining({ code: 'BUG' }));
  });
});
