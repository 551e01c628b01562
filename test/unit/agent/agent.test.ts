import { beforeEach, describe, expect, it } from '@jest/globals';
import { Agent, type AgentParts } from '../../../src/agent/agent.ts';
import type { ReconcileReport } from '../../../src/attachment/reconcile.ts';
import type { NativeFd } from '../../../src/native/binding.ts';
import { silentLogger } from '../../../src/telemetry/log.ts';

/** Timers that fire when the test says so. */
class HandClock {
  readonly waiting: { readonly delayMs: number; readonly callback: () => void }[] = [];

  after(delayMs: number, callback: () => void): () => void {
    const timer = { delayMs, callback };
    this.waiting.push(timer);
    return () => {
      const index = this.waiting.indexOf(timer);
      if (index >= 0) this.waiting.splice(index, 1);
    };
  }

  /** Fires the timer that is due first. */
  fire(): number {
    const [next] = [...this.waiting].sort((one, other) => one.delayMs - other.delayMs);
    if (next === undefined) throw new Error('no timer waits');
    this.waiting.splice(this.waiting.indexOf(next), 1);
    next.callback();
    return next.delayMs;
  }
}

const nothingDone: ReconcileReport = { removed: [], unfinished: [], unknown: [] };

/** Lets every promise that can go on go on. */
const settle = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

let events: string[];
let clock: HandClock;
let lockHeldByWriter: number;
let remaining: number[];
let waitingDeletes: number;
let reconcile: () => Promise<ReconcileReport>;
let restored: Promise<void>;
let drained: Promise<void>;

beforeEach(() => {
  events = [];
  clock = new HandClock();
  lockHeldByWriter = 0;
  remaining = [];
  waitingDeletes = 0;
  reconcile = async () => nothingDone;
  restored = Promise.resolve();
  drained = Promise.resolve();
});

function lock(): NativeFd {
  return {
    isOpen: true,
    close: () => void events.push('unlock'),
    identity: () => ({ device: 0n, inode: 0n }),
  };
}

function agentOfFakes(changes: Partial<AgentParts> = {}): Agent {
  const note = (event: string) => (): void => void events.push(event);
  return new Agent({
    attachments: {
      restore: async () => {
        events.push('restore');
        await restored;
        return { adopted: 0, finished: 0, absent: 0, corrupt: 0 };
      },
      reconcile: () => {
        events.push('reconcile');
        return reconcile();
      },
      close: async () => void events.push('release'),
    },
    deleteQueue: {
      get length() {
        return waitingDeletes;
      },
      tryLock: () => {
        lockHeldByWriter -= 1;
        if (lockHeldByWriter >= 0) return null;
        events.push('lock');
        return lock();
      },
      list: async () => {
        events.push('list');
        return [];
      },
      workOff: async () => {
        events.push('drain');
        await drained;
        waitingDeletes = remaining.shift() ?? 0;
        return waitingDeletes;
      },
    },
    cni: {
      open: note('cni open'),
      close: async (graceMs) => void events.push(`cni close ${graceMs}`),
    },
    pollingCores: { open: note('cores open'), close: note('cores close') },
    networkConf: { open: note('configuration open'), close: note('configuration close') },
    introspection: { open: async () => void events.push('introspection open'), close: note('introspection close') },
    health: { open: async () => void events.push('health open'), close: note('health close') },
    shutDownNative: note('native'),
    onReconciled: (result) => void events.push(`reconciled ${result}`),
    clock,
    log: silentLogger,
    ...changes,
  });
}

function failing(agent: Agent): string[] {
  return Object.entries(agent.checks)
    .filter(([, check]) => check() !== null)
    .map(([name]) => name);
}

