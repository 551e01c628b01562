import { describe, expect, it } from '@jest/globals';
import { Admission } from '../../../src/cni/admission.ts';

const patient = new AbortController().signal;

function gate(): { readonly open: () => void; readonly work: () => Promise<void> } {
  const { promise, resolve } = Promise.withResolvers<undefined>();
  return { open: () => resolve(undefined), work: () => promise };
}

describe('admission', () => {
  it('runs so many at once, the others in the order they came', async () => {
    const admission = new Admission({ what: 'ADD', running: 2, runningOfGroup: 2, waiting: 10 });
    const started: number[] = [];
    const gates = Array.from({ length: 5 }, gate);
    const runs = gates.map(({ work }, index) =>
      admission.run('net', patient, () => {
        started.push(index);
        return work();
      }),
    );
    expect(started).toEqual([0, 1]);
    gates[1]?.open();
    await runs[1];
    expect(started).toEqual([0, 1, 2]);
    gates.forEach(({ open }) => open());
    await Promise.all(runs);
    expect(started).toEqual([0, 1, 2, 3, 4]);
  });

  it('turns away what finds the queue full', async () => {
    const admission = new Admission({ what: 'ADD', running: 1, runningOfGroup: 1, waiting: 1 });
    const first = gate();
    const running = admission.run('net', patient, first.work);
    const waiting = admission.run('net', patient, async () => {});
    await expect(admission.run('net', patient, async () => {})).rejects.toMatchObject({
      code: 'RESOURCE_EXHAUSTED',
      message: 'ADD: 1 run and 1 wait already',
    });
    first.open();
    await Promise.all([running, waiting]);
  });

  it('forgets a caller that left the queue; its place is free again', async () => {
    const admission = new Admission({ what: 'ADD', running: 1, runningOfGroup: 1, waiting: 1 });
    const first = gate();
    const running = admission.run('net', patient, first.work);
    const leaving = new AbortController();
    const left = admission.run('net', leaving.signal, () => Promise.reject(new Error('must not run')));
    leaving.abort(new Error('the caller closed the connection'));
    await expect(left).rejects.toMatchObject({
      code: 'CANCELLED',
      message: 'ADD waited for its turn: the caller closed the connection',
    });
    await expect(admission.run('net', leaving.signal, async () => {})).rejects.toMatchObject({ code: 'CANCELLED' });
    const next = admission.run('net', patient, async () => 'ran');
    first.open();
    await running;
    expect(await next).toBe('ran');
  });

  it('goes on after work that failed', async () => {
    const admission = new Admission({ what: 'ADD', running: 1, runningOfGroup: 1, waiting: 5 });
    const failing = admission.run('net', patient, () => Promise.reject(new Error('x')));
    const next = admission.run('net', patient, async () => 'ran');
    await expect(failing).rejects.toThrow('x');
    expect(await next).toBe('ran');
    expect(await admission.run('net', patient, async () => 'again')).toBe('again');
  });

  it('a group that uses all it may have holds up no other one', async () => {
    const admission = new Admission({ what: 'ADD', running: 4, runningOfGroup: 2, waiting: 10 });
    const hanging = gate();
    const hung = Array.from({ length: 6 }, () => admission.run('dead switch', patient, hanging.work));
    expect(await admission.run('healthy', patient, async () => 'ran')).toBe('ran');
    hanging.open();
    await Promise.all(hung);
  });

  it('a caller that leaves as its group ends takes nothing from the next group of that name', async () => {
    const admission = new Admission({ what: 'ADD', running: 9, runningOfGroup: 1, waiting: 10 });
    const [first, second] = [gate(), gate()];
    const leaving = new AbortController();
    const started: string[] = [];
    const ended = admission.run('net', patient, first.work);
    const left = admission.run('net', leaving.signal, async () => {}).catch(() => undefined);
    first.open();
    queueMicrotask(() => {
      void admission.run('net', patient, () => {
        started.push('second');
        return second.work();
      });
    });
    leaving.abort(new Error('gone'));
    await Promise.all([ended, left]);
    const third = admission.run('net', patient, async () => void started.push('third'));
    expect(started).toEqual(['second']);
    second.open();
    await third;
  });

  it('free places go to the groups in turn, and within one in the order they came', async () => {
    const admission = new Admission({ what: 'ADD', running: 1, runningOfGroup: 1, waiting: 10 });
    const first = gate();
    const started: string[] = [];
    const runs = [admission.run('a', patient, first.work)];
    for (const call of ['a1', 'a2', 'a3', 'b1', 'b2', 'c1']) {
      runs.push(admission.run(call.slice(0, 1), patient, async () => void started.push(call)));
    }
    first.open();
    await Promise.all(runs);
    expect(started).toEqual(['a1', 'b1', 'c1', 'a2', 'b2', 'a3']);
  });

  it('places of groups that are gone serve others: never more than the whole, and none is lost', async () => {
    const admission = new Admission({ what: 'ADD', running: 3, runningOfGroup: 2, waiting: 100 });
    let running = 0;
    let most = 0;
    const work = async (): Promise<void> => {
      running += 1;
      most = Math.max(most, running);
      await new Promise((resolve) => setImmediate(resolve));
      running -= 1;
    };
    for (let round = 0; round < 3; round += 1) {
      await Promise.all(Array.from({ length: 60 }, (_, index) => admission.run(`group ${index % 7}`, patient, work)));
    }
    expect([running, most]).toEqual([0, 3]);
  });
});
