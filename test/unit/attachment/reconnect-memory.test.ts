/** Whose the memory of a connection is while the pumps still hold it: policy, device and sessions for real. */
import { afterEach, describe, expect, it } from '@jest/globals';
import { Reconnect } from '../../../src/attachment/reconnect.ts';
import { createVirtioUserDevice } from '../../../src/device/device.ts';
import type { FrontendSource, OnConnection } from '../../../src/device/frontend.ts';
import type { Session } from '../../../src/native/binding.ts';
import { featureMask } from '../../../src/virtio/feature.ts';
import { FakeClock, settle } from '../../support/fake-clock.ts';
import { FakePort } from '../../support/fake-device.ts';
import { FakeFrontend } from '../../support/fake-frontend.ts';
import { deviceOptions, fakeSessions } from '../../support/fake-session.ts';
import { FdLedger } from '../../support/memory-socket.ts';
import { RecordingLogger } from '../../support/recording-logger.ts';

/** Its pumps go on until they are let out. */
class SlowPort extends FakePort {
  owns: Session | null = null;
  readonly #out = Promise.withResolvers<undefined>();

  letOut(): void {
    this.#out.resolve(undefined);
  }

  override async start(session: Session): Promise<void> {
    this.owns = session;
    await super.start(session);
  }

  override async quiesce(): Promise<void> {
    await this.#out.promise;
    await super.quiesce();
    this.owns = null;
  }

  override async close(): Promise<void> {
    await this.#out.promise;
    await super.close();
    this.owns = null;
  }
}

class World {
  readonly sessions = fakeSessions(new FdLedger());
  readonly port: SlowPort;
  readonly reconnect: Reconnect;
  /** What the backend was told while the pumps had its memory. */
  readonly toldBesidePumps: string[] = [];
  #offer: OnConnection = () => undefined;
  #released = Promise.withResolvers<undefined>();

  constructor() {
    this.port = new SlowPort({ taps: [], pumps: [], onEvent: (event) => this.reconnect.portEvent(event) });
    const device = createVirtioUserDevice(
      deviceOptions(),
      (options) => {
        const session = this.sessions.create(options);
        const close = (): void => {
          if (this.port.owns === owned) throw new TypeError('close on a session that a port uses');
          session.close();
        };
        const owned = { ...session, close };
        return owned;
      },
      this.port,
    );
    const source: FrontendSource = {
      situation: '',
      open: (onConnection) => {
        this.#offer = onConnection;
      },
      close: () => undefined,
      clear: () => undefined,
    };
    this.reconnect = new Reconnect({
      identity: { id: 'vu000000000001', networkName: 'net', containerId: 'c', ifName: 'eth0', pod: null },
      configuredPairs: 1,
      port: this.port,
      device,
      createSource: () => source,
      holdMs: 1000,
      clock: new FakeClock(),
      log: new RecordingLogger(),
      onChange: () => undefined,
      onRunning: () => undefined,
      onCut: () => undefined,
      announcements: () => Promise.resolve([]),
      onAnnounced: () => undefined,
    });
    this.reconnect.open();
  }

  /** A backend that connects, runs and is lost: its port begins to quiesce. */
  async quiescing(): Promise<void> {
    let quiesces = false;
    const onCall = (call: string): void => {
      if (quiesces && this.port.owns !== null) this.toldBesidePumps.push(call);
    };
    const frontend = new FakeFrontend({ features: featureMask(0, 1, 5, 15, 32), onCall });
    this.#released = Promise.withResolvers<undefined>();
    this.#offer(frontend, () => this.#released.resolve(undefined));
    await settle();
    expect(this.reconnect.state).toBe('running');
    quiesces = true;
    // The connection ends for the port's sake: the backend itself lives and could still be told something.
    this.port.emit({ kind: 'ring-corrupt', reason: 'used id 4711' });
    await settle();
    expect(this.port.owns).not.toBeNull();
  }

  async finish(): Promise<void> {
    await settle();
    this.port.letOut();
    await this.#released.promise;
    await settle();
    expect(this.toldBesidePumps).toEqual([]);
  }
}

let world: World;
afterEach(() => world.port.letOut());

describe('a connection whose port is still quiescing', () => {
  it.each<[string, (reconnect: Reconnect) => unknown]>([
    ['a close', (reconnect) => void reconnect.close()],
    ['a reconnect on demand', (reconnect) => reconnect.reconnect()],
    ['the loss of its TAP', (reconnect) => reconnect.portEvent({ kind: 'tap-gone', reason: 'EBADFD' })],
  ])('keeps its memory through %s, and frees it when the pumps are out', async (_what, end) => {
    world = new World();
    await world.quiescing();
    end(world.reconnect);
    await world.finish();
    expect([world.sessions.made.length, world.sessions.open.size]).toEqual([1, 0]);
  });
});