describe('start', () => {
  it('restores, drains the queue, opens the socket, and reads the queue once more', async () => {
    await agentOfFakes().start();
    await settle();
    const pass = ['lock', 'list', 'unlock', 'drain'];
    const opened = ['introspection open', 'cni open', 'configuration open'];
    expect(events.filter((event) => !pass.includes(event))).toEqual([
      'cores open',
      'health open',
      'restore',
      ...opened,
    ]);
    expect(events.slice(3, 3 + pass.length)).toEqual(pass);
    expect(events.filter((event) => pass.includes(event))).toEqual([...pass, ...pass]);
  });

  it('does not wait for a queue whose plugins hang; the rest is drained beside the calls', async () => {
    let answer: () => void = () => undefined;
    drained = new Promise((resolve) => (answer = resolve));
    const agent = agentOfFakes();
    const started = agent.start();
    await settle();
    expect(events).toContain('drain');
    expect(agent.ready).toBe(false);
    expect(clock.fire()).toBe(5_000);
    await started;
    expect(agent.ready).toBe(true);
    expect(events.filter((event) => event === 'drain')).toHaveLength(1);
    answer();
    await settle();
    expect(events.filter((event) => event === 'drain')).toHaveLength(2);
  });

  it('is not ready before the socket is open, and says what it waits for', async () => {
    let open: () => void = () => undefined;
    restored = new Promise((resolve) => (open = resolve));
    const agent = agentOfFakes();
    expect(failing(agent)).toEqual(['records-restored', 'delete-queue-drained', 'cni-socket-open']);
    const started = agent.start();
    await settle();
    expect(agent.ready).toBe(false);
    open();
    await started;
    expect(agent.ready).toBe(true);
    expect(failing(agent)).toEqual([]);
  });

  it('leaves the node without a configuration as long as it cannot serve calls', async () => {
    const restoring = agentOfFakes();
    restored = new Promise(() => undefined);
    void restoring.start();
    await settle();
    const portTaken = agentOfFakes({
      health: { open: () => Promise.reject(new Error('EADDRINUSE')), close: () => undefined },
    });
    await expect(portTaken.start()).rejects.toThrow('EADDRINUSE');
    await portTaken.stop();
    expect(events).toContain('restore');
    expect(events).not.toContain('configuration open');
  });

  it('waits for a writer of the queue', async () => {
    lockHeldByWriter = 2;
    const started = agentOfFakes().start();
    await settle();
    expect(events).not.toContain('cni open');
    clock.fire();
    await settle();
    clock.fire();
    await started;
    expect(events.indexOf('drain')).toBeLessThan(events.indexOf('cni open'));
  });

  it('a queue that stays locked does not keep the node down; it is drained later', async () => {
    lockHeldByWriter = Infinity;
    const agent = agentOfFakes();
    const started = agent.start();
    for (let turns = 0; !events.includes('cni open'); turns += 1) {
      expect(turns).toBeLessThan(1000);
      await settle();
      if (!events.includes('cni open') && clock.waiting.length > 0) clock.fire();
    }
    await started;
    expect(agent.ready).toBe(true);
    expect(events).not.toContain('drain');
    lockHeldByWriter = 0;
    while (!events.includes('drain')) {
      clock.fire();
      await settle();
    }
    expect(events.slice(-3)).toEqual(['list', 'unlock', 'drain']);
  });

  it('a queue that cannot be read does not keep the node down', async () => {
    const agent = agentOfFakes({
      deleteQueue: {
        length: 0,
        tryLock: lock,
        list: () => Promise.reject(new Error('EIO')),
        workOff: async () => 0,
      },
    });
    await agent.start();
    expect(agent.ready).toBe(true);
  });

  it('failed entries of the queue are tried again, later each time, until none remains', async () => {
    remaining = [3, 2, 1, 0];
    await agentOfFakes().start();
    await settle();
    const delays: number[] = [];
    for (let delayMs = clock.fire(); delayMs < 500_000; delayMs = clock.fire()) {
      delays.push(delayMs);
      await settle();
      if (waitingDeletes === 0) break;
    }
    expect(delays.map((delayMs) => Math.round(delayMs / 1000))).toEqual([0, 1, 2]);
    expect(events.filter((event) => event === 'drain')).toHaveLength(4);
  });

  it('a DEL that was left unanswered is looked for in the queue about a second later', async () => {
    const agent = agentOfFakes();
    agent.drainSoon(); // before there is a socket nobody can have been left unanswered
    await agent.start();
    await settle();
    while (clock.waiting.length > 0 && !events.includes('reconciled ok')) {
      clock.fire();
      await settle();
    }
    events.length = 0;
    agent.drainSoon();
    expect(Math.round(clock.fire() / 1000)).toBe(1);
    await settle();
    expect(events).toEqual(['lock', 'list', 'unlock', 'drain']);
  });

  it('a stop in between opens nothing any more', async () => {
    let open: () => void = () => undefined;
    restored = new Promise((resolve) => (open = resolve));
    const agent = agentOfFakes();
    const started = agent.start();
    await settle();
    await agent.stop();
    open();
    await expect(started).rejects.toMatchObject({ code: 'CANCELLED' });
    expect(events).not.toContain('cni open');
    expect(events).not.toContain('configuration open');
  });
});

