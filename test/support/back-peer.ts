/** The backend's end of a back channel: says whatever a test wants, and remembers what it is answered. */
import type { NativeFd, SocketHandlers } from '../../src/native/binding.ts';
import { encodeMessage, needReplyFlag, versionFlag } from '../../src/vhost-user/header.ts';
import type { FdLedger, MemorySocket } from './memory-socket.ts';
import type { ScriptedBackend } from './scripted-backend.ts';

export const configChange = 2;

/** A request; `asks`: with need_reply. */
export function backMessage(number: number, payload: Uint8Array = Buffer.alloc(0), asks = true): Buffer {
  return encodeMessage(number, asks ? versionFlag | needReplyFlag : versionFlag, payload);
}

export class BackPeer implements SocketHandlers {
  /** Answers as `request: code`; what is no answer, in hex. */
  readonly answers: string[] = [];
  /** The frontend has closed its end. */
  closed = false;
  readonly socket: MemorySocket;
  /** Called with each answer. */
  onAnswer: () => void = () => {};

  constructor(backend: ScriptedBackend, ledger: FdLedger) {
    if (backend.backChannel === null) throw new Error('no back channel was handed over');
    this.socket = ledger.socketOf(backend.backChannel).attach(this);
  }

  readonly onData = (bytes: Buffer): void => {
    for (let at = 0; at < bytes.length; at += 20) {
      const answer = bytes.subarray(at, at + 20);
      const good = answer.length === 20 && answer.readUInt32LE(4) === 0x5 && answer.readUInt32LE(8) === 8;
      this.answers.push(
        good ? `${answer.readUInt32LE(0)}: ${answer.readBigUInt64LE(12)}` : `not an answer: ${answer.toString('hex')}`,
      );
    }
    this.onAnswer();
  };

  readonly onClose = (): void => {
    this.closed = true;
  };

  say(bytes: Uint8Array, fds: readonly NativeFd[] = []): void {
    this.socket.send(bytes, fds);
  }
}
