/** Starts `transfer.ts` in two pods and waits for both ends: one connection, equal hashes. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Cleanup } from './cleanup.ts';
import type { Inside } from './netns.ts';
import { type Daemon, until } from './process.ts';

const script = fileURLToPath(new URL('./transfer.ts', import.meta.url));

export interface TransferEnd {
  readonly bytes: number;
  readonly sha256: string;
  readonly tuple: string;
}

function lines(daemon: Daemon): string[] {
  return readFileSync(daemon.logPath, 'utf8').split('\n');
}

function resultOf(daemon: Daemon): TransferEnd {
  const line = lines(daemon).find((candidate) => candidate.startsWith('{'));
  if (line === undefined)
    throw new Error(`${daemon.name} ended (${daemon.exit}) without a result:\n${daemon.logTail()}`);
  return JSON.parse(line) as TransferEnd;
}

export class TcpTransfer {
  readonly tuple: string;
  readonly #sender: Daemon;
  readonly #receiver: Daemon;

  private constructor(tuple: string, sender: Daemon, receiver: Daemon) {
    this.tuple = tuple;
    this.#sender = sender;
    this.#receiver = receiver;
  }

  /** Returns when the connection is established. */
  static async start(
    from: Inside,
    to: Inside,
    toAddress: string,
    load: { readonly port: number; readonly mebibytes: number; readonly mebibytesPerSecond: number },
    logDirectory: string,
    cleanup: Cleanup,
  ): Promise<TcpTransfer> {
    const node = [process.execPath, '--no-warnings', script] as const;
    const receiver = to.daemon(
      'receiver',
      join(logDirectory, `receiver-${load.port}.log`),
      ...node,
      'receive',
      String(load.port),
    );
    cleanup.add('receiver', () => receiver.stop('SIGKILL'));
    await until('the receiver', () => lines(receiver).includes('listening'));
    const sender = from.daemon(
      'sender',
      join(logDirectory, `sender-${load.port}.log`),
      ...node,
      'send',
      toAddress,
      String(load.port),
      String(load.mebibytes),
      String(load.mebibytesPerSecond),
    );
    cleanup.add('sender', () => sender.stop('SIGKILL'));
    const tuple = await until('the connection', () => {
      if (!sender.alive) throw new Error(`the sender ended (${sender.exit}):\n${sender.logTail()}`);
      return (
        lines(sender)
          .find((line) => line.startsWith('connected '))
          ?.slice(10) ?? null
      );
    });
    return new TcpTransfer(tuple, sender, receiver);
  }

  /** Makes the sender stop where it is; throws when the connection has ended before. */
  end(): void {
    if (!this.#sender.alive)
      throw new Error(`the sender ended early (${this.#sender.exit}):\n${this.#sender.logTail()}`);
    process.kill(this.#sender.pid, 'SIGTERM');
  }

  /** Both ends, when the transfer is over. */
  async finish(timeoutMs: number): Promise<{ readonly sent: TransferEnd; readonly received: TransferEnd }> {
    await until('the transfer to end', () => !this.#sender.alive && !this.#receiver.alive, timeoutMs, 50);
    return { sent: resultOf(this.#sender), received: resultOf(this.#receiver) };
  }
}