describe('stop', () => {
  it('is not ready at once, answers what is under way, lets go, and stops threads last', async () => {
    let answered: () => void = () => undefined;
    const agent = agentOfFakes({
      cni: {
        open: () => undefined,
        close: () => new Promise((resolve) => (answered = resolve)),
      },
    });
    await agent.start();
    await settle();
    events.length = 0;
    const stopped = agent.stop();
    expect(failing(agent)).toEqual(['not-stopping']);
    await settle();
    expect(events).toEqual(['configuration close', 'cores close']);
    answered();
    await stopped;
    expect(events.slice(2)).toEqual(['introspection close', 'release', 'health close', 'native']);
    expect(clock.waiting).toEqual([]);
  });

  it('lets a queued delete that is under way end first, and begins no other', async () => {
    let answer: () => void = () => undefined;
    const signals: AbortSignal[] = [];
    const agent = agentOfFakes({
      deleteQueue: {
        length: 1,
        tryLock: lock,
        list: async () => ['1'],
        workOff: (_names, signal) => {
          signals.push(signal);
          return new Promise((resolve) => (answer = () => resolve(1)));
        },
      },
    });
    const started = agent.start();
    await settle();
    clock.fire();
    await started;
    const stopped = agent.stop();
    await settle();
    expect(signals.map(({ aborted }) => aborted)).toEqual([true]);
    expect(events).not.toContain('release');
    answer();
    await stopped;
    expect(events).toContain('release');
    expect(signals.length).toBe(1);
    expect(clock.waiting).toEqual([]);
  });

  it('gives calls under way the grace time', async () => {
    const agent = agentOfFakes();
    await agent.start();
    await agent.stop();
    expect(events).toContain('cni close 10000');
  });

  it('goes on when a step fails, and a second stop does nothing', async () => {
    const agent = agentOfFakes({
      cni: { open: () => undefined, close: () => Promise.reject(new Error('no')) },
    });
    await agent.start();
    await agent.stop();
    expect(events.at(-1)).toBe('native');
    const before = events.length;
    await agent.stop();
    expect(events).toHaveLength(before);
  });
});

describe('reconciliation', () => {
  it('runs right after the start, then about every ten minutes', async () => {
    await agentOfFakes().start();
    expect(events).not.toContain('reconcile');
    expect(clock.fire()).toBe(0);
    await settle();
    expect(events.filter((event) => event === 'reconcile')).toHaveLength(1);
    const delays = clock.waiting.map(({ delayMs }) => delayMs);
    expect(Math.max(...delays)).toBeGreaterThan(500_000);
    expect(Math.max(...delays)).toBeLessThan(700_000);
  });

  it('on demand joins the run that is under way', async () => {
    let finish: (report: ReconcileReport) => void = () => undefined;
    reconcile = () => new Promise((resolve) => (finish = resolve));
    const agent = agentOfFakes();
    await agent.start();
    const both = [agent.reconcile(), agent.reconcile()];
    const report = { removed: ['port vu1'], unfinished: [], unknown: [] };
    finish(report);
    expect(await Promise.all(both)).toEqual([report, report]);
    expect(events.filter((event) => event === 'reconcile')).toHaveLength(1);
    expect(events).toContain('reconciled ok');
  });

  it('that could not ask everything is counted as incomplete', async () => {
    reconcile = async () => ({ ...nothingDone, unknown: ['OVS ports: ENOENT'] });
    const agent = agentOfFakes();
    await agent.start();
    await agent.reconcile();
    expect(events).toContain('reconciled incomplete');
  });

  it('that fails is counted, told to who asked, and tried again at its time', async () => {
    reconcile = () => Promise.reject(new Error('OVSDB is away'));
    const agent = agentOfFakes();
    await agent.start();
    await expect(agent.reconcile()).rejects.toThrow('OVSDB is away');
    expect(events).toContain('reconciled failed');
    clock.fire();
    await settle();
    expect(clock.waiting.some(({ delayMs }) => delayMs > 500_000)).toBe(true);
  });
});
