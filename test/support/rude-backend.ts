/** Unix sockets that answer a vhost-user frontend badly; for client mode. */
import { createServer, type Socket } from 'node:net';
import { once } from 'node:events';
import type { Cleanup } from './cleanup.ts';

export type Rudeness = 'closes at once' | 'never answers' | 'answers nonsense' | 'announces 4 GiB' | 'floods';

const behaviours: Readonly<Record<Rudeness, (socket: Socket) => void>> = {
  'closes at once': (socket) => socket.destroy(),
  'never answers': (socket) => socket.resume(),
  'answers nonsense': (socket) => socket.on('data', () => socket.write('HTTP/1.1 400 Bad Request\r\n\r\n')),
  'announces 4 GiB': (socket) =>
    socket.on('data', () =>
      socket.write(Buffer.from('010000000500000000000000ffffffff'.slice(0, 16) + 'ffffffff', 'hex')),
    ),
  floods: (socket) => {
    const pour = (): void => {
      while (!socket.destroyed && socket.write(Buffer.alloc(65536, 0x5a)));
    };
    socket.on('drain', pour);
    socket.on('data', pour);
  },
};

export const rudenesses = Object.keys(behaviours) as Rudeness[];

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
