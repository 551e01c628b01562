import { describe, expect, it } from '@jest/globals';
import { VirtioUserError } from '../../../src/errors.ts';
import { createLogger, type LogLevel } from '../../../src/telemetry/log.ts';

function collecting(level: LogLevel): { lines: Record<string, unknown>[]; log: ReturnType<typeof createLogger> } {
  const lines: Record<string, unknown>[] = [];
  const write = (text: string): void => void lines.push(JSON.parse(text) as Record<string, unknown>);
  return { lines, log: createLogger({ level, base: { node: 'n1' }, destination: { write } }) };
}

describe('a log line', () => {
  it('is JSON with level by name, time, node and the fields of every parent', () => {
    const { lines, log } = collecting('info');
    log.child({ requestId: 'r1' }).child({ verb: 'ADD' }).info({ durationMs: 3 }, 'done');
    expect(lines).toEqual([
      {
        level: 'info',
        time: expect.stringMatching(/^\d{4}-\d\d-\d\dT/),
        node: 'n1',
        requestId: 'r1',
        verb: 'ADD',
        durationMs: 3,
        message: 'done',
      },
    ]);
  });

  it('below the level is not written', () => {
    const { lines, log } = collecting('warn');
    log.info({}, 'no');
    log.warn({}, 'yes');
    expect(lines.map(({ message }) => message)).toEqual(['yes']);
  });

  it('of an error of ours has code, details and remedy, and no stack', () => {
    const { lines, log } = collecting('info');
    const error = new VirtioUserError('OVS_UNAVAILABLE', 'connect /x: ENOENT', {
      details: { path: '/x' },
      remedy: 'start it',
      cause: new Error('ENOENT'),
    });
    log.warn({ error }, 'failed');
    expect(lines[0]?.['error']).toEqual({
      code: 'OVS_UNAVAILABLE',
      message: 'connect /x: ENOENT',
      details: { path: '/x' },
      remedy: 'start it',
      cause: 'ENOENT',
    });
  });

  it('of a bug has its stack; of something thrown that is no error, its text', () => {
    const { lines, log } = collecting('info');
    log.error({ error: new VirtioUserError('BUG', 'unreachable') }, 'bug');
    log.error({ error: 'text' }, 'thrown');
    expect(lines[0]?.['error']).toMatchObject({ code: 'BUG', stack: expect.stringContaining('log.test.ts') });
    expect(lines[1]?.['error']).toEqual({ message: 'text' });
  });
});
