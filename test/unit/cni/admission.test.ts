import { describe, expect, it } from '@jest/globals';
import { Admission } from '../../../src/cni/admission.ts';

const patient = new AbortController().signal;

function gate(): { readonly open: () => void; readonly work: () => Promise<void> } {
  const { promise, resolve } = Promise.withResolvers<undefined>();
  return { open: () => resolve(undefined), work: () => promise };
}

describe('admission', () => {
  it('runs so many at once, the others in the order they came', async () => {
    const admission = new Admission({ what: 'ADD', running: 2, waiting: 10 });
    const started: number[] = [];
    const gates = Array.from({ length: 5 }, gate);
    const runs = gates.map(({ work }, index) =>
      admission.run(patient, () => {
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
    const admission = new Admission({ what: 'ADD', running: 1, waiting: 1 });
    const first = gate();
    const running = admission.run(patient, first.work);
    const waiting = admission.run(patient, async () => {});
    await expect(admission.run(patient, async () => {})).rejects.toMatchObject({
      code: 'RESOURCE_EXHAUSTED',
      message: 'ADD: 1 run and 1 wait already',
    });
    first.open();
    await Promise.all([running, waiting]);
  });

  it('forgets a caller that left the queue; its place is free again', async () => {
    const admission = new Admission({ what: 'ADD', running: 1, waiting: 1 });
    const first = gate();
    const running = admission.run(patient, first.work);
    const leaving = new AbortController();
    const left = admission.run(leaving.signal, () => Promise.reject(new Error('must not run')));
    leaving.abort(new Error('the caller closed the connection'));
    await expect(left).rejects.toMatchObject({
      code: 'CANCELLED',
      message: 'ADD waited for its turn: the caller closed the connection',
    });
    await expect(admission.run(leaving.signal, async () => {})).rejects.toMatchObject({ code: 'CANCELLED' });
    const next = admission.run(patient, async () => 'ran');
    first.open();
    await running;
    expect(await next).toBe('ran');
  });

  it('goes on after work that failed', async () => {
    const admission = new Admission({ what: 'ADD', running: 1, waiting: 5 });
    const failing = admission.run(patient, () => Promise.reject(new Error('x')));
    const next = admission.run(patient, async () => 'ran');
    await expect(failing).rejects.toThrow('x');
    expect(await next).toBe('ran');
    expect(await admission.run(patient, async () => 'again')).toBe('again');
  });
});
