import { describe, expect, it } from '@jest/globals';
import { CoreLoad } from '../../../src/agent/core-load.ts';

describe('how idle the cores are', () => {
  it('is what has passed since the last look, waiting for disks included, and nothing before there was one', () => {
    const texts = [
      'cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 100 0 50 800 40 0 10 0 0 0\ncpu1 500 0 0 500 0 0 0 0 0 0\nintr 5 1 2\n',
      'cpu  9 9 9 9 9 9 9 9 0 0\ncpu0 110 5 60 850 60 0 10 5 9 9\ncpu1 600 0 0 500 0 0 0 0 0 0\ncpu12 1 1 1 1 1 1 1 1 0 0\n',
    ];
    const load = new CoreLoad(() => texts.shift() ?? '');
    expect(load.idleShares()).toEqual(new Map());
    expect(load.idleShares()).toEqual(
      new Map([
        [0, 0.7],
        [1, 0],
      ]),
    );
  });

  it('is not told of a core whose ticks stand still, nor of one that was taken away', () => {
    const texts = [
      'cpu0 1 0 0 1 0 0 0 0 0 0\ncpu1 1 0 0 1 0 0 0 0 0 0\n',
      'cpu0 1 0 0 1 0 0 0 0 0 0\n',
      'cpu0 1 0 0 3 0 0 0 0 0 0\ncpu1 1 0 0 9 0 0 0 0 0 0\n',
    ];
    const load = new CoreLoad(() => texts.shift() ?? '');
    load.idleShares();
    expect(load.idleShares()).toEqual(new Map());
    expect(load.idleShares()).toEqual(new Map([[0, 1]]));
  });

  it('is told by the kernel of this machine', () => {
    const load = new CoreLoad();
    load.idleShares();
    const endMs = performance.now() + 5_000;
    let shares = load.idleShares();
    while (shares.size === 0 && performance.now() < endMs) shares = load.idleShares();
    expect(shares.size).toBeGreaterThan(0);
    for (const share of shares.values()) expect(share >= 0 && share <= 1).toBe(true);
  });
});
