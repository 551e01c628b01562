import { afterEach, beforeEach, describe, expect, it, jest } from '@jest/globals';
import { ApiException } from '../../../src/kubernetes/client-node.ts';
import { type NodeCondition, type NodeStatus, nodeStatus, type NodeView } from '../../../src/kubernetes/node-object.ts';
import { StatusPublisher } from '../../../src/kubernetes/status-publisher.ts';
import { attachmentView } from '../../support/attachment-view.ts';
import { RecordingLogger } from '../../support/recording-logger.ts';

let written: { readonly atMs: number; readonly status: NodeStatus }[];
let failing: Error | null;
let attempts: number;
let inherited: readonly NodeCondition[];
/** Resolves the write under way, where a test holds it. */
let hold: Promise<void>;
let states: string[];
let restored: boolean;
let log: RecordingLogger;
let publisher: StatusPublisher;

const view = (): NodeView => ({
  agentVersion: '1',
  ready: restored,
  readyReason: restored ? '' : 'records-restored',
  restored,
  attachments: states.map((state, index) => attachmentView(index, { state })),
  corruptRecords: 0,
});

beforeEach(() => {
  jest.useFakeTimers({ now: 1_000_000_000 });
  written = [];
  failing = null;
  attempts = 0;
  inherited = [];
  hold = Promise.resolve();
  states = ['running'];
  restored = true;
  log = new RecordingLogger();
  publisher = new StatusPublisher({
    api: {
      readConditions: () => Promise.resolve(inherited),
      applyNode: async (status) => {
        attempts += 1;
        await hold;
        if (failing !== null) throw failing;
        written.push({ atMs: Date.now(), status });
      },
    },
    view,
    log,
  });
});
afterEach(() => {
  publisher.stop();
  jest.useRealTimers();
});

const pass = (ms: number): Promise<void> => jest.advanceTimersByTimeAsync(ms);
async function touch(): Promise<void> {
  publisher.touch();
  await pass(0);
}
const refused = new ApiException(
  500,
  'Unknown',
  JSON.stringify({ message: 'failed to create typed patch object: .status.new: field not declared in schema' }),
  {},
);

