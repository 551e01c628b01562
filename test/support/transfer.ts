/**
 * A paced TCP transfer whose content both ends hash: `receive PORT` in one pod, `send HOST PORT MIB MIB_PER_SECOND` in
 * the other. Each prints one JSON line at the end: {bytes, sha256, tuple}. The sender never reconnects, so that equal
 * hashes prove that one connection carried everything. SIGTERM makes the sender end after the block under way.
 */
import { createHash, type Hash } from 'node:crypto';
import { createServer, connect, type Socket } from 'node:net';

function report(bytes: number, hash: Hash, tuple: string): void {
  process.stdout.write(`${JSON.stringify({ bytes, sha256: hash.digest('hex'), tuple })}\n`);
}

function receive(port: number): void {
  const server = createServer((socket) => {
    server.close();
    const hash = createHash('sha256');
    const tuple = `${socket.remoteAddress}:${socket.remotePort}>${socket.localAddress}:${socket.localPort}`;
    let bytes = 0;
    socket.on('data', (chunk) => {
      bytes += chunk.length;
      hash.update(chunk);
    });
    socket.on('end', () => {
      report(bytes, hash, tuple);
      socket.end();
    });
  });
  server.listen(port, () => process.stdout.write('listening\n'));
}

/** 1 MiB that differs from its neighbours, made from its number. */
function block(index: number): Buffer {
  const seed = createHash('sha512').update(`block ${index}`).digest();
  return Buffer.concat(Array.from({ length: (1 << 20) / seed.length }, () => seed));
}

function send(host: string, port: number, mebibytes: number, mebibytesPerSecond: number): void {
  let ending = false;
  process.once('SIGTERM', () => (ending = true)); // before anybody is told of the connection
  const socket: Socket = connect(port, host, () => {
    const hash = createHash('sha256');
    const tuple = `${socket.localAddress}:${socket.localPort}>${socket.remoteAddress}:${socket.remotePort}`;
    process.stdout.write(`connected ${tuple}\n`);
    const startedMs = performance.now();
    let sent = 0;
    const step = (): void => {
      if (ending || sent === mebibytes) {
        socket.end();
        return;
      }
      const chunk = block(sent++);
      hash.update(chunk);
      socket.write(chunk, () => {
        const dueMs = startedMs + (sent / mebibytesPerSecond) * 1000;
        setTimeout(step, Math.max(0, dueMs - performance.now()));
      });
    };
    socket.on('close', () => report(sent * (1 << 20), hash, tuple));
    step();
  });
}

const [mode, ...args] = process.argv.slice(2);
if (mode === 'receive') receive(Number(args[0]));
else if (mode === 'send') send(args[0] ?? '', Number(args[1]), Number(args[2]), Number(args[3]));
else throw new Error('usage: transfer.ts receive PORT | send HOST PORT MIB MIB_PER_SECOND');
