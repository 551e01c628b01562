import { describe, expect, it } from '@jest/globals';
import { JsonStream } from '../../../src/ovs/json-stream.ts';

const limits = { maximumBytes: 1000, maximumDepth: 10 };
const feed = (stream: JsonStream, text: string): unknown[] => stream.push(Buffer.from(text));

describe('a JSON stream', () => {
  const values = [{ a: ['}]"{[', '\\', '\\"', 'é☃😀'] }, [1, { b: { c: [] } }], { text: 'x"\\\\"y' }];
  const text = values.map((value) => JSON.stringify(value)).join(' \n');

  it.each([1, 2, 3, 7, 64])('finds the same values whatever the chunks, here %i bytes', (size) => {
    const stream = new JsonStream(limits);
    const bytes = Buffer.from(text);
    const found: unknown[] = [];
    for (let at = 0; at < bytes.length; at += size) found.push(...stream.push(bytes.subarray(at, at + size)));
    expect(found).toEqual(values);
  });

  it('finds several values in one chunk without anything between them', () => {
    expect(feed(new JsonStream(limits), '{"a":1}[2]{"c":{}}')).toEqual([{ a: 1 }, [2], { c: {} }]);
  });

  it('keeps half a value until the rest comes', () => {
    const stream = new JsonStream(limits);
    expect(feed(stream, '{"a":"}')).toEqual([]);
    expect(feed(stream, '"}')).toEqual([{ a: '}' }]);
  });

  it.each([
    ['text', 'hello'],
    ['a number', '5 '],
    ['a stray closing brace', '}'],
    ['brackets that do not match', '{"a":1]'],
    ['a bare word inside', '{"a":oops}'],
    ['zero bytes', '\0\0'],
  ])('refuses %s', (_title, garbage) => {
    expect(() => feed(new JsonStream(limits), garbage)).toThrow(
      expect.objectContaining({ code: 'PROTOCOL_VIOLATION' }),
    );
  });

  it('refuses a value that nests too deep, before it ends', () => {
    expect(() => feed(new JsonStream(limits), '['.repeat(10))).not.toThrow();
    expect(() => feed(new JsonStream(limits), '['.repeat(11))).toThrow('deeper than 10');
  });

  it('refuses a value that is too large, before it ends, and counts each value afresh', () => {
    const stream = new JsonStream(limits);
    const large = JSON.stringify(['x'.repeat(900)]);
    for (let count = 0; count < 5; count += 1) expect(feed(stream, large)).toHaveLength(1);
    expect(feed(stream, `["${'x'.repeat(900)}`)).toEqual([]);
    expect(() => feed(stream, 'x'.repeat(200))).toThrow('more than 1000 bytes');
  });
});
