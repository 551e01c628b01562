import { beforeEach, describe, expect, it } from '@jest/globals';
import { PollingCoreWatch } from '../../../src/agent/polling-core-watch.ts';
import { ManualTimers } from '../../support/manual-timers.ts';
import { RecordingLogger } from '../../support/recording-logger.ts';

/** Lets every promise that can go on go on. */
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));
/** The longest that a minute may last. */
const aMinuteMs = 66_000;

describe('the watch on polling cores', () => {
  let clock: ManualTimers;
  let log: RecordingLogger;
  let answer: () => Promise<readonly number[]>;
  let obeyed: (readonly number[])[];
  let keepOff: (cores: readonly number[]) => boolean;

  beforeEach(() => {
    clock = new ManualTimers();
    log = new RecordingLogger();
    obeyed = [];
    answer = () => Promise.resolve([1]);
    keepOff = () => true;
  });

  async function open(): Promise<PollingCoreWatch> {
    const watch = new PollingCoreWatch({
      ask: () => answer(),
      keepOff: (cores) => {
        obeyed.push(cores);
        return keepOff(cores);
      },
      clock,
      log,
    });
    watch.open();
    await settle();
    return watch;
  }

  async function later(): Promise<void> {
    clock.advance(aMinuteMs);
    await settle();
  }

  it('keeps off what is polled, and says so once', async () => {
    await open();
    await later();
    expect(obeyed).toEqual([[1]]);
    expect(log.lines.map(({ level, fields }) => ({ level, fields }))).toEqual([
      { level: 'info', fields: { cores: [1] } },
    ]);
  });

  it('touches nothing where nothing is polled', async () => {
    answer = () => Promise.resolve([]);
    await open();
    expect(obeyed).toEqual([]);
    expect(log.lines).toEqual([]);
  });

  it('follows a mask that changes, and one that goes', async () => {
    await open();
    answer = () => Promise.resolve([2, 3]);
    await later();
    answer = () => Promise.resolve([]);
    await later();
    expect(obeyed).toEqual([[1], [2, 3], []]);
  });

  it('keeps to what was known while nobody answers, without a word above debug', async () => {
    await open();
    answer = () => Promise.reject(new Error('no switch'));
    await later();
    answer = () => Promise.resolve([1]);
    await later();
    expect(obeyed).toEqual([[1]]);
    expect(log.lines.map(({ level }) => level)).toEqual(['info', 'debug']);
  });

  it('finds a switch that starts later', async () => {
    answer = () => Promise.reject(new Error('no switch yet'));
    await open();
    answer = () => Promise.resolve([1]);
    await later();
    expect(obeyed).toEqual([[1]]);
  });

  it.each([
    ['there is no other core', (): boolean => false],
    [
      'the kernel refuses',
      (): boolean => {
        throw new Error('EPERM');
      },
    ],
  ])('warns once when %s', async (_why, refuse) => {
    keepOff = refuse;
    await open();
    await later();
    expect(log.lines.map(({ level }) => level)).toEqual(['warn']);
  });

  it('closed, asks no more and obeys no late answer', async () => {
    let late: (cores: readonly number[]) => void = () => undefined;
    answer = () => new Promise((resolve) => (late = resolve));
    const watch = await open();
    watch.close();
    late([1]);
    await settle();
    expect(obeyed).toEqual([]);
    expect(clock.pending).toEqual([]);
  });
});
