/** Builds what the executable sends: request frames, right or wrong on purpose (docs/architecture.md). */
import type { CniFrame, Verb } from '../../src/cni/frame.ts';

const verbNumbers: Readonly<Record<string, number>> = { ADD: 1, DEL: 2, CHECK: 3, GC: 4, STATUS: 5 };

export interface RequestFields {
  readonly magic: string;
  readonly protocol: number;
  readonly verb: number;
  readonly timeLeftMs: number;
  readonly fdCount: number;
  readonly roles: readonly number[];
  readonly requestId: string;
  readonly environmentBytes: number;
  readonly stdinBytes: number;
  readonly version: readonly [number, number, number];
  readonly reserved: number;
}

export const requestId = '00112233445566778899aabbccddeeff';

/** `environment` in the order given; CNI_COMMAND is part of it. */
export function requestFrame(
  environment: Readonly<Record<string, string>> | Buffer,
  stdin: string | Buffer,
  wrong: Partial<RequestFields> = {},
): Buffer {
  const command = Buffer.isBuffer(environment) ? 'ADD' : (environment['CNI_COMMAND'] ?? '');
  const section = Buffer.isBuffer(environment)
    ? environment
    : Buffer.from(
        Object.entries(environment)
          .map(([name, value]) => `${name}=${value}\0`)
          .join(''),
      );
  const body = Buffer.from(stdin);
  const header = Buffer.alloc(48);
  header.write(wrong.magic ?? 'VUQ1', 0, 'latin1');
  header.writeUInt16LE(wrong.protocol ?? 1, 4);
  header.writeUInt16LE(wrong.verb ?? verbNumbers[command] ?? 0, 6);
  header.writeUInt32LE(wrong.timeLeftMs ?? 10_000, 8);
  header.writeUInt8(wrong.fdCount ?? 0, 12);
  header.set([...(wrong.roles ?? []), 0, 0, 0].slice(0, 3), 13);
  header.set(Buffer.from(wrong.requestId ?? requestId, 'hex'), 16);
  header.writeUInt32LE(wrong.environmentBytes ?? section.length, 32);
  header.writeUInt32LE(wrong.stdinBytes ?? body.length, 36);
  const [major, minor, patch] = wrong.version ?? [1, 2, 3];
  header.writeUInt32LE(major * 65_536 + minor * 256 + patch, 40);
  header.writeUInt32LE(wrong.reserved ?? 0, 44);
  return Buffer.concat([header, section, body]);
}

/** A frame as the decoder makes it. */
export function decodedFrame(verb: Verb, environment: Readonly<Record<string, string>>, stdin: string): CniFrame {
  return {
    protocol: 1,
    verb,
    timeLeftMs: 10_000,
    fdRoles: verb === 'ADD' ? [1] : [],
    requestId,
    executableVersion: '1.2.3',
    environment: new Map(Object.entries({ CNI_COMMAND: verb, ...environment })),
    stdin,
  };
}

export const confirmWord = Buffer.from('VUK1', 'latin1');
export const withdrawWord = Buffer.from('VUW1', 'latin1');
