/** Operations that fail, and processes that die, at a moment of the test's choice. */
import { AsyncLocalStorage } from 'node:async_hooks';

export function fault(code: string, syscall = 'fake'): Error {
  return Object.assign(new Error(`${syscall}: ${code}`), { code, errno: 1, syscall });
}

/** Where a process may be killed or an operation may fail: every operation of every fake passes here, counted. */
export class Gate {
  count = 0;
  names: string[] = [];
  #at = 0;
  #kind: 'fail' | 'kill-before' | 'kill-after' = 'fail';
  #filter: (name: string) => boolean = () => true;
  /** Whoever was begun by a process that has died stays dead, however late its disk answers. */
  readonly #lives = new AsyncLocalStorage<{ dead: boolean }>();
  #life = { dead: false };

  arm(at: number, kind: 'fail' | 'kill-before' | 'kill-after', filter: (name: string) => boolean = () => true): void {
    this.count = 0;
    this.names = [];
    this.#at = at;
    this.#kind = kind;
    this.#filter = filter;
    if (this.#life.dead) this.#life = { dead: false };
  }

  disarm(): void {
    this.arm(0, 'fail');
  }

  /** The process is gone; what comes now belongs to the next one. */
  kill(): void {
    this.#life.dead = true;
    this.disarm();
  }

  /** What `work` begins belongs to the process of this moment. */
  within<T>(work: () => T): T {
    return this.#lives.run(this.#life, work);
  }

  get struck(): boolean {
    return this.#at > 0 && this.count >= this.#at;
  }

  /** Resolves when the armed operation was reached by a process that died of it. */
  died: Promise<void> = new Promise(() => undefined);
  #onDeath: () => void = () => undefined;

  expectDeath(): Promise<void> {
    this.died = new Promise((resolve) => {
      this.#onDeath = resolve;
    });
    return this.died;
  }

  async pass<T>(name: string, work: () => T | Promise<T>): Promise<T> {
    const life = this.#lives.getStore() ?? this.#life;
    if (life.dead) return new Promise(() => undefined);
    if (this.#filter(name)) {
      this.count += 1;
      this.names.push(name);
      if (this.count === this.#at) {
        if (this.#kind === 'fail') throw fault('ENOSPC', name);
        life.dead = true;
        if (this.#kind === 'kill-after') await Promise.resolve(work()).catch(() => undefined); // nobody hears of it
        this.#onDeath();
        return new Promise(() => undefined);
      }
    }
    return work();
  }
}
