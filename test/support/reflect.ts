/**
 * Frames whose content is verified from end to end, through the kernel's own stack of two pods.
 *   reflect.ts serve PORT                        UDP and TCP that come back as they came, until it is ended
 *   reflect.ts drive HOST PORT JSON              traffic of {@link Load}; prints {@link Reflected} as one JSON line
 * Every datagram has random size and content of its own and must come back unchanged; TCP must bring back the same bytes
 * in the same order. Anything lost or changed ends the driver with exit code 1 and what it was.
 */
import { createHash, randomBytes, randomInt } from 'node:crypto';
import { createSocket } from 'node:dgram';
import { once } from 'node:events';
import { connect, createServer } from 'node:net';

export interface Load {
  /** UDP flows: one source port each, one datagram on its way at a time; 64 fit the receive buffer of one socket. */
  readonly flows: number;
  /** Of all flows together. */
  readonly datagrams: number;
  /** Largest payload. */
  readonly datagramBytes: number;
  readonly tcpBytes: number;
}

export interface Reflected {
  readonly datagrams: number;
  readonly datagramBytes: number;
  readonly tcpBytes: number;
}

const lostAfterMs = 10_000;
const blockBytes = 256 * 1024;

function serve(port: number): void {
  const udp = createSocket('udp4');
  udp.on('message', (bytes, from) => udp.send(bytes, from.port, from.address));
  const tcp = createServer({ allowHalfOpen: true }, (socket) => {
    socket.on('error', () => socket.destroy());
    socket.pipe(socket);
  });
  udp.bind(port, () => tcp.listen(port, () => process.stdout.write('listening\n')));
}

/** One flow; resolves with the payload bytes that came back. */
async function flow(host: string, port: number, datagrams: number, maximum: number): Promise<number> {
  const socket = createSocket('udp4');
  const pool = randomBytes(2 * maximum);
  try {
    let total = 0;
    await new Promise<void>((resolve, reject) => {
      let sent = Buffer.alloc(0);
      let done = 0;
      let answered = true;
      const watch = setInterval(() => {
        if (!answered) reject(new Error(`datagram ${done} of ${sent.length} bytes was lost`));
        answered = false;
      }, lostAfterMs);
      const next = (): void => {
        if (done === datagrams) {
          clearInterval(watch);
          resolve();
          return;
        }
        const start = randomInt(maximum);
        sent = Buffer.from(pool.subarray(start, start + 1 + randomInt(maximum)));
        socket.send(sent, port, host);
      };
      socket.on('message', (bytes) => {
        answered = true;
        if (!bytes.equals(sent)) {
          reject(new Error(`datagram ${done}: ${sent.length} bytes came back as ${bytes.length}, or changed`));
          return;
        }
        total += bytes.length;
        done += 1;
        next();
      });
      socket.on('error', reject);
      next();
    });
    return total;
  } finally {
    socket.close();
  }
}

async function stream(host: string, port: number, bytes: number): Promise<void> {
  const socket = connect({ host, port, allowHalfOpen: true });
  socket.setTimeout(45_000, () => socket.destroy(new Error('TCP stream stalls')));
  const sent = createHash('sha256');
  const received = createHash('sha256');
  let back = 0;
  socket.on('data', (chunk: Buffer) => {
    received.update(chunk);
    back += chunk.length;
  });
  const ended = once(socket, 'end');
  const block = randomBytes(blockBytes);
  for (let left = bytes; left > 0; left -= blockBytes) {
    block.writeUInt32LE(left);
    const piece = Buffer.from(block.subarray(0, Math.min(left, blockBytes)));
    sent.update(piece);
    if (!socket.write(piece)) await Promise.race([once(socket, 'drain'), ended]);
  }
  socket.end();
  await ended;
  if (back !== bytes) throw new Error(`TCP brought back ${back} of ${bytes} bytes`);
  if (sent.digest('hex') !== received.digest('hex')) throw new Error('TCP brought back other bytes');
}

async function drive(host: string, port: number, load: Load): Promise<void> {
  const perFlow = Math.ceil(load.datagrams / load.flows);
  // One alone first: while the neighbour is unknown the kernel keeps only a few frames for it.
  await flow(host, port, 1, 1);
  const flows = Array.from({ length: load.flows }, () => flow(host, port, perFlow, load.datagramBytes));
  const bytes = (await Promise.all(flows)).reduce((sum, one) => sum + one, 0);
  await stream(host, port, load.tcpBytes);
  const result: Reflected = { datagrams: perFlow * load.flows, datagramBytes: bytes, tcpBytes: load.tcpBytes };
  process.stdout.write(`${JSON.stringify(result)}\n`, () => process.exit(0));
}

const [mode, ...args] = process.argv.slice(2);
if (mode === 'serve') {
  serve(Number(args[0]));
} else if (mode === 'drive') {
  drive(args[0] ?? '', Number(args[1]), JSON.parse(args[2] ?? '{}') as Load).catch((error: unknown) => {
    process.stderr.write(`${String(error)}\n`, () => process.exit(1));
  });
} else {
  throw new Error('usage: reflect.ts serve PORT | drive HOST PORT JSON');
}
