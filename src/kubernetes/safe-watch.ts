/**
 * A Watch that always ends by calling `done`: the stock one throws into the void when a token or CA file is missing at
 * a reconnect. Server and client both bound its life, so that a revoked permission is noticed.
 */
import { type KubeConfig, Watch } from './client-node.ts';

type WatchArguments = Parameters<Watch['watch']>;

export class SafeWatch extends Watch {
  readonly #onOpen: () => void;

  /**
   * @param idleMs silence after which the connection is taken for dead and made anew
   * @param onOpen the server has accepted a watch; on a quiet node no event would tell
   */
  constructor(config: KubeConfig, idleMs: number, onOpen: () => void) {
    super(config);
    this.#onOpen = onOpen;
    Reflect.set(this, 'requestTimeoutMs', idleMs); // private in the typings; 30 s by default
  }

  override async watch(...[path, query, onEvent, done]: WatchArguments): Promise<AbortController> {
    const bounded = { ...query, allowWatchBookmarks: true, timeoutSeconds: 300 + Math.floor(Math.random() * 300) };
    const ended = new AbortController();
    try {
      const controller = await super.watch(path, bounded, onEvent, (error: unknown) => {
        ended.abort();
        done(error);
      });
      if (!controller.signal.aborted && !ended.signal.aborted) this.#onOpen();
      return controller;
    } catch (error) {
      queueMicrotask(() => done(error));
      return new AbortController();
    }
  }
}
