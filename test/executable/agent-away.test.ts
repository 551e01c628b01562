/** Every verb with an agent that is away, stalls, or comes late. All calls run at once, as most of them only wait. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from '@jest/globals';
import { type Called, callEnvironment, errorOf, Place } from './support/call.ts';
import { answer } from './support/frame.ts';
import { ScriptedAgent, type Script } from './support/scripted-agent.ts';

const verbs = ['ADD', 'DEL', 'CHECK', 'GC', 'STATUS'] as const;
type VerbName = (typeof verbs)[number];

/** What the agent does for the whole of the call. */
const situations = {
  'has no socket': null,
  'closes each connection': ({ socket }) => socket.destroy(),
  'never answers': () => undefined,
  'stalls within the answer': ({ socket }) => socket.write(answer('{', { bodyBytes: 100 })),
} as const satisfies Record<string, Script | null>;
type Situation = keyof typeof situations;

interface Scene {
  readonly place: Place;
  readonly called: Promise<Called>;
  readonly agent: ScriptedAgent | null;
}

const scenes = new Map<string, Scene>();

function play(verb: VerbName, situation: Situation): Scene {
  const scene = scenes.get(`${verb} ${situation}`);
  if (scene === undefined) throw new Error(`no scene ${verb} ${situation}`);
  return scene;
}

beforeAll(async () => {
  for (const verb of verbs) {
    for (const [situation, script] of Object.entries(situations)) {
      // A stalled ADD takes a minute; what differs from the others is a number that request.test.ts sees in the frame.
      if (verb === 'ADD' && script !== null && situation !== 'closes each connection') continue;
      const place = await Place.make();
      const agent = script === null ? null : await ScriptedAgent.listen(place.socket, script);
      scenes.set(`${verb} ${situation}`, { place, agent, called: place.call(callEnvironment(verb)) });
    }
  }
});

afterAll(async () => {
  for (const { place, agent } of scenes.values()) {
    await agent?.[Symbol.asyncDispose]();
    await place[Symbol.asyncDispose]();
  }
});

const slowMachineMs = 10_000;

/** @param otherMs what it would take if it waited for something else */
function expectDuration(called: Called, atLeastMs: number, otherMs = Infinity): void {
  expect(called.durationMs).toBeGreaterThanOrEqual(atLeastMs);
  expect(called.durationMs).toBeLessThan(Math.min(atLeastMs + slowMachineMs, otherMs));
}

describe('an agent that is away', () => {
  const expected = [
    ['ADD', 'has no socket', 11, 20_000, 'No such file or directory'],
    ['ADD', 'closes each connection', 11, 20_000, 'closed the connection'],
    ['CHECK', 'has no socket', 11, 1000, 'No such file or directory'],
    ['CHECK', 'closes each connection', 11, 1000, 'closed the connection'],
    ['GC', 'has no socket', 11, 1000, 'No such file or directory'],
    ['GC', 'closes each connection', 11, 1000, 'closed the connection'],
    ['STATUS', 'has no socket', 50, 5000, 'No such file or directory'],
    ['STATUS', 'closes each connection', 50, 5000, 'closed the connection'],
  ] as const;
  it.each(expected)('fails %s when it %s: code %i after %i ms', async (verb, situation, code, afterMs, said) => {
    const { called, agent, place } = play(verb, situation);
    const finished = await called;
    const error = errorOf(finished);
    expect(error).toMatchObject({ cniVersion: '1.0.0', code });
    expect(error.msg).toContain(said);
    if (agent === null) expect(error.msg).toContain(place.socket);
    expect(error.details).toContain(`tried for ${afterMs} ms, is the virtio-user-cni agent running`);
    // An agent that stalls costs a CHECK 5 s.
    expectDuration(finished, afterMs, verb === 'CHECK' ? 5000 : Infinity);
    // Once every 100 ms; in a single second a busy machine may come to one.
    if (agent !== null && afterMs > 1000) expect(agent.connections).toBeGreaterThan(1);
    if (agent !== null) expect(agent.connections).toBeLessThanOrEqual(2 + afterMs / 100);
  });
});

