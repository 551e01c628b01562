import { describe, expect, it } from '@jest/globals';
import {
  answerBodyLimitBytes,
  encodeAnswer,
  environmentLimitBytes,
  type FrameStep,
  isConfirmation,
  RequestDecoder,
  stdinLimitBytes,
} from '../../../src/cni/frame.ts';
import { confirmWord, type RequestFields, requestFrame, requestId } from '../../support/cni-request.ts';

const environment = { CNI_COMMAND: 'ADD', CNI_CONTAINERID: 'c1', CNI_ARGS: 'A=b;C=d' };
const stdin = '{"name":"übung"}';

function decode(...chunks: readonly Buffer[]): FrameStep {
  const decoder = new RequestDecoder();
  let step: FrameStep = { kind: 'incomplete' };
  for (const chunk of chunks) {
    expect(step.kind).toBe('incomplete');
    step = decoder.push(chunk);
  }
  return step;
}

describe('a request', () => {
  it('decodes to its verb, deadline, descriptors, id, version, variables and stdin', () => {
    const wire = requestFrame(environment, stdin, { fdCount: 1, roles: [1], timeLeftMs: 59_000 });
    expect(decode(wire)).toEqual({
      kind: 'frame',
      frame: {
        protocol: 1,
        verb: 'ADD',
        timeLeftMs: 59_000,
        fdRoles: [1],
        requestId,
        executableVersion: '1.2.3',
        environment: new Map(Object.entries(environment)),
        stdin,
      },
    });
  });

  it('decodes the same however it is cut', () => {
    const wire = requestFrame(environment, stdin);
    const whole = decode(wire);
    expect(decode(...Array.from(wire, (byte) => Buffer.of(byte)))).toEqual(whole);
    for (const at of [1, 47, 48, 49, wire.length - 1]) {
      expect(decode(wire.subarray(0, at), wire.subarray(at))).toEqual(whole);
    }
  });

  it('keeps "=" and emptiness in values', () => {
    const step = decode(requestFrame({ CNI_COMMAND: 'DEL', CNI_NETNS: '', CNI_ARGS: 'A=b=c' }, ''));
    expect(step).toMatchObject({ kind: 'frame', frame: { verb: 'DEL', stdin: '' } });
    if (step.kind !== 'frame') return;
    expect([...step.frame.environment]).toEqual([
      ['CNI_COMMAND', 'DEL'],
      ['CNI_NETNS', ''],
      ['CNI_ARGS', 'A=b=c'],
    ]);
  });

  it('may have 4 MiB of stdin and 64 KiB of environment', () => {
    const step = decode(requestFrame({ CNI_COMMAND: 'GC' }, Buffer.alloc(stdinLimitBytes, 0x20)));
    expect(step).toMatchObject({ kind: 'frame' });
    const filler = 'x'.repeat(environmentLimitBytes - 'CNI_COMMAND=GC\0CNI_ARGS=\0'.length);
    expect(decode(requestFrame({ CNI_COMMAND: 'GC', CNI_ARGS: filler }, ''))).toMatchObject({ kind: 'frame' });
  });
});

describe('a request that is refused', () => {
  const headers: readonly (readonly [string, Partial<RequestFields>, string])[] = [
    ['another magic', { magic: 'HTTP' }, 'magic'],
    ['verb 0', { verb: 0 }, 'verb 0'],
    ['verb 6', { verb: 6 }, 'verb 6'],
    ['four descriptors', { fdCount: 4, roles: [1, 1, 1] }, '4 descriptors'],
    ['a descriptor without a role', { fdCount: 1 }, 'roles 0'],
    ['a role nobody knows', { fdCount: 1, roles: [9] }, 'roles 9'],
    ['a role without a descriptor', { fdCount: 0, roles: [1] }, 'roles 1'],
    ['a reserved field in use', { reserved: 1 }, 'reserved'],
    ['an environment above 64 KiB', { environmentBytes: environmentLimitBytes + 1 }, 'environment'],
    ['an environment of 4 GiB', { environmentBytes: 0xffff_ffff }, 'environment'],
    ['stdin above 4 MiB', { stdinBytes: stdinLimitBytes + 1 }, 'stdin'],
    ['stdin of 4 GiB', { stdinBytes: 0xffff_ffff }, 'stdin'],
  ];
  it.each(headers)('has %s: known from the header alone', (_title, wrong, what) => {
    const step = decode(requestFrame(environment, '', wrong).subarray(0, 48));
    expect(step).toMatchObject({ kind: 'malformed', what: expect.stringContaining(what) });
  });

  const sections: readonly (readonly [string, string])[] = [
    ['a variable that is not on the list', 'CNI_COMMAND=ADD\0LD_PRELOAD=/x\0'],
    ['a variable twice', 'CNI_COMMAND=ADD\0CNI_PATH=/a\0CNI_PATH=/b\0'],
    ['an entry without "="', 'CNI_COMMAND=ADD\0CNI_PATH\0'],
    ['an entry without a name', 'CNI_COMMAND=ADD\0=x\0'],
    ['an empty entry', 'CNI_COMMAND=ADD\0\0'],
    ['no NUL at the end', 'CNI_COMMAND=ADD'],
    ['no CNI_COMMAND', 'CNI_PATH=/a\0'],
    ['another CNI_COMMAND than its verb', 'CNI_COMMAND=DEL\0'],
  ];
  it.each(sections)('has %s', (_title, section) => {
    expect(decode(requestFrame(Buffer.from(section), ''))).toMatchObject({ kind: 'malformed' });
  });

  it('goes on after its end', () => {
    expect(decode(Buffer.concat([requestFrame(environment, stdin), Buffer.of(0)]))).toMatchObject({
      kind: 'malformed',
    });
  });

  it.each([0, 2, 65_535])('speaks protocol %i, whatever else it says', (protocol) => {
    const step = decode(requestFrame(environment, '', { protocol, verb: 77, reserved: 5 }));
    expect(step).toEqual({ kind: 'foreign-protocol', version: protocol });
  });
});

describe('an answer', () => {
  it('is a header of 16 bytes and the body', () => {
    const wire = encodeAnswer({ exitCode: 1, body: '{"ü":1}' });
    expect(wire.toString('latin1', 0, 4)).toBe('VUA1');
    expect([wire.readUInt16LE(4), wire.readUInt16LE(6), wire.readUInt32LE(8), wire.readUInt32LE(12)]).toEqual([
      1, 1, 8, 0,
    ]);
    expect(wire.toString('utf8', 16)).toBe('{"ü":1}');
  });

  it('speaks the protocol of the one who asked', () => {
    expect(encodeAnswer({ exitCode: 0, body: '' }, 7).readUInt16LE(4)).toBe(7);
  });

  it('has at most 1 MiB', () => {
    expect(encodeAnswer({ exitCode: 0, body: 'x'.repeat(answerBodyLimitBytes) })).toHaveLength(
      answerBodyLimitBytes + 16,
    );
    expect(() => encodeAnswer({ exitCode: 0, body: 'ü'.repeat(answerBodyLimitBytes / 2 + 1) })).toThrow(RangeError);
  });
});

describe('a confirmation', () => {
  it('is one word', () => {
    expect(isConfirmation(confirmWord)).toBe(true);
    expect(isConfirmation(Buffer.from('VUK2'))).toBe(false);
    expect(isConfirmation(confirmWord.subarray(0, 3))).toBe(false);
    expect(isConfirmation(Buffer.concat([confirmWord, Buffer.of(0)]))).toBe(false);
  });
});
