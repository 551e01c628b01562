/** Unix sockets whose owner answers a vhost-user frontend badly, whoever of the two connects. */
import { renameSync } from 'node:fs';
import { connect, createServer, type Socket } from 'node:net';
import { once } from 'node:events';
import { encodeMessage, needReplyFlag, replyFlags } from '../../src/vhost-user/header.ts';
import { protocolFeatureMask } from '../../src/vhost-user/protocol-feature.ts';
import type { Cleanup } from './cleanup.ts';
import { until } from './process.ts';
import { dpdkOffer } from './scripted-backend.ts';
import { MessageReader } from './wire.ts';

const behaviours = {
  'closes at once': (socket: Socket) => socket.destroy(),
  'never answers': (socket: Socket) => socket.resume(),
  'answers nonsense': (socket: Socket) => {
    socket.on('data', () => socket.write('HTTP/1.1 400 Bad Request\r\n\r\n'));
  },
  'announces 4 GiB': (socket: Socket) => {
    const header = encodeMessage(1, replyFlags, Buffer.alloc(0));
    header.writeUInt32LE(0xffff_ffff, 8);
    socket.on('data', () => socket.write(header));
  },
  floods: (socket: Socket) => {
    const pour = (): void => {
      while (!socket.destroyed && socket.write(Buffer.alloc(65536, 0x5a)));
    };
    socket.on('drain', pour);
    socket.on('data', pour);
  },
  'refuses what it is told': (socket: Socket) => {
    const reader = new MessageReader();
    socket.on('data', (chunk: Buffer) => {
      for (const { name, request, flags } of reader.push(chunk, [])) {
        const answer = refusal(name, (flags & needReplyFlag) !== 0);
        if (answer === null) continue;
        const payload = Buffer.alloc(8);
        payload.writeBigUInt64LE(answer);
        socket.write(encodeMessage(request, replyFlags, payload));
      }
    });
  },
} as const;

export type Rudeness = keyof typeof behaviours;
export const rudenesses = Object.keys(behaviours) as Rudeness[];

/** Questions are answered as DPDK does; what wants an acknowledgement gets a refusal. */
function refusal(name: string, needsReply: boolean): bigint | null {
  if (name === 'GET_FEATURES') return dpdkOffer.features;
  if (name === 'GET_PROTOCOL_FEATURES') return protocolFeatureMask('REPLY_ACK');
  return needsReply ? 1n : null;
}

/** Listens: for a frontend in client mode. */
export async function rudeBackend(path: string, rudeness: Rudeness, cleanup: Cleanup): Promise<void> {
  const sockets = new Set<Socket>();
  const server = createServer((socket) => {
    sockets.add(socket);
    socket.on('error', () => undefined);
    socket.on('close', () => sockets.delete(socket));
    behaviours[rudeness](socket);
  });
  server.listen(path);
  await once(server, 'listening');
  cleanup.add(`backend that ${rudeness}`, () => {
    for (const socket of sockets) socket.destroy();
    server.close();
  });
}

/** A socket file whose owner is gone: connecting is refused. */
export async function deadSocket(path: string): Promise<void> {
  const server = createServer();
  server.listen(`${path}.alive`);
  await once(server, 'listening');
  renameSync(`${path}.alive`, path); // else it would go with its server
  server.close();
  await once(server, 'close');
}

/** Connects to a frontend in server mode as soon as it listens, and again whenever it was cut off. */
export class RudeCaller {
  readonly #path: string;
  readonly #rudeness: Rudeness;
  readonly #ended: Promise<void>;
  #socket: Socket | null = null;
  #hungUp = false;
  #calls = 0;

  constructor(path: string, rudeness: Rudeness, cleanup: Cleanup) {
    this.#path = path;
    this.#rudeness = rudeness;
    this.#ended = this.#callAgainAndAgain();
    cleanup.add(`backend that calls and ${rudeness}`, () => this.hangUp());
  }

  /** How often it was connected so far. */
  get calls(): number {
    return this.#calls;
  }

  /** How often it was connected. */
  async hangUp(): Promise<number> {
    this.#hungUp = true;
    this.#socket?.destroy();
    await this.#ended;
    return this.#calls;
  }

  async #callAgainAndAgain(): Promise<void> {
    while (!this.#hungUp) {
      const socket = await until('somebody listens', async () => (this.#hungUp ? 'over' : this.#call()), 60_000);
      if (socket === 'over') return;
      this.#calls += 1;
      const closed = new Promise((resolve) => socket.once('close', resolve));
      behaviours[this.#rudeness](socket);
      await closed;
    }
  }

  async #call(): Promise<Socket | null> {
    const socket = connect(this.#path);
    this.#socket = socket;
    try {
      await once(socket, 'connect');
    } catch {
      return null;
    }
    socket.on('error', () => undefined);
    return socket;
  }
}
