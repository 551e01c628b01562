/**
 * Datagrams in bursts, all of which must arrive, unchanged and in order.
 *   burst.ts serve PORT               answers each burst with the hash of what came, until it is ended
 *   burst.ts drive HOST PORT BURSTS   sends them; prints {@link Driven} as one JSON line
 * A burst is up to 60 datagrams (they fit the default receive buffer of a socket) of random content; many have the length
 * of the one before. One that is lost, changed or overtaken ends the driver with exit code 1 and what it was.
 */
import { createHash, randomBytes, randomInt } from 'node:crypto';
import { createSocket, type Socket } from 'node:dgram';
import { once } from 'node:events';
import { isIPv6 } from 'node:net';

export interface Driven {
  readonly bursts: number;
  readonly datagrams: number;
}

/** In front of each datagram: number of the burst, and how many it has. */
const headBytes = 8;
const mostDatagrams = 60;
const mostBytes = 1452; // IPv6 over Ethernet
const lostAfterMs = 10_000;

const digest = (datagrams: readonly Uint8Array[]): string => {
  const hash = createHash('sha256');
  for (const bytes of datagrams) hash.update(`${bytes.length}:`).update(bytes);
  return hash.digest('hex');
};

function serve(port: number): void {
  const socket = createSocket('udp6');
  let burst: Buffer[] = [];
  socket.on('message', (bytes, from) => {
    if (bytes.readUInt32BE(0) !== burst[0]?.readUInt32BE(0)) burst = [];
    burst.push(bytes);
    if (burst.length !== bytes.readUInt32BE(4)) return;
    socket.send(digest(burst), from.port, from.address);
    burst = [];
  });
  socket.bind(port, () => process.stdout.write('listening\n'));
}

function makeBurst(number: number, count: number): Buffer[] {
  let length = headBytes + randomInt(64);
  return Array.from({ length: count }, () => {
    if (randomInt(8) === 0) length = headBytes + randomInt(randomInt(2) === 0 ? 64 : mostBytes - headBytes);
    const bytes = randomBytes(length);
    bytes.writeUInt32BE(number, 0);
    bytes.writeUInt32BE(count, 4);
    return bytes;
  });
}

async function send(socket: Socket, datagrams: readonly Buffer[], port: number, host: string): Promise<string> {
  const answer = once(socket, 'message', { signal: AbortSignal.timeout(lostAfterMs) }) as Promise<[Buffer]>;
  for (const bytes of datagrams) socket.send(bytes, port, host);
  return (await answer)[0].toString();
}

async function drive(host: string, port: number, bursts: number): Promise<Driven> {
  const socket = createSocket(isIPv6(host) ? 'udp6' : 'udp4');
  try {
    let datagrams = 0;
    for (let number = 0; number < bursts; number++) {
      // One alone first: while the neighbour is unknown the kernel keeps only a few frames for it.
      const burst = makeBurst(number, number === 0 ? 1 : 1 + randomInt(mostDatagrams));
      const came = await send(socket, burst, port, host).catch(() => 'no answer');
      if (came !== digest(burst)) {
        const lengths = burst.map((bytes) => bytes.length).join(' ');
        throw new Error(`burst ${number} was lost, changed or overtaken (${came}); lengths ${lengths}`);
      }
      datagrams += burst.length;
    }
    return { bursts, datagrams };
  } finally {
    socket.close();
  }
}

const [mode, ...args] = process.argv.slice(2);
if (mode === 'serve') {
  serve(Number(args[0]));
} else if (mode === 'drive') {
  process.stdout.write(`${JSON.stringify(await drive(args[0] ?? '', Number(args[1]), Number(args[2])))}\n`);
} else {
  throw new Error('usage: burst.ts serve PORT | drive HOST PORT BURSTS');
}
