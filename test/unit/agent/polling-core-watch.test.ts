import { beforeEach, describe, expect, it } from '@jest/globals';
import { PollingCoreWatch } from '../../../src/agent/polling-core-watch.ts';
import { settle } from '../../support/fake-clock.ts';
import { ManualTimers } from '../../support/manual-timers.ts';
import { RecordingLogger } from '../../support/recording-logger.ts';

/** The longest that a minute may last. */
const aMinuteMs = 66_000;

describe('the watch on polling cores', () => {
  let clock: ManualTimers;
  let log: RecordingLogger;
  let answer: () => Promise<readonly number[]>;
  /** Core → idle share, as the next look finds it. */
  let idle: Record<number, number>;
  let obeyed: (readonly number[])[];
  let keepOff: (cores: readonly number[]) => boolean;
  let looks: number;
  let repeats: number;

  beforeEach(() => {
    clock = new ManualTimers();
    log = new RecordingLogger();
    obeyed = [];
    answer = () => Promise.resolve([1]);
    idle = { 0: 0.9, 1: 0, 2: 0, 3: 0 };
    keepOff = () => true;
    looks = 0;
    repeats = 0;
  });

  async function open(): Promise<PollingCoreWatch> {
    const watch = new PollingCoreWatch({
      ask: () => answer(),
      idleShares: () => {
        looks += 1;
        return new Map(looks === 1 ? [] : Object.entries(idle).map(([core, share]) => [Number(core), share]));
      },
      keepOff: (cores) => {
        if (cores.join() !== obeyed.at(-1)?.join()) obeyed.push(cores);
        repeats += 1;
        return keepOff(cores);
      },
      clock,
      log,
    });
    watch.open();
    await settle();
    await second();
    return watch;
  }

  async function second(): Promise<void> {
    clock.advance(1_000);
    await settle();
  }

  async function minute(): Promise<void> {
    clock.advance(aMinuteMs);
    await settle();
    await second();
  }

  it('keeps off what is the switch’s and polled, and says so once', async () => {
    await open();
    await minute();
    expect(obeyed).toEqual([[1]]);
    expect(log.lines.map(({ level, fields }) => ({ level, fields }))).toEqual([
      { level: 'info', fields: { polled: [1] } },
    ]);
  });

  it('says it to the kernel again each second, which forgets it with a change of the cpuset', async () => {
    await open();
    for (let count = 0; count < 5; count++) await second();
    expect(repeats).toBe(6);
  });

  it('tries again what failed, and says when it has become well', async () => {
    keepOff = () => false;
    await open();
    keepOff = () => true;
    await second();
    expect(log.lines.map(({ level }) => level)).toEqual(['warn', 'info']);
  });

  it('gives a core that is polled no more back, even if the kernel refuses at first', async () => {
    await open();
    idle[1] = 0.9;
    keepOff = () => {
      throw new Error('EMFILE');
    };
    await second();
    keepOff = () => true;
    await second();
    await second();
    expect(repeats).toBe(3);
    expect(log.lines.map(({ level }) => level)).toEqual(['info', 'warn', 'info']);
  });

  it('touches nothing, and looks at nothing, where no core is the switch’s', async () => {
    answer = () => Promise.resolve([]);
    await open();
    await minute();
    expect([obeyed, log.lines, looks]).toEqual([[], [], 0]);
  });

  it('leaves a busy core alone that is not the switch’s', async () => {
    idle = { 0: 0, 1: 0.9 };
    await open();
    expect(obeyed).toEqual([]);
  });

  it('keeps off as soon as the switch begins to poll, and no longer than it does', async () => {
    idle[1] = 0.9;
    await open();
    expect(obeyed).toEqual([]);
    idle[1] = 0.05;
    await second();
    expect(obeyed).toEqual([[1]]);
    // Its threads stop for a moment when a port comes or goes.
    idle[1] = 0.4;
    await second();
    expect(obeyed).toEqual([[1]]);
    idle[1] = 0.6;
    await second();
    expect(obeyed).toEqual([[1], []]);
    // Once let go of, a core that somebody uses a lot is not one that is polled.
    idle[1] = 0.4;
    await second();
    expect(obeyed).toEqual([[1], []]);
  });

  it('follows a mask that changes, and one that goes', async () => {
    await open();
    answer = () => Promise.resolve([2, 3]);
    await minute();
    answer = () => Promise.resolve([]);
    await minute();
    expect(obeyed).toEqual([[1], [2, 3], []]);
  });

  it('keeps to what was known while nobody answers, without a word above debug', async () => {
    await open();
    answer = () => Promise.reject(new Error('no switch'));
    await minute();
    answer = () => Promise.resolve([1]);
    await minute();
    expect(obeyed).toEqual([[1]]);
    expect(log.lines.map(({ level }) => level)).toEqual(['info', 'debug']);
  });

  it('finds a switch that starts later', async () => {
    answer = () => Promise.reject(new Error('no switch yet'));
    await open();
    answer = () => Promise.resolve([1]);
    await minute();
    await second();
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
    await minute();
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