describe('publishing the state of the node', () => {
  it('writes at once, then only what changed', async () => {
    await touch();
    expect(written).toHaveLength(1);
    await touch();
    await pass(60_000);
    expect(written).toHaveLength(1);
  });

  it('goes on in its own time when the clock is set back', async () => {
    await touch();
    jest.setSystemTime(Date.now() - 3_600_000);
    states = ['waiting'];
    await touch();
    await pass(5_000);
    expect(written).toHaveLength(2);
  });

  it('gathers changes of numbers for ten seconds', async () => {
    await touch();
    for (let count = 2; count <= 6; count += 1) {
      states.push('running');
      await touch();
      await pass(1_000);
    }
    expect(written).toHaveLength(1);
    await pass(5_000);
    expect(written.map(({ status }) => status.attachments)).toEqual([1, 6]);
  });

  it('tells a flipped condition within a second', async () => {
    await touch();
    states = ['held'];
    await touch();
    await pass(1_000);
    expect(written.map(({ status }) => status.backend)).toEqual(['Connected', 'Disconnected']);
  });

  it('a condition that flaps is written once a second at most', async () => {
    await touch();
    for (let flap = 0; flap < 100; flap += 1) {
      states = [flap % 2 === 0 ? 'held' : 'running'];
      await touch();
      await pass(20);
    }
    expect(written.length).toBeLessThanOrEqual(3);
  });

  it('writes the same again after five minutes, however often it is touched', async () => {
    await touch();
    for (let second = 0; second < 310; second += 10) {
      await pass(10_000);
      await touch();
    }
    expect(written).toHaveLength(2);
    expect(written[1]?.status).toEqual(written[0]?.status);
  });

  it('tries again with backoff while the server is away, whatever happens meanwhile, and tells once', async () => {
    failing = new TypeError('fetch failed');
    for (let second = 0; second < 60; second += 1) {
      states.push('running');
      await touch();
      await pass(1_000);
    }
    expect(attempts).toBeGreaterThanOrEqual(5);
    expect(attempts).toBeLessThanOrEqual(8);
    expect(log.messages).toEqual(['the node object is not written yet']);
    failing = null;
    await pass(36_000);
    expect(written.map(({ status }) => status.attachments)).toEqual([61]);
    expect(log.messages.at(-1)).toBe('the node object is written again');
  });

  it('what no retry mends is logged once and tried every five minutes', async () => {
    failing = refused;
    await touch();
    await pass(3_600_000);
    expect(attempts).toBeGreaterThanOrEqual(10);
    expect(attempts).toBeLessThanOrEqual(16);
    expect(log.messages).toEqual(['the API server refuses the node object']);
  });

  it('takes over since when a condition holds, from the agent before', async () => {
    const since = new Date(500_000_000);
    inherited = nodeStatus(view(), null, since).conditions.map((condition) =>
      condition.type === 'Ready' ? { ...condition, status: 'False', reason: 'AgentStopped' } : condition,
    );
    await touch();
    const times = written[0]?.status.conditions.map(({ type, status, lastTransitionTime }) => [
      `${type}=${status}`,
      Date.parse(lastTransitionTime),
    ]);
    expect(times).toEqual([
      ['Ready=True', 1_000_000_000],
      ['BackendConnected=True', 500_000_000],
      ['StateRestored=True', 500_000_000],
      ['Degraded=False', 500_000_000],
    ]);
  });

  it('gives backends three seconds to connect anew before it speaks of them', async () => {
    states = ['held', 'running'];
    await touch();
    await pass(2_000);
    expect(attempts).toBe(0);
    states = ['running', 'running'];
    await touch();
    expect(written.map(({ status }) => status.backend)).toEqual(['Connected']);
  });

  it('says after three seconds which did not', async () => {
    states = ['held', 'running'];
    await touch();
    await pass(3_000);
    expect(written.map(({ status }) => status.backend)).toEqual(['Partial']);
  });

  it('a restore is told at once; backends have their three seconds after it', async () => {
    inherited = nodeStatus(view(), null, new Date(500_000_000)).conditions;
    [restored, states] = [false, ['absent']];
    await touch();
    await pass(60_000);
    [restored, states] = [true, ['held']];
    await touch();
    await pass(2_000);
    states = ['running'];
    await touch();
    await pass(60_000);
    const told = written.map(({ status }) => status.conditions.map(({ reason }) => reason).slice(0, 2));
    expect(told).toEqual([
      ['AgentNotReady', 'AllConnected'],
      ['AgentReady', 'AllConnected'],
    ]);
  });

  it('an agent that stops before it has written anything keeps since when conditions hold', async () => {
    inherited = nodeStatus(view(), null, new Date(500_000_000)).conditions;
    restored = false;
    await publisher.farewell(new AbortController().signal);
    const [ready, ...others] = written[0]?.status.conditions ?? [];
    expect(ready).toMatchObject({ reason: 'AgentStopped' });
    expect(others).toEqual(inherited.slice(1));
  });

  it('an agent that stops in order says so, and leaves the rest as it was', async () => {
    await touch();
    await pass(60_000);
    await publisher.farewell(new AbortController().signal);
    expect(written).toHaveLength(2);
    const [before, after] = written;
    expect(after?.status).toEqual({
      ...before?.status,
      conditions: before?.status.conditions.map((condition) =>
        condition.type !== 'Ready'
          ? condition
          : {
              type: 'Ready',
              status: 'False',
              reason: 'AgentStopped',
              message: expect.stringContaining('stopped'),
              lastTransitionTime: new Date(1_000_060_000).toISOString(),
            },
      ),
    });
    publisher.touch();
    await pass(600_000);
    expect(written).toHaveLength(2);
  });

  it('the last word comes after what is being written', async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    hold = promise;
    await touch();
    const last = publisher.farewell(new AbortController().signal);
    await pass(1_000);
    expect(attempts).toBe(1);
    resolve();
    await last;
    expect(written.map(({ status }) => status.conditions[0]?.reason)).toEqual(['AgentReady', 'AgentStopped']);
  });

  it('a last word that comes too late is not begun', async () => {
    const { promise, resolve } = Promise.withResolvers<void>();
    hold = promise;
    await touch();
    const tooLate = new AbortController();
    const last = publisher.farewell(tooLate.signal);
    tooLate.abort(new Error('too late'));
    resolve();
    await expect(last).rejects.toThrow('too late');
    expect(attempts).toBe(1);
  });

  it('writes nothing after a stop', async () => {
    publisher.touch();
    publisher.stop();
    await pass(600_000);
    expect(attempts).toBe(0);
  });
});