describe('an agent that stalls', () => {
  const expected = (['never answers', 'stalls within the answer'] as const).flatMap((situation) => [
    ['CHECK', situation, 11, 5000] as const,
    ['GC', situation, 11, 25_000] as const,
    ['STATUS', situation, 50, 7000] as const,
  ]);
  it.each(expected)(
    'fails %s when it %s: code %i after %i ms',
    async (verb, situation, code, afterMs) => {
      const { called, agent } = play(verb, situation);
      const finished = await called;
      const error = errorOf(finished);
      expect(error.code).toBe(code);
      expect(error.msg).toContain('in time');
      expect(error.details).toContain(`${verb} has ${afterMs} ms`);
      expectDuration(finished, afterMs);
      expect(await agent?.only.rest).toBe('');
    },
    60_000,
  );
});

describe('a DEL', () => {
  it.each([
    ['has no socket', 3000],
    ['closes each connection', 3000],
    ['never answers', 32_000],
    ['stalls within the answer', 32_000],
  ] as const)(
    'succeeds when the agent %s, after %i ms, being queued',
    async (situation, afterMs) => {
      const { called, place } = play('DEL', situation);
      const finished = await called;
      expect(finished).toMatchObject({ code: 0, stdout: '', stderr: '' });
      // A lock that somebody holds costs 3 s.
      expectDuration(finished, afterMs, afterMs === 3000 ? 6000 : Infinity);
      const entries = readdirSync(join(place.stateDir, 'delete-queue')).filter((name) => name !== 'lock');
      expect(entries).toEqual([expect.stringMatching(/^\d+\.\d{9}-\d+\.req$/)]);
    },
    60_000,
  );

  it.each(['ADD', 'CHECK', 'GC', 'STATUS'] as const)(
    'alone is queued, never %s',
    async (verb) => {
      const { called, place } = play(verb, 'has no socket');
      await called;
      expect(readdirSync(place.directory)).toEqual([]);
    },
    60_000,
  );
});

describe('an agent that comes late', () => {
  it('serves a waiting ADD, a waiting DEL and a waiting STATUS', async () => {
    await using place = await Place.make();
    const calls = ['ADD', 'DEL', 'STATUS'].map((verb) => place.call(callEnvironment(verb)));
    // The executable gives no sign while it waits; the time only makes the first attempts fail. After 3 s the DEL is
    // queued.
    await new Promise((resolve) => setTimeout(resolve, 300));
    await using agent = await ScriptedAgent.listen(place.socket, ({ socket, request }) =>
      socket.write(answer(request.verb === 1 ? '{"ips":[]}' : '')),
    );
    const [add, del, status] = await Promise.all(calls);
    expect(add).toMatchObject({ code: 0, stdout: '{"ips":[]}' });
    expect(del).toMatchObject({ code: 0, stdout: '' });
    expect(status).toMatchObject({ code: 0, stdout: '' });
    expect(agent.conversations.length).toBe(3);
    expect(readdirSync(place.directory)).toEqual(['agent.sock']);
  });

  it('is told the time that is left then', async () => {
    await using place = await Place.make();
    let refused = 0;
    await using agent = await ScriptedAgent.listen(place.socket, ({ socket }) => {
      if (refused++ < 5) socket.destroy();
      else socket.write(answer());
    });
    expect(await place.call(callEnvironment('ADD'))).toMatchObject({ code: 0 });
    const times = agent.conversations.map(({ request }) => request.timeLeftMs);
    expect(times.length).toBe(6);
    for (let i = 1; i < times.length; i++) expect((times[i - 1] ?? 0) - (times[i] ?? 0)).toBeGreaterThanOrEqual(99);
  });
});
