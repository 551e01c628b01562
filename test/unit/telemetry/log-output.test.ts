import { closeSync, openSync, writeSync } from 'node:fs';
import { describe, expect, it } from '@jest/globals';
import { createLogger } from '../../../src/telemetry/log.ts';
import { LogOutput } from '../../../src/telemetry/log-output.ts';

/** A disk with room for so many bytes, which writes at most seven at a time. */
class SmallDisk {
  room: number;
  text = '';
  constructor(room: number) {
    this.room = room;
  }
  readonly write = (bytes: Uint8Array): number => {
    if (this.room === 0) throw new Error('ENOSPC');
    const taken = bytes.subarray(0, Math.min(this.room, 7));
    this.room -= taken.length;
    this.text += Buffer.from(taken).toString();
    return taken.length;
  };
}

describe('the log output', () => {
  it('writes a line whole, in however many pieces', () => {
    const disk = new SmallDisk(100);
    const output = new LogOutput(disk.write);
    output.write('a line of the log\n');
    expect([disk.text, output.lostLines]).toEqual(['a line of the log\n', 0]);
  });

  it('counts lines that do not fit, and begins a new line after one that was cut', () => {
    const disk = new SmallDisk(15);
    const output = new LogOutput(disk.write);
    for (const line of ['the first\n', 'the second\n', 'the third\n']) output.write(line);
    disk.room = 100;
    output.write('the fourth\n');
    output.write('the fifth\n');
    expect(disk.text).toBe('the first\nthe s\nthe fourth\nthe fifth\n');
    expect(output.lostLines).toBe(2);
  });

  it('on a full device costs lines, the last one before a crash too, and nothing else', () => {
    const full = openSync('/dev/full', 'w');
    try {
      const output = new LogOutput((bytes) => writeSync(full, bytes));
      const log = createLogger({ level: 'info', destination: output });
      for (let line = 0; line < 1000; line += 1) log.info({ line }, 'lost');
      log.fatal({}, 'the last words');
      expect(output.lostLines).toBe(1001);
    } finally {
      closeSync(full);
    }
  });
});
